"""A tracking server that ends, fails or hangs: everything arrives exactly once, in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from search.catalog import Catalog
from search.catalog.outbox import backlog, pending
from search.tracking import Tracker
from tests.commands import free_port
from tests.dashboards.documents import document
from tests.search.recorded import Reader, begin, end_trial, wait_for


class Server:
    """A real ``mlflow server``, which may end and start again at the same address."""

    def __init__(self, backend: str, folder: Path) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        self.command += ["--workers", "1", "--backend-store-uri", backend, "--artifacts-destination", str(folder)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(self.command, env=environment, start_new_session=True, **quiet)
        wait_for(self._answers, seconds=60)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tracking_uri: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(tracking_uri, tmp_path / "served")
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_that_dies_and_returns_gets_everything_once_and_in_order(
    server: Server, sqlite: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    catalog = Catalog(sqlite)
    adapter = tmp_path / "adapters" / "4"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    tracker = Tracker(catalog, server.uri, tmp_path / "mlartifacts", lambda _: document())
    server.start()
    tracker.start()
    search = begin(catalog)
    end_trial(catalog, search, 7)
    wait_for(lambda: backlog(catalog) == 0)
    server.kill()
    end_trial(catalog, search, 4, adapter=str(adapter))
    end_trial(catalog, search, 2)
    wait_for(lambda: pending(catalog)[0].attempts > 0)
    server.start()
    catalog.set_status(search.id, "complete")
    assert tracker.stop(60) == 0

    reader = Reader(server.uri)
    assert list(reader.trials()) == [7, 4, 2]
    assert {run.info.status for run in reader.runs()} == {"FINISHED"}
    assert len(reader.runs("tags.front = 'true'")) == 3
    run = reader.trials()[4]
    loaded = Path(reader.client.download_artifacts(run.info.run_id, "adapter", str(tmp_path)))
    assert (loaded / "adapter_model.safetensors").read_bytes() == bytes(range(256))
    assert {file.path for file in reader.client.list_artifacts(reader.parent().info.run_id)} == {
        "front.html",
        "front.json",
    }
    with create_engine(catalog.url).connect() as connection:
        order = connection.scalars(text("SELECT id FROM catalog_outbox ORDER BY delivered_at")).all()
    assert order == sorted(order)
    assert len(order) == 5
    assert not (tmp_path / "mlartifacts").exists()
    assert capfd.readouterr().out == ""
    catalog.close()


@pytest.fixture(params=[503, 401, None])
def ailing(request: pytest.FixtureRequest) -> Iterator[str]:
    """URI of a server that gives every request this status; or takes it and never answers."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if request.param is None:
                ended.wait()
            else:
                self.send_error(request.param)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    ended.set()
    server.shutdown()
    server.server_close()


def test_a_server_that_fails_or_hangs_keeps_no_one_waiting(
    ailing: str, sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    catalog = Catalog(sqlite)
    end_trial(catalog, begin(catalog), 7)
    tracker = Tracker(catalog, ailing, tmp_path / "mlartifacts", lambda _: document())
    tracker.start()
    began = time.monotonic()
    assert tracker.stop(10) == 2
    assert time.monotonic() - began < 10
    assert [(row.attempts > 0, row.error is not None) for row in pending(catalog)] == [(True, True), (False, False)]
    catalog.close()

"""The MLflow server dies and returns while a search runs: the search goes on, and every run arrives once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from search.catalog import Catalog
from search.catalog.outbox import backlog, pending
from tests import forked
from tests.commands import QUICK, environment, free_port
from tests.search.recorded import Reader
from tests.waiting import answers, wait_for

#: Seconds without a server, at least: as long as a trial takes, unless more are asked for; then with trials to match.
OUTAGE_S = float(os.environ.get("TEST_OUTAGE_SECONDS", "0"))
BUDGET = 4 + round(2 * OUTAGE_S)
WEIGHTS = "adapter_model.safetensors"


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
        wait_for(lambda: answers(f"{self.uri}/health"), 60)

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
def test_a_search_outlives_its_tracking_server(server: Server, tmp_path: Path) -> None:
    """Everything arrives once and in order, and by way of the server."""
    server.start()
    home, output, error = tmp_path / "home", tmp_path / "stdout", tmp_path / "stderr"
    with (
        closing(Catalog(f"sqlite:///{home / 'search.db'}")) as catalog,
        create_engine(catalog.url).begin() as connection,
    ):
        connection.execute(text("CREATE TABLE told (id INTEGER)"))
        connection.execute(
            text("CREATE TRIGGER telling AFTER DELETE ON catalog_outbox BEGIN INSERT INTO told VALUES (OLD.id); END")
        )
    stores = ["--home", str(home), "--tracking-uri", server.uri, "--name", "s", "--budget", str(BUDGET)]
    with (
        closing(Catalog(f"sqlite:///{home / 'search.db'}")) as catalog,
        output.open("w") as out,
        error.open("w") as err,
        forked.started(
            forked.search, "run", *QUICK, *stores, "--json", environment=environment(), stdout=out, stderr=err
        ) as search,
    ):
        until = partial(wait_for, seconds=180, alive=search.is_alive, told=error.read_text, pause=0.1)
        until(lambda: any(catalog.trials(each.id) for each in catalog.searches()))
        server.kill()
        began = time.monotonic()
        (kept,) = catalog.searches()
        until(lambda: any(t.status == "complete" for t in catalog.trials(kept.id)))
        until(lambda: any(row.attempts > 0 for row in pending(catalog)))
        until(lambda: time.monotonic() - began > OUTAGE_S)
        waiting = [row.trial for row in pending(catalog) if row.kind == "trial"]
        waited, done = backlog(catalog), sum(t.status == "complete" for t in catalog.trials(kept.id))
        assert waiting, "what ended meanwhile waits"
        assert search.pid is not None
        os.kill(search.pid, signal.SIGSTOP)  # or it may be over before the server is back
        server.start()
        os.kill(search.pid, signal.SIGCONT)
        away = time.monotonic() - began
        search.join(240 + 4 * OUTAGE_S)
        print(f"away for {away:.0f} s, at whose end {done} of {BUDGET} trials were done and {waited} records waited")
        said = error.read_text()
        assert search.exitcode == 0, said[-3000:]
        assert "Traceback" not in said
        assert backlog(catalog) == 0
        with create_engine(catalog.url).connect() as connection:
            order = connection.scalars(text("SELECT id FROM told ORDER BY rowid")).all()
        assert order == sorted(order)
        assert len(order) > BUDGET
        adapters = {trial.number: Path(trial.adapter) for trial in catalog.trials(kept.id)}
    document = json.loads(output.read_text())
    reader = Reader(server.uri)
    runs = reader.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * (BUDGET + 1)
    assert len({run.data.tags["mlflow.runName"] for run in runs}) == BUDGET + 1
    assert list(reader.trials()) == list(range(BUDGET))
    assert {int(run.data.tags["trial"]) for run in reader.runs("tags.front = 'true'")} == {
        member["trial"] for member in document["front"]
    }
    run = reader.trials()[waiting[0]]
    loaded = Path(reader.client.download_artifacts(run.info.run_id, "adapter", str(tmp_path)))
    assert (loaded / WEIGHTS).read_bytes() == (adapters[waiting[0]] / WEIGHTS).read_bytes()
    assert {file.path for file in reader.client.list_artifacts(reader.parent().info.run_id)} == {
        "front.html",
        "front.json",
    }
    assert not (home / "mlartifacts").exists()

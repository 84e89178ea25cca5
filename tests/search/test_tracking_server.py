"""A tracking server that fails or hangs; of one that ends and returns: tests/faults/test_tracking_outage.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from search.catalog import Catalog
from search.catalog.outbox import pending
from search.tracking import Tracker
from tests.dashboards.documents import document
from tests.search.recorded import begin, end_trial


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

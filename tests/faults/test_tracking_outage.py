"""The MLflow server dies and returns while a search runs: the search goes on, and every run arrives once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.catalog import Catalog
from search.catalog.outbox import backlog
from tests.commands import QUICK, command, environment
from tests.search.test_tracking_server import Server

#: Seconds without a server, at least: as long as a trial takes, unless more are asked for; then with trials to match.
OUTAGE_S = float(os.environ.get("TEST_OUTAGE_SECONDS", "0"))
BUDGET = 4 + round(2 * OUTAGE_S)


@pytest.mark.slow
def test_a_search_outlives_its_tracking_server(tracking_uri: str, tmp_path: Path) -> None:
    server = Server(tracking_uri, tmp_path / "served")
    server.start()
    stores = ["--home", str(tmp_path / "home"), "--tracking-uri", server.uri, "--name", "s", "--budget", str(BUDGET)]
    search = subprocess.Popen(
        command("run", *QUICK, "--workers", "2", *stores), stderr=subprocess.PIPE, text=True, env=environment()
    )
    catalog = Catalog(f"sqlite:///{tmp_path / 'home' / 'search.db'}")
    try:
        _until(lambda: any(catalog.trials(each.id) for each in catalog.searches()), search)
        server.kill()
        began = time.monotonic()
        (kept,) = catalog.searches()
        _until(lambda: any(t.status == "complete" for t in catalog.trials(kept.id)), search)
        _until(lambda: time.monotonic() - began > OUTAGE_S, search)
        waited, done = backlog(catalog), sum(t.status == "complete" for t in catalog.trials(kept.id))
        assert waited > 0, "what ended meanwhile waits"
        search.send_signal(signal.SIGSTOP)  # or it may be over before the server is back
        server.start()
        search.send_signal(signal.SIGCONT)
        away = time.monotonic() - began
        _, said = search.communicate(timeout=240 + 4 * OUTAGE_S)
        print(f"away for {away:.0f} s, at whose end {done} of {BUDGET} trials were done and {waited} records waited")
        assert search.returncode == 0, said[-3000:]
        assert "Traceback" not in said
        assert backlog(catalog) == 0
        client = MlflowClient(server.uri)
        (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
        runs = client.search_runs([experiment.experiment_id])
        assert Counter(run.info.status for run in runs) == {"FINISHED": BUDGET + 1}
        assert len({run.data.tags["mlflow.runName"] for run in runs}) == BUDGET + 1
    finally:
        if search.poll() is None:
            search.send_signal(signal.SIGCONT)
            search.terminate()
            search.wait(60)
        catalog.close()
        server.kill()


def _until(condition: Callable[[], object], search: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert search.poll() is None, search.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)

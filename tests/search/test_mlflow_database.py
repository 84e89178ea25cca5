"""MLflow's own database comes into being whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from mlflow import MlflowClient

from search.catalog import Catalog
from search.mlflow_store import EXPERIMENT
from search.tracking import Tracker
from tests.dashboards.documents import document
from tests.search.recorded import begin

MAKE = "import sys; from search.mlflow_store import open_store; open_store(sys.argv[1])"


def test_a_kill_while_it_is_made(catalog: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    partial, uri = Path(f"{file}.partial"), f"sqlite:///{file}"
    process = subprocess.Popen([sys.executable, "-c", MAKE, uri], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    # The kill falls among migrations of which SQLite commits each statement on its own.
    while not partial.exists() or partial.stat().st_size < 100_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not file.exists()

    begin(catalog)
    tracker = Tracker(catalog, uri, tmp_path / "mlartifacts", lambda _: document())
    assert tracker.drain() == 1
    assert not partial.exists()
    assert MlflowClient(uri).get_experiment_by_name(EXPERIMENT) is not None

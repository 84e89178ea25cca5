"""MLflow's own database comes into being whole or not at all, and is no one else's."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from objectives.errors import RequestError
from search.catalog import Catalog
from search.catalog.connect import is_same_database, parse
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


def test_mlflow_does_not_move_in_with_the_catalog(catalog: Catalog, tmp_path: Path) -> None:
    """Both Optuna and MLflow keep their schema's version in a table of one name."""
    with pytest.raises(RequestError, match="is the database of the catalog, whose tables cannot stand beside MLflow's"):
        Tracker(catalog, catalog.url, tmp_path, lambda _: {})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sqlite:////a/b.db", "sqlite:////a/../a/b.db", True),
        ("sqlite:////a/b.db", "sqlite:////a/mlflow.db", False),
        ("postgresql://me:secret@localhost/search", "postgresql+psycopg://you@127.0.0.1:5432/search", True),
        ("postgresql://localhost/search", "postgresql://localhost/mlflow", False),
        ("postgresql://localhost/search", "postgresql://localhost:5433/search", False),
        ("postgresql://one/search", "postgresql://other/search", False),
        ("postgresql://one/search", "http://one/search", False),
        ("sqlite:////a/b.db", "postgresql:////a/b.db", False),
    ],
)
def test_what_leads_to_one_database(one: str, other: str, same: bool) -> None:
    assert is_same_database(parse(one), other) == same

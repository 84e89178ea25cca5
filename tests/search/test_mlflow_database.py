"""MLflow's own database comes into being whole or not at all, and is no one else's."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from mlflow import MlflowClient

from objectives.errors import RequestError
from search.catalog import Catalog
from search.catalog.connect import is_same_database, parse
from search.catalog.migrate import MIGRATING
from search.mlflow_store import EXPERIMENT, open_store
from search.tracking import Tracker
from tests import forked
from tests.commands import environment
from tests.dashboards.documents import document
from tests.search.recorded import begin
from tests.waiting import wait_for


def test_a_kill_while_it_is_made(catalog: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    partial, uri = Path(f"{file}.partial"), f"sqlite:///{file}"
    with forked.started(open_store, uri, environment=environment()) as process:
        # The kill falls among migrations of which SQLite commits each statement on its own.
        wait_for(
            lambda: partial.exists() and partial.stat().st_size >= 100_000, 60, alive=process.is_alive, pause=0.005
        )
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not file.exists()

    begin(catalog)
    tracker = Tracker(catalog, uri, tmp_path / "mlartifacts", lambda _: document())
    assert tracker.drain() == 1
    assert not partial.exists()
    assert MlflowClient(uri).get_experiment_by_name(EXPERIMENT) is not None


def test_databases_are_migrated_one_at_a_time(tmp_path: Path) -> None:
    """Two of one process, the catalog's and MLflow's, fail in Alembic, which has one place for what it does."""

    def make_catalog() -> None:
        Catalog(f"sqlite:///{tmp_path}/search.db").close()

    def make_mlflow() -> None:
        open_store(f"sqlite:///{tmp_path}/mlflow.db")

    with ThreadPoolExecutor(2) as pool:
        with MIGRATING:
            both = [pool.submit(make_catalog), pool.submit(make_mlflow)]
            for lock in ("search.db.migrate.lock", "mlflow.db.mlflow.lock"):
                wait_for((tmp_path / lock).exists)
            assert wait(both, 0.5).done == set()
            assert not (tmp_path / "mlflow.db.partial").exists()
        for each in both:
            each.result(60)


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

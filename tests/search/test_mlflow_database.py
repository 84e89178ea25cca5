"""MLflow's own database comes into being whole or not at all, and is no one else's."""

from __future__ import annotations

import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine

from objectives.errors import RequestError, StoreError
from search.__main__ import main
from search.catalog import Catalog
from search.catalog.connect import is_same_database, parse
from search.catalog.migrate import MIGRATING
from search.home import Home
from search.mlflow_store import EXPERIMENT, _unsynced, follow_artifacts, open_store
from search.tracking import Tracker
from tests import forked
from tests.commands import environment
from tests.dashboards.documents import document
from tests.search.recorded import Reader, begin, end_trial
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


def test_only_the_new_database_is_written_without_waiting_for_the_disk(tmp_path: Path) -> None:
    """The catalog, which another thread may open meanwhile, holds what a crash of the machine must not take."""

    def waits(name: str) -> bool:
        engine = create_engine(f"sqlite:///{tmp_path / name}")
        with closing(engine.raw_connection()) as connection:
            (level,) = connection.cursor().execute("PRAGMA synchronous").fetchone()
        engine.dispose()
        return bool(level)

    with _unsynced(tmp_path / "mlflow.db.partial"):
        assert [waits("mlflow.db.partial"), waits("search.db")] == [False, True]
    assert waits("mlflow.db.partial")


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


def test_a_home_that_was_moved_takes_its_artifacts_along(tmp_path: Path) -> None:
    """MLflow keeps full paths: what came after the move was written where the home had been."""
    before, now = tmp_path / "100%_a home", tmp_path / "b"
    names = [tell_mlflow(before, "one")]
    before.rename(now)
    names += [tell_mlflow(now, "two")]
    assert not before.exists()
    reader = Reader(f"sqlite:///{now}/mlflow.db")
    assert reader.experiment.artifact_location == (now / "mlartifacts").as_uri()
    trials = reader.runs("tags.trial = '2'")
    assert [run.data.tags["search"] for run in trials] == names == ["one", "two"]
    for run in trials:
        assert run.info.artifact_uri == (now / "mlartifacts" / run.info.run_id / "artifacts").as_uri()
        folder = reader.client.download_artifacts(run.info.run_id, "adapter", str(tmp_path))
        assert (Path(folder) / "adapter_model.safetensors").read_text("utf-8") == run.data.tags["search"]
    for name in names:
        (version,) = reader.client.search_model_versions(f"name = '{name}'")
        assert version.source.startswith((now / "mlartifacts").as_uri())
        assert reader.client.get_model_version_download_uri(name, version.version) == version.source


def tell_mlflow(home: Path, name: str) -> str:
    """A search of one trial, with its adapter, in the home's own MLflow."""
    adapter = home / "adapters" / name
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_text(name, "utf-8")
    with closing(Catalog(f"sqlite:///{home}/search.db")) as catalog:
        search = begin(catalog, name)
        end_trial(catalog, search, 2, adapter=str(adapter))
        catalog.set_status(search.id, "complete")
        uri, result = Home.at(home, None, None).mlflow(), document() | {"registry_uri": f"models:/{name}@champion"}
        assert Tracker(catalog, uri, home / "mlartifacts", lambda _: result).drain() == 3
    return name


def test_artifacts_of_a_database_that_homes_share_stay(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    follow_artifacts(uri, tmp_path / "mlartifacts")
    assert not (tmp_path / "mlflow.db").exists(), "nothing is made"
    client = open_store(uri)
    follow_artifacts(uri, tmp_path / "mlartifacts")  # no experiment of ours yet
    first = (tmp_path / "first" / "mlartifacts").as_uri()
    client.create_experiment(EXPERIMENT, first)
    client.create_experiment("another", f"{first}-of-another")
    follow_artifacts(uri, tmp_path / "second" / "mlartifacts")
    assert Reader(uri).experiment.artifact_location == first
    follow_artifacts(uri, tmp_path / "mlartifacts")
    assert Reader(uri).experiment.artifact_location == (tmp_path / "mlartifacts").as_uri()
    another = client.get_experiment_by_name("another")
    assert another is not None
    assert another.artifact_location == f"{first}-of-another"


def test_a_database_of_another_mlflow_is_told_with_the_command_that_migrates_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where MLflow was upgraded since the home was made; `ui` ended in a traceback of MLflow's."""
    home = tmp_path / "a home"
    uri = f"sqlite:///{home}/mlflow.db"
    home.mkdir()
    open_store(f"sqlite:///{tmp_path}/made.db")
    (tmp_path / "made.db").rename(home / "mlflow.db")  # MLflow looks at a database once a process
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '75868b020152'")
        database.commit()
    sentence = (
        f"MLflow's database '{uri}' was made by another version of MLflow than the {mlflow.__version__} that is "
        f"installed: copy it, then run `mlflow db upgrade '{uri}'`, or install that version."
    )
    with pytest.raises(StoreError) as refusal:
        open_store(uri)
    assert str(refusal.value) == sentence
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["ui", "--home", str(home)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"

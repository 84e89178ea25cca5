"""Removing a search: all that is its own goes, nothing else does, and a kill on the way loses nobody's trace."""

from __future__ import annotations

import os
import pty
import signal
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from sqlalchemy import MetaData, create_engine, select

from objectives.errors import RequestError, StoreError
from search import removal
from search.catalog import Catalog, SearchRecord
from search.catalog.champions import current, decide
from search.catalog.submissions import move, submit
from search.cli import cli
from search.doctor import examine
from search.home import Home
from search.lease import Lease
from search.removal import removable, remove, remove_old
from search.strategy.space import PlacementSpace
from search.study import Study
from search.tracking import Tracker
from tests.commands import call, call_json, environment
from tests.dashboards.documents import document
from tests.forked import started
from tests.json_reference import undescribed, unseen
from tests.search.recorded import FACTS, PLACEMENTS, SPEC, Reader, end_trial

SPACE = PlacementSpace(("down_proj", "k_proj", "o_proj", "q_proj"), (4, 8, 16))


def searched(home: Home, catalog: Catalog, name: str, series: str | None = None) -> SearchRecord:
    """A search with a study, an adapter, logs and runs in MLflow, its adapter registered."""
    search = catalog.create_search(name, SPEC | {"series": series}, FACTS)
    Study(catalog.url, search.id, SPACE, strategy="random", references=(), budget=6, seed=0).close()
    with home.adapters(search).writing("2") as adapter:
        adapter.mkdir()
        (adapter / "adapter_model.safetensors").write_bytes(bytes(100))
    with home.adapters(search).writing("checkpoint-7") as checkpoint:
        checkpoint.touch()
    end_trial(catalog, search, 2, adapter=home.adapters(search).at("2"))
    end_trial(catalog, search, 7)
    catalog.set_status(search.id, "complete")
    for folder in (home.night_logs, home.api_logs):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.log").touch()
    deliver(home, catalog)
    return catalog.search(name)


def deliver(home: Home, catalog: Catalog) -> None:
    registered = document() | {"registry_uri": "models:/NAME@champion"}
    Tracker(catalog, home.mlflow(), home.mlflow_artifacts, lambda _: registered).drain()


def rows_that_name(catalog: Catalog, *words: str) -> list[str]:
    """In any table of the database."""
    engine = create_engine(catalog.url)
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        found = [str(row) for table in tables.tables.values() for row in connection.execute(select(table))]
    engine.dispose()
    return [row for row in found if any(word in row for word in words)]


def files_of(home: Home, *words: str) -> list[Path]:
    return [path for path in home.folder.rglob("*") if any(word in path.name for word in words)]


def test_all_of_a_search_goes_and_nothing_of_another(storage: str, tracking_uri: str, tmp_path: Path) -> None:
    home = Home.at(tmp_path, storage, None)
    assert home.mlflow() == tracking_uri, "the home's own"
    with closing(Catalog(home.storage)) as catalog:
        gone, stays = searched(home, catalog, "gone"), searched(home, catalog, "stays")
        submit(catalog, "gone", "run", {}, "me")
        move(catalog, "gone", "queued", "ended")
        reader = Reader(tracking_uri)
        runs = {run.info.run_id for run in reader.runs("tags.search = 'gone'")}
        assert len(runs) == 3
        assert [search.id for search in removable(catalog, ["gone", "gone"])] == [gone.id]
        assert remove(catalog, home, gone, keep_mlflow=False) == {
            "search": "gone", "trials": 2, "mlflow_runs": 3, "left": [],
        }  # fmt: skip
        assert rows_that_name(catalog, gone.id, "gone") == []
        assert files_of(home, gone.id, "gone", *runs) == []
        assert [model.name for model in reader.client.search_registered_models()] == ["stays"]
        assert {reader.client.get_run(run).info.lifecycle_stage for run in runs} == {"deleted"}

        assert home.adapters(stays).names() == ["2", "checkpoint-7"]
        assert len(list(home.mlflow_artifacts.rglob("*.safetensors"))) == 1
        assert optuna.get_all_study_names(catalog.url) == [stays.id]
        assert len(catalog.trials(stays.id)) == 2
        assert len(files_of(home, "stays.log")) == 2
        again = searched(home, catalog, "gone")
        assert len(reader.runs("tags.search = 'gone'")) == 3, "a new search may have the name"
        assert remove(catalog, home, again, keep_mlflow=True)["mlflow_runs"] == 0
        assert len(reader.runs("tags.search = 'gone'")) == 3


def test_what_is_at_work_or_needed_is_refused(sqlite: str, tracking_uri: str, tmp_path: Path) -> None:
    home = Home.at(tmp_path, sqlite, tracking_uri)
    with closing(Catalog(sqlite)) as catalog, closing(Catalog(sqlite)) as other:
        nights = [searched(home, catalog, f"night-{number}", "tickets") for number in range(3)]
        lone = searched(home, catalog, "lone")
        for decided, champion in ((0, 0), (1, 0), (2, 2)):
            trial = catalog.trial(nights[champion].id, 2)
            decide(catalog, nights[decided].id, "tickets", "kept", trial, f"why {decided}", {})
            catalog.set_status(nights[decided].id, "complete")
            deliver(home, catalog)
        with Lease(other, lone.id, "lone"), pytest.raises(RequestError, match="lone is being run by process"):
            removable(catalog, ["night-0", "lone"])
        submit(catalog, "lone", "resume", {}, "me")
        with pytest.raises(RequestError, match="lone is queued at the API"):
            removable(catalog, ["lone"])
        with pytest.raises(RequestError, match="no search is named 'lonely'"):
            removable(catalog, ["night-0", "lonely"])
        with pytest.raises(RequestError, match=r"night-2 has the champion of series tickets .*'night-1' would stay"):
            removable(catalog, ["night-2", "night-0"])
        (first,) = removable(catalog, ["night-0"])
        remove(catalog, home, first, keep_mlflow=False)
        client = Reader(tracking_uri).client
        assert client.get_model_version_by_alias("tickets", "champion").tags["search"] == "night-2"
        assert len(client.search_model_versions("name = 'tickets'")) == 1
        now = current(catalog, "tickets")
        assert now is not None
        assert now.champion_search == nights[2].id
        assert rows_that_name(catalog, "why 1") == [], "it named an adapter that is no more"
        for night in removable(catalog, ["night-2", "night-1"]):
            remove(catalog, home, night, keep_mlflow=True)
        assert current(catalog, "tickets") is None


def test_a_series_keeps_its_newest_searches_and_the_champions(sqlite: str, tmp_path: Path) -> None:
    home = Home.at(tmp_path, sqlite, None)
    with closing(Catalog(sqlite)) as catalog, closing(Catalog(sqlite)) as other:
        catalog.create_search("of-another", SPEC | {"series": "others"}, FACTS)
        nights = [catalog.create_search(f"night-{number}", SPEC | {"series": "tickets"}, FACTS) for number in range(6)]
        end_trial(catalog, nights[1], 2, adapter="nowhere")
        decide(catalog, nights[1].id, "tickets", "crowned", catalog.trial(nights[1].id, 2), "", {})
        left = "of-another", "night-1", "night-2", "night-4", "night-5"
        with Lease(other, nights[2].id, "night-2"):
            assert [note.partition(":")[0] for note in remove_old(catalog, home, nights[5], 2)] == [
                "search night-3 of series tickets was removed, since --keep is 2",
                "search night-2 of series tickets stays for now",
                "search night-0 of series tickets was removed, since --keep is 2",
            ]
        assert catalog.names() == {*left}
        assert len(list(remove_old(catalog, home, nights[2], 1))) == 1, "not the one that asks, though it is old"
        assert catalog.names() == {*left} - {"night-4"}


def killed_on_the_way(folder: Path, storage: str) -> None:
    """Ends by SIGKILL when all is gone but the rows of search "demo"."""
    removal.delete_search = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    home = Home.at(folder, storage, None)
    catalog = Catalog(storage)
    remove(catalog, home, catalog.search("demo"), keep_mlflow=False)


def test_a_kill_on_the_way_leaves_a_search_that_can_be_removed(sqlite: str, tracking_uri: str, tmp_path: Path) -> None:
    home = Home.at(tmp_path, sqlite, None)
    with closing(Catalog(sqlite)) as catalog:
        search = searched(home, catalog, "demo")
        with started(killed_on_the_way, tmp_path, sqlite, environment=environment()) as process:
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
        (found,) = examine(home, "demo", fix=False)
        assert "MLflow has no run of the search itself and trials [2, 7]" in found["problems"][-1]
        (search,) = removable(catalog, ["demo"])
        assert remove(catalog, home, search, keep_mlflow=False)["trials"] == 2
        assert rows_that_name(catalog, search.id) == []


def test_an_mlflow_that_is_away_is_told_before_anything_is_deleted(sqlite: str, tmp_path: Path) -> None:
    away = Home.at(tmp_path, sqlite, "http://127.0.0.1:9")
    with closing(Catalog(sqlite)) as catalog:
        search = catalog.create_search("demo", SPEC, FACTS)
        end_trial(catalog, search, 2, adapter="nowhere")
        with pytest.raises(RequestError, match=r"demo was not removed, since MLflow cannot be reached .*--keep-mlflow"):
            remove(catalog, away, search, keep_mlflow=False)
        assert len(catalog.trials(search.id)) == 1
        assert remove(catalog, away, search, keep_mlflow=True)["trials"] == 1


def test_a_disk_that_refuses_is_named_and_the_search_is_still_there(sqlite: str, tmp_path: Path) -> None:
    home = Home.at(tmp_path, sqlite, None)
    (tmp_path / "adapters").write_text("not a folder")
    with closing(Catalog(sqlite)) as catalog:
        search = catalog.create_search("demo", SPEC, FACTS)
        with pytest.raises(StoreError) as refusal:
            remove(catalog, home, search, keep_mlflow=False)
        assert str(refusal.value) == (
            f"{tmp_path}/adapters/{search.id} cannot be deleted (Not a directory), so search demo is still there: mend "
            "that, and remove it again"
        )
        (tmp_path / "adapters").unlink()
        assert remove(catalog, home, search, keep_mlflow=False)["trials"] == 0


def test_adapters_of_another_home_stay_and_are_named(sqlite: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs" / "2"
    theirs.mkdir(parents=True)
    home = Home.at(tmp_path / "ours", sqlite, None)
    with closing(Catalog(sqlite)) as catalog:
        search = catalog.create_search("demo", SPEC, FACTS)
        end_trial(catalog, search, 2, adapter=str(theirs))
        assert remove(catalog, home, search, keep_mlflow=False)["left"] == [str(theirs.parent)]
    assert theirs.is_dir()


def test_the_command_asks_first(tmp_path: Path) -> None:
    place = ["--home", str(tmp_path)]
    with closing(Catalog(Home.at(tmp_path, None, None).storage)) as catalog:
        for name in ("one", "two"):
            search = catalog.create_search(name, SPEC, FACTS)
            catalog.add_trial(search.id, 0, PLACEMENTS[0], None)
    said = call("remove", "one", "two", *place, code=2).stderr
    assert said == "error: remove asks before it deletes one, two, and nobody can answer here: add --yes\n"
    removed = call_json("remove", "one", "two", "--yes", *place)
    assert undescribed("remove", removed) == unseen("remove", removed) == []
    assert [each["search"] for each in removed] == ["one", "two"]
    assert call_json("list", *place) == []


def test_the_answer_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    keyboard, terminal = pty.openpty()
    with (
        Path(os.ttyname(terminal)).open() as stream,
        closing(Catalog(Home.at(tmp_path, None, None).storage)) as catalog,
    ):
        monkeypatch.setattr(sys, "stdin", stream)
        search = catalog.create_search("one", SPEC, FACTS)
        end_trial(catalog, search, 2, adapter="nowhere")
        for answer, left, said in (("n", {"one"}, "nothing was removed\n"), ("y", set(), "")):
            os.write(keyboard, f"{answer}\n".encode())
            cli.main(["remove", "one", "--home", str(tmp_path)], standalone_mode=False)
            output, error = capsys.readouterr()
            assert catalog.names() == left
            assert "Delete one with 1 trained adapter? [y/N]: " in error
            assert error.endswith(said)
        assert output.endswith("one removed, with 1 trial; runs in MLflow's trash: 0\n")
    os.close(terminal)
    os.close(keyboard)

"""What a search keeps for its resumption: where its MLflow is, and of which model and data its trials are."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from objectives import demo
from objectives.errors import Interrupted, NoTrialSucceeded, RequestError
from search.admission import refuse_changes
from search.catalog import Catalog, SearchRecord
from search.catalog.outbox import backlog, pending
from search.doctor import examine
from search.home import Home
from search.interruption import Interruption
from search.prepare import prepare
from search.run import Run, _succeeded, resume
from search.spec import SearchSpec
from search.strategy.space import PlacementSpace
from search.study import Study
from search.tracking import Tracker
from tests.dashboards.documents import document
from tests.faults.replayed import FACTS, SPEC
from tests.search.recorded import Reader, end_trial

SECRET = "postgresql://me:hunter2@db/mlflow?sslpassword=hunter3"


def begin(catalog: Catalog, home: Home, name: str) -> SearchRecord:
    return catalog.create_search(name, SPEC, FACTS | {"tracking": home.mlflow_kept()})


def test_a_search_keeps_its_mlflow_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home.at(tmp_path / "home", None, None)
    given = [None, "sqlite:///runs.db", "http://mlflow:5000", SECRET]
    with closing(Catalog(home.storage)) as catalog:
        own, file, server, secret = (
            begin(catalog, replace(Home.at(home.folder, None, uri)), f"s{i}") for i, uri in enumerate(given)
        )
        assert "hunter" not in str(catalog.searches())
    moved = Home.at(tmp_path / "moved", None, None)
    assert moved.mlflow(own) == f"sqlite:///{tmp_path}/moved/mlflow.db"
    assert moved.mlflow(file) == f"sqlite:///{tmp_path}/runs.db"
    assert moved.mlflow(server) == "http://mlflow:5000"
    with pytest.raises(RequestError) as refusal:
        moved.mlflow(secret)
    assert str(refusal.value) == (
        "search s3 writes to MLflow at postgresql://***@db/mlflow?sslpassword=***, whose user and password are not "
        "kept: give them again with --tracking-uri or SEARCH_TRACKING_URI"
    )
    asked = Home.at(tmp_path / "moved", None, SECRET)
    assert [asked.mlflow(search) for search in (own, file, server, secret)] == [SECRET] * 4
    assert "SEARCH_TRACKING_URI" not in moved.environment()
    assert asked.environment()["SEARCH_TRACKING_URI"] == SECRET


@pytest.mark.parametrize("name", ["feature%2Fx", "a?b=c", "ein Gerät", "a#b"])
def test_a_home_may_be_called_anything(name: str, tmp_path: Path, migrated_mlflow: Path) -> None:
    """What a URL takes for its own stands in names of folders too: Jenkins' workspaces have `%2F`."""
    home = Home.at(tmp_path / name, None, None)
    home.folder.mkdir()
    shutil.copyfile(migrated_mlflow, home.folder / "mlflow.db")
    with closing(Catalog(home.storage)) as catalog:
        search = begin(catalog, home, "a")
        tracker = Tracker(catalog, home.mlflow(), home.folder / "mlartifacts", lambda _: document())
        assert tracker.drain() == 1
        assert catalog.search("a").mlflow_run_id
        assert home.mlflow(search) == home.mlflow()
    # MLflow makes the folder of the URL as it is written, and leaves it empty.
    assert [path.name for path in tmp_path.iterdir() if any(path.iterdir())] == [name]
    assert (home.folder / "search.db").stat().st_size > 0


def test_what_waits_is_sent_to_the_mlflow_of_its_search(catalog: Catalog, tracking_uri: str, tmp_path: Path) -> None:
    """Of two searches of a catalog, whose MLflow differ; one that was written before that was kept goes anywhere."""
    home, elsewhere = Home.at(tmp_path, catalog.url, tracking_uri), Home.at(tmp_path, catalog.url, "http://127.0.0.1:1")
    here, there = begin(catalog, home, "here"), begin(catalog, elsewhere, "there")
    old = catalog.create_search("old", SPEC, FACTS)
    assert home.mlflow_kept() == "", "the home's own, however it was named"
    for search in (here, there, old):
        end_trial(catalog, search, 7, status="infeasible")
    tracker = Tracker(catalog, home.mlflow(), tmp_path / "mlartifacts", lambda _: document(), only=home.mlflow_kept())
    assert tracker.stop(60.0) == 0
    assert {row.search_id for row in pending(catalog)} == {there.id}
    assert backlog(catalog) == backlog(catalog, "http://127.0.0.1:1") == 2
    assert {run.data.tags["search"] for run in Reader(tracking_uri).runs()} == {"here", "old"}
    assert catalog.search("here").facts == FACTS | {"tracking": ""}
    catalog.set_tracking(there.id, "")
    assert tracker.drain() == 2


def test_doctor_compares_each_search_with_its_own_mlflow(
    migrated_mlflow: Path, tracking_uri: str, tmp_path: Path
) -> None:
    other = f"sqlite:///{shutil.copyfile(migrated_mlflow, tmp_path / 'other.db')}"
    home = Home.at(tmp_path, None, None)
    with closing(Catalog(home.storage)) as catalog:
        for name, uri in (("here", None), ("there", other), ("hidden", SECRET)):
            search = begin(catalog, Home.at(tmp_path, None, uri), name)
            end_trial(catalog, search, 7, status="infeasible")
            catalog.set_status(search.id, "complete")
        found = {each["search"]: each for each in examine(home, None, fix=True)}
        assert [found[name]["mlflow"] for name in ("here", "there")] == [None, None]
        assert found["hidden"]["mlflow"].startswith("search hidden writes to MLflow at postgresql://***@db/mlflow")
        assert {row.search_id for row in pending(catalog)} == {catalog.search("hidden").id}
    for uri, name in ((tracking_uri, "here"), (other, "there")):
        client = MlflowClient(uri)
        runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
        assert [run.data.tags["search"] for run in runs] == [name, name]


def test_another_model_or_other_data_are_refused(tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(demo.model_dir(), model)
    shutil.copytree(demo.data_dir(), data)
    spec = SearchSpec(model=str(model), data=str(data), steps=4)
    with closing(Catalog(f"sqlite:///{tmp_path}/search.db")) as catalog:
        prepared = prepare(spec)
        search = catalog.create_search("s", prepared.spec.to_json(), prepared.facts)
    refuse_changes(search, prepared)
    # The first tensor's first bytes, as another training would leave them.
    (weights,) = model.glob("*.safetensors")
    original = weights.read_bytes()
    with weights.open("r+b") as file:
        file.seek(8 + int.from_bytes(original[:8], "little"))
        file.write(os.urandom(64))
    refused = f"has changed since it began ({model}): restore it, or start a new search"
    with pytest.raises(RequestError) as refusal:
        refuse_changes(search, prepare(prepared.spec))
    assert str(refusal.value) == f"the weights or tokenizer of the model of search s {refused}"
    weights.write_bytes(original)
    rows = (data / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join(rows[:-1]))
    with pytest.raises(RequestError) as refusal:
        refuse_changes(search, prepare(prepared.spec))
    assert str(refusal.value) == f"the data of search s {refused}".replace(str(model), str(data))


@pytest.mark.parametrize(("fact", "other"), [("template", "{text} ="), ("scoring", {"max_tokens": 8})])
def test_prompts_that_another_version_writes_are_refused(fact: str, other: object, tmp_path: Path) -> None:
    prepared = prepare(SearchSpec(steps=4))
    with closing(Catalog(f"sqlite:///{tmp_path}/search.db")) as catalog:
        versions = {"lora-target-search": "0.0.9", "transformers": "5.1"}
        facts = prepared.facts | {"versions": versions}
        search = catalog.create_search("s", prepared.spec.to_json(), facts)
        older = catalog.create_search("o", prepared.spec.to_json(), facts | {fact: other})
    refuse_changes(search, prepared)
    with pytest.raises(RequestError) as refusal:
        refuse_changes(older, prepared)
    assert str(refusal.value) == (
        "prompts of search o are written or scored otherwise than when it began: install lora-target-search 0.0.9 and "
        "transformers 5.1, which it began with, or start a new search"
    )


def end_without_success(home: Home) -> None:
    """Search ``a``, whose one trial failed."""
    with closing(Catalog(home.storage)) as catalog:
        facts = FACTS | {"tracking": home.mlflow_kept()}
        search = catalog.create_search("a", SearchSpec(steps=20, budget=1).to_json(), facts)
        space = PlacementSpace(("o_proj", "q_proj"), (8,))
        with closing(Study(catalog.url, search.id, space, strategy="grid", references=(), budget=1, seed=0)) as study:
            asked = study.ask()
            assert asked is not None
            catalog.add_trial(search.id, *asked, None)
            catalog.record(search.id, asked[0], "failed", reason="out of memory", measurement=None)
            study.tell(asked[0], "failed", {})
        catalog.set_status(search.id, "complete")


def test_a_search_without_a_success_has_none_when_it_is_resumed(tmp_path: Path) -> None:
    """Else a script that resumes until it is told 0 took it for one."""
    home = Home.at(tmp_path, None, None)
    end_without_success(home)
    with pytest.raises(NoTrialSucceeded, match=r"^none of 1 trial of search a succeeded; the last one: out of memory$"):
        resume("a", home)


def test_what_a_search_is_resumed_with_is_its_own_from_then_on(tmp_path: Path) -> None:
    """Under the MLflow that it had before, nothing of it would be sent to the new one."""
    home, elsewhere = (Home.at(tmp_path, None, uri) for uri in (None, f"sqlite:///{tmp_path}/other.db"))
    prepared = prepare(SearchSpec(budget=3))
    with closing(Catalog(home.storage)) as catalog:
        facts = prepared.facts | {"tracking": home.mlflow_kept()}
        search = catalog.create_search("a", replace(prepared.spec, budget=2).to_json(), facts)
        catalog.set_status(search.id, "interrupted")
        Run(catalog, elsewhere, prepared, Interruption(), 0.0)._take_up(catalog.search("a"))
        found = catalog.search("a")
    assert (found.status, found.spec) == ("running", prepared.spec.to_json())
    assert found.facts["tracking"] == elsewhere.mlflow_kept() != home.mlflow_kept()


def test_a_search_goes_on_where_its_cluster_is_now(tmp_path: Path) -> None:
    """A new head has another address as a rule, and the old one never answers again."""
    home = Home.at(tmp_path, None, None)
    with closing(Catalog(home.storage)) as catalog:
        asked = SearchSpec(steps=20, ray_address="127.0.0.1:2", workers=1).to_json()
        catalog.set_status(catalog.create_search("a", asked, FACTS).id, "interrupted")
    for given, tried in ((None, "127.0.0.1:2"), ("127.0.0.1:1", "127.0.0.1:1")):
        with pytest.raises(RequestError, match=rf"^--ray-address {tried} does not answer \(Connection refused\)"):
            resume("a", home, ray_address=given)


def test_where_every_placement_is_too_slow_the_nearest_to_the_cap_is_told() -> None:
    points = [
        {"status": "infeasible", "tpot_ratio": ratio, "reason": f"latency ratio {ratio} is above"}
        for ratio in (1.3, 1.15, 1.5)
    ]
    with pytest.raises(NoTrialSucceeded) as none:
        _succeeded("a", {"trials": {"complete": 0}, "points": points})
    assert str(none.value) == "none of 3 trials of search a succeeded; the fastest one: latency ratio 1.15 is above"
    points.append({"status": "failed", "tpot_ratio": None, "reason": "out of memory"})
    with pytest.raises(NoTrialSucceeded, match=r"; the last one: out of memory$"):
        _succeeded("a", {"trials": {"complete": 0}, "points": points})


def test_who_does_not_wait_for_mlflow_is_told_that_the_search_is_complete(tmp_path: Path) -> None:
    """MLflow is deaf here: it takes the connection, and Ctrl-C comes."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(60)
        home = Home.at(tmp_path, None, f"http://127.0.0.1:{deaf.getsockname()[1]}")
        end_without_success(home)

        def interrupt() -> None:
            with deaf.accept()[0]:
                os.kill(os.getpid(), signal.SIGINT)
                heard.wait(60)

        heard = threading.Event()
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(Interrupted) as interrupted:
            resume("a", home)
        heard.set()
        thread.join()
    assert str(interrupted.value) == (
        "interrupted while MLflow was told the rest; search a is complete: "
        f"`python -m search resume a --home {tmp_path}` prints it again, and sends what is left"
    )

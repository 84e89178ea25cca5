"""A home after a kill, examined and mended, by the command line."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import optuna
import pytest
from sqlalchemy import create_engine, text

from objectives.errors import RequestError
from objectives.placement import Placement
from search.catalog import Catalog
from search.catalog.outbox import backlog
from search.doctor import examine
from search.home import Home
from search.mlflow_store import EXPERIMENT
from search.strategy.space import PlacementSpace
from search.study import Study
from search.tracking import Tracker
from tests.commands import call, call_json
from tests.dashboards.documents import document
from tests.faults.replayed import FACTS, GROUPS, RANK, SPEC
from tests.json_reference import undescribed, unseen
from tests.search.recorded import Reader

MEASURED = {
    "validation": {"accuracy": 0.5, "accuracy_ci": [0.4, 0.6], "loss": 1.0, "standard_error": 0.05},
    "latency": {"ratio": 1.1},
    "parameters": 10,
}
UNTOLD = "trials [0, 1, 2, 3, 4] were measured, and the study was not told"


def test_a_home_after_a_kill_is_told_and_mended(tmp_path: Path, tracking_uri: str) -> None:
    home, place = Home.at(tmp_path, None, tracking_uri), ["--home", str(tmp_path), "--tracking-uri", tracking_uri]
    catalog = Catalog(home.storage)
    made = catalog.create_search("a", SPEC, FACTS)
    assert catalog.take(made.id) is None
    catalog.add_trial(made.id, 0, Placement.of(["o_proj"], 8), None)
    (found,) = examine(home, None, fix=True)
    assert found["holder"].startswith("process")
    assert found["problems"] == found["mended"] == [], "what waits in the outbox waits for its owner"
    with create_engine(catalog.url).begin() as connection:
        connection.execute(text("UPDATE catalog_leases SET expires_at = '2020-01-01 00:00:00.000000'"))
    assert told(home) == (
        [
            "its process ended without a word, with trials [0] running",
            f"MLflow has yet to hear of 1 record: `python -m search doctor --fix --home {tmp_path}` sends what is left",
        ],
        [],
    )
    with pytest.raises(RequestError, match="no search is named 'b'"):
        examine(home, "b", fix=False)
    with pytest.raises(RequestError, match="no search is named ''"):  # a variable that is not set would mend them all
        examine(home, "", fix=True)
    stray = tmp_path / "adapters" / made.id / "0009-left"
    stray.mkdir(parents=True)
    (mended,) = documents = call_json("doctor", "--fix", *place)
    assert undescribed("doctor", documents) == unseen("doctor", documents) == []
    assert (mended["status"], mended["holder"], mended["problems"]) == ("interrupted", None, [])
    assert len(mended["mended"]) == 1
    trial = catalog.trial(made.id, 0)
    assert (trial.lease, trial.attempts, backlog(catalog)) == (None, 2, 0)
    assert stray.is_dir(), "what a search that has not ended may still use is left alone"
    assert told(home) == ([], [])

    assert catalog.take(made.id) is None
    catalog.record(made.id, 0, "complete", measurement=MEASURED, adapter=str(tmp_path / "gone"), adapter_sha256="00")
    catalog.set_status(made.id, "complete")
    catalog.release(made.id)
    problems, mends = told(home, fix=True)
    assert mends == ["1 folders or files of no trial deleted: 0009-left"]
    assert problems == [
        f"trial 0: adapter {tmp_path}/gone has no adapter_model.safetensors: it was moved or deleted; take it from "
        "where it is still kept (MLflow has a copy), or train it again"
    ]
    assert not stray.exists()
    catalog.close()


def test_what_is_resumed_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its new trials' adapters are of no trial yet."""
    home = Home.at(tmp_path, None, None)
    with closing(Catalog(home.storage)) as owner:
        made = owner.create_search("a", SPEC, FACTS)
        owner.set_status(made.id, "complete")
        assert owner.take(made.id) is None
        stray = tmp_path / "adapters" / made.id / "0009-new"
        stray.mkdir(parents=True)
        answers = iter([None])  # as if the owner had come right after it was asked
        holder = Catalog.holder
        monkeypatch.setattr(Catalog, "holder", lambda self, search_id: next(answers, holder(self, search_id)))
        (found,) = examine(home, None, fix=True)
        assert found["holder"].startswith("process")
        assert found["problems"] == found["mended"] == []
        assert stray.is_dir()


def told(home: Home, *, fix: bool = False) -> tuple[list[str], list[str]]:
    (document,) = examine(home, None, fix=fix)
    assert document["mlflow"] is None
    return document["problems"], document["mended"]


def damage(reader: Reader) -> dict[int, str]:
    """Trial 0 deleted, 1 doubled, 2 left running, 3 nested elsewhere, the search doubled; the runs that are to stay."""
    client, trials, parent = reader.client, reader.trials(), reader.parent()
    client.delete_run(trials[0].info.run_id)
    for run in (trials[1], parent):
        tags = {"search.key": run.data.tags["search.key"], "search": "a"}
        twin = client.create_run(reader.experiment.experiment_id, start_time=1, tags=tags)  # not to be kept for its age
        client.set_terminated(twin.info.run_id)
    client.update_run(trials[2].info.run_id, status="RUNNING")
    client.set_tag(trials[3].info.run_id, "mlflow.parentRunId", twin.info.run_id)
    return {number: run.info.run_id for number, run in trials.items() if number} | {-1: parent.info.run_id}


def assert_mended(reader: Reader, kept: dict[int, str]) -> None:
    trials, parent = reader.trials(), reader.parent()
    assert len(reader.runs()) == 6
    assert {number: run.info.run_id for number, run in trials.items() if number} == {
        number: run_id for number, run_id in kept.items() if number > 0
    }
    assert parent.info.run_id == kept[-1]
    assert {run.info.status for run in [parent, *trials.values()]} == {"FINISHED", "FAILED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {parent.info.run_id}


def test_mlflow_is_brought_into_agreement_by_doctor_and_by_a_search_that_goes_on(
    tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.mlflow_store._PAGE", 2)  # of a search of thousands of trials
    home = Home.at(tmp_path, None, tracking_uri)
    with closing(Catalog(home.storage)) as catalog:
        search = catalog.create_search("a", SPEC, FACTS)
        study = Study(
            catalog.url,
            search.id,
            PlacementSpace(GROUPS, (RANK,)),
            strategy="random",
            references=[],
            budget=9,
            seed=0,
        )
        for expected in range(5):
            number, placement = study.ask() or (-1, None)
            assert number == expected
            assert placement is not None
            catalog.add_trial(search.id, number, placement, None)
            catalog.record(search.id, number, "failed" if number == 4 else "infeasible", measurement=MEASURED)
        catalog.set_status(search.id, "complete")
        remedy = f"`python -m search doctor --fix --home {tmp_path}`"
        assert told(home)[0] == [
            f"{UNTOLD}: {remedy} mends it",
            f"MLflow has yet to hear of 7 records: {remedy} sends what is left",
        ]
        assert told(home, fix=True) == ([], [UNTOLD])
        assert told(home) == ([], [])
        states = [t.state.name for t in optuna.load_study(study_name=search.id, storage=catalog.url).trials]
        assert states == ["PRUNED"] * 4 + ["FAIL"]

        reader = Reader(tracking_uri)
        kept = damage(reader)
        sentences = [
            "MLflow has no run of trials [0]",
            "MLflow has more than one run of the search itself and trials [1]",
            "MLflow does not know how it ended, or within which search: trials [2, 3]",
        ]
        assert told(home) == ([f"{each}: {remedy} mends it" for each in sentences], [])
        assert told(home, fix=True) == ([], sentences)
        assert_mended(reader, kept)
        assert told(home) == ([], [])

        kept = damage(reader)
        tracker = Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document())
        tracker.start(compare=search.id)
        assert tracker.stop(60) == 0
        assert_mended(reader, kept)

        reader.client.rename_experiment(reader.experiment.experiment_id, "tickets")
        assert told(home) == ([], []), "runs are found where they were written, whatever that is called by now"
        renamed = catalog.search("a").mlflow_experiment_id
        reader.client.delete_run(catalog.trial(search.id, 0).mlflow_run_id or "")
        assert told(home, fix=True) == ([], ["MLflow has no run of trials [0]"])
        assert told(home) == ([], []), "said to be mended, and told again for ever"
        assert len(reader.client.search_runs([renamed])) == 6
        reader.client.rename_experiment(reader.experiment.experiment_id, "another")
        reader.client.rename_experiment(renamed, EXPERIMENT)

        reader.client.delete_run(reader.parent().info.run_id)
        problem, *more = told(home)[0]
        assert problem.startswith("MLflow has no run of the search itself: ")
        assert len(more) == 1, "all trials are nested in a run that is gone"
        told(home, fix=True)
        assert told(home) == ([], [])
        assert len(reader.trials()) == 5

        away = Home.at(tmp_path, None, "http://me:secret@127.0.0.1:1")
        (found,) = examine(away, "a", fix=True)
        assert (found["problems"], found["mended"]) == ([], [])
        shown = call("doctor", "--home", str(tmp_path), "--tracking-uri", away.tracking)
        assert shown.stdout == "a: complete, run by nobody\n"
        assert shown.stderr.startswith("MLflow cannot be reached, so its runs were not compared (")
        assert shown.stderr.endswith("; nothing is lost\n")
        assert "secret" not in str(found) + shown.stderr

"""What arrives in MLflow, on a real MLflow database; kills included."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import mlflow
import pytest

from objectives.placement import Placement
from search import tracking
from search.catalog import Catalog
from search.catalog.outbox import backlog, pending
from search.tracking import Tracker
from tests.dashboards.documents import document
from tests.search.recorded import PLACEMENTS, Reader, begin, end_trial, queue_once_more
from tests.waiting import wait_for


@pytest.fixture
def storage(request: pytest.FixtureRequest) -> str:
    """SQLite, except in a test that is marked `on_both`."""
    url: str = request.getfixturevalue(getattr(request, "param", "sqlite"))
    return url


on_both = pytest.mark.parametrize("storage", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def tracker(catalog: Catalog, tracking_uri: str, tmp_path: Path) -> Tracker:
    return Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document(), flags=" --home '/my home'")


@pytest.fixture
def reader(tracking_uri: str) -> Reader:
    return Reader(tracking_uri)


@on_both
def test_a_search_becomes_a_parent_and_nested_runs(
    catalog: Catalog, tracker: Tracker, reader: Reader, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    adapter = tmp_path / "adapters" / "7"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    search = begin(catalog)
    end_trial(catalog, search, 7, adapter=str(adapter), adapter_sha256="ff")
    end_trial(catalog, search, 1, "failed", reason="the loss is NaN at step 3", measurement=None)
    assert tracker.drain() == 3
    assert (reader.parent().info.status, reader.parent().data.tags["budget"]) == ("RUNNING", "6")
    catalog.record_test(search.id, 7, {"accuracy": 0.61, "accuracy_ci": [0.5, 0.7], "rows": 500})
    catalog.set_status(search.id, "complete", elapsed_s=131.0)
    assert tracker.drain() == 1
    assert tracker.drain() == backlog(catalog) == 0
    # Standard output belongs to --json, and standard error to the progress.
    assert capfd.readouterr() == ("", "")

    parent, trials = reader.parent(), reader.trials()
    assert (parent.info.run_name, parent.info.status) == ("demo", "FINISHED")
    assert parent.data.params == {
        "seed": "3", "ranks": "4,8,16", "alpha": "2r", "label_weight": "4.0"
    }  # fmt: skip
    assert parent.data.metrics["hypervolume"] == 0.53
    told = parent.data.metrics
    assert (told["base_accuracy"], told["base_test_accuracy"]) == (0.2, 0.21), "named as those of a trial are"
    assert (told["trials_complete"], told["front_size"], told["elapsed_s"]) == (4, 3, 131.0)
    tags = parent.data.tags
    assert tags["budget"] == "6", "which a resumed search may change"
    assert (tags["search"], tags["model"], tags["data"], tags["status"]) == (
        "demo",
        "models/tiny",
        "data/questions",
        "complete",
    )
    assert "which modules of `models/tiny` should LoRA adapt" in tags["mlflow.note.content"]
    export, recipe = re.findall(r"^    (python -m search .+)$", tags["mlflow.note.content"], re.MULTILINE)
    assert export == "python -m search export demo --pick recommended --out DIR --home '/my home'"
    assert recipe == "python -m search recipe demo --for TOOL --home '/my home'"
    assert catalog.search("demo").mlflow_run_id == parent.info.run_id
    assert catalog.search("demo").mlflow_experiment_id == parent.info.experiment_id

    assert {number: run.info.status for number, run in trials.items()} == {7: "FINISHED", 1: "FAILED"}
    good, bad = trials[7], trials[1]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {parent.info.run_id}
    assert (good.info.run_name, good.data.tags["reference"]) == ("o_proj r8", "o_proj only")
    assert good.data.params == {
        "targets": "o_proj",
        "rank": "8",
        "alpha": "16",
        "seed": "3",
        "group.down_proj": "0",
        "group.k_proj": "0",
        "group.o_proj": "1",
        "group.q_proj": "0",
    }
    assert good.data.metrics == {
        "accuracy": 0.6,
        "validation_loss": 0.9,
        "tpot_ratio": 1.12,
        "tpot_p50_ms": 4.3,
        "tpot_p95_ms": 4.6,
        "ttft_p95_ms": 9.6,
        "parameters": 12800,
        "steps": 200,
        "seconds_training": 3.5,
        "training_loss": 1.7,
        "test_accuracy": 0.61,
    }
    curve = reader.client.get_metric_history(good.info.run_id, "training_loss")
    assert [(metric.step, metric.value) for metric in curve] == [(10, 2.1), (30, 1.7)]
    assert (bad.data.tags["status"], bad.data.tags["reason"]) == ("failed", "the loss is NaN at step 3")
    recorded = catalog.trial(search.id, 7)
    assert recorded.mlflow_run_id == good.info.run_id
    assert good.info.start_time == int(recorded.asked_at.timestamp() * 1000)
    assert recorded.ended_at is not None
    assert good.info.end_time == int(recorded.ended_at.timestamp() * 1000)
    loaded = reader.client.download_artifacts(good.info.run_id, "adapter", str(tmp_path))
    assert (Path(loaded) / "adapter_model.safetensors").read_bytes() == bytes(range(256))


def test_the_front_is_a_figure_a_table_and_tags(
    catalog: Catalog,
    tracker: Tracker,
    reader: Reader,
    tracking_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = begin(catalog)
    for number in PLACEMENTS:
        end_trial(catalog, search, number)
    catalog.set_status(search.id, "complete")
    tracker.drain()
    parent = reader.parent()
    front = {int(run.data.tags["trial"]) for run in reader.runs("tags.front = 'true'")}
    assert front == {member["trial"] for member in document()["front"]}
    assert [run.data.tags["trial"] for run in reader.runs("tags.recommended = 'true'")] == ["2"]
    assert len(reader.runs("tags.front = 'false'")) == 2
    page = Path(reader.client.download_artifacts(parent.info.run_id, "front.html", str(tmp_path))).read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert "<h1>demo: accuracy against TPOT</h1>" in page
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)  # which load_table reads, whatever its client has
    table = reader.client.load_table(reader.experiment.experiment_id, "front.json", [parent.info.run_id])
    assert table["placement"].tolist() == ["o_proj r8", "down_proj+o_proj r8", "down_proj+o_proj+q_proj r16"]
    assert table["accuracy"].tolist() == [0.61, 0.64, 0.68]


def test_the_experiment_says_how_to_read_it(catalog: Catalog, tracker: Tracker, reader: Reader, tmp_path: Path) -> None:
    begin(catalog)
    tracker.drain()
    assert reader.experiment.artifact_location == (tmp_path / "mlartifacts").as_uri()
    note = reader.experiment.tags["mlflow.note.content"]
    for named in ("front.html", "front.json", "tags.front = 'true'", "test_accuracy", "tpot_ratio", "group.*"):
        assert named in note
    assert mlflow.active_run() is None


def test_what_is_delivered_twice_is_there_once(catalog: Catalog, tracker: Tracker, reader: Reader) -> None:
    search = begin(catalog)
    end_trial(catalog, search, 7)
    catalog.set_status(search.id, "complete")
    rows = pending(catalog)
    tracker.drain()
    before = {run.info.run_id: (run.info.status, run.data.to_dictionary()) for run in reader.runs()}
    queue_once_more(catalog, rows)
    assert tracker.drain() == 3
    assert {run.info.run_id: (run.info.status, run.data.to_dictionary()) for run in reader.runs()} == before
    for run in reader.runs():
        for name in run.data.metrics:
            history = reader.client.get_metric_history(run.info.run_id, name)
            assert len({(metric.step, metric.timestamp) for metric in history}) == len(history)


class Killed(BaseException):
    """Passes everything that catches errors, as a kill does."""


@pytest.mark.parametrize("moment", ["set_mlflow_search", "set_mlflow_trial", "delivered"])
def test_a_kill_at_the_worst_moment_leaves_one_run(
    moment: str,
    catalog: Catalog,
    tracking_uri: str,
    reader: Reader,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search = begin(catalog)
    end_trial(catalog, search, 7)

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tracking if moment == "delivered" else Catalog, moment, killed)
        while True:
            assert Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document()).drain()
    Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document()).drain()
    assert backlog(catalog) == 0
    assert len(reader.runs()) == 2
    assert catalog.search("demo").mlflow_run_id == reader.parent().info.run_id
    assert catalog.trial(search.id, 7).mlflow_run_id == reader.trials()[7].info.run_id


def test_a_resumed_search_runs_again_and_ends(catalog: Catalog, tracker: Tracker, reader: Reader) -> None:
    search = begin(catalog)
    end_trial(catalog, search, 7)
    catalog.set_status(search.id, "interrupted", "Ctrl-C")
    tracker.drain()
    first = reader.parent()
    assert (first.info.status, first.data.tags["status"], first.data.tags["reason"]) == (
        "KILLED",
        "interrupted",
        "Ctrl-C",
    )
    catalog.set_spec(search.id, search.spec | {"budget": 9})
    catalog.set_status(search.id, "running")
    end_trial(catalog, search, 4)
    tracker.drain()
    assert (reader.parent().info.status, reader.parent().data.tags["status"]) == ("RUNNING", "running")
    catalog.set_status(search.id, "complete")
    tracker.drain()
    assert (reader.parent().info.status, reader.parent().info.run_id) == ("FINISHED", first.info.run_id)
    assert (reader.parent().data.tags["reason"], reader.parent().data.tags["budget"]) == ("", "9")
    assert not reader.runs("attributes.status = 'RUNNING'")


def test_rows_that_come_late_do_not_undo_newer_ones(catalog: Catalog, tracker: Tracker, reader: Reader) -> None:
    search = begin(catalog)
    catalog.set_status(search.id, "interrupted")
    catalog.set_status(search.id, "running")
    tracker.drain()
    assert reader.parent().info.status == "RUNNING"
    catalog.set_status(search.id, "running")
    catalog.set_status(search.id, "failed", "no worker")
    tracker.drain()
    assert reader.parent().info.status == "FAILED"


@pytest.mark.parametrize("status", ["stopped", "infeasible"])
def test_what_never_finished_has_what_it_has(status: str, catalog: Catalog, tracker: Tracker, reader: Reader) -> None:
    search = begin(catalog)
    end_trial(catalog, search, 7, status, measurement={"latency": {"ratio": 1.9}}, steps=0, reason="over 1.5")
    tracker.drain()
    run = reader.trials()[7]
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", status)
    assert run.data.metrics == {"tpot_ratio": 1.9, "steps": 0}


def test_a_vanished_adapter_is_said_and_no_error(catalog: Catalog, tracker: Tracker, reader: Reader) -> None:
    search = begin(catalog)
    end_trial(catalog, search, 7, adapter="/nowhere/7")
    assert tracker.drain() == 2
    assert reader.trials()[7].data.tags["adapter"] == "not found when this run was written: /nowhere/7"


def test_long_curves_and_odd_names_arrive_whole(catalog: Catalog, tracker: Tracker, reader: Reader) -> None:
    groups = [f"mlp.experts[{number}]" for number in range(150)]
    search = catalog.create_search(
        "odd", {"alpha": "2r", "template": "x" * 9000, "nested": {"a(b)": 1}}, {"groups": groups}
    )
    losses = [[step, 1 / (step + 1)] for step in range(2500)]
    end_trial(catalog, search, 7, measurement={"losses": losses}, reason="why\n" * 4000)
    assert tracker.drain() == 2
    run = reader.trials()[7]
    assert len(reader.client.get_metric_history(run.info.run_id, "training_loss")) == 2500
    assert run.data.params["group.mlp.experts_149_"] == "0"
    assert reader.parent().data.params["nested.a_b_"] == "1"


def test_a_long_label_is_cut_to_what_every_database_of_mlflow_takes(
    catalog: Catalog, tracker: Tracker, reader: Reader
) -> None:
    """Seven groups in three bands, as the reference of all linear layers has them."""
    search = begin(catalog)
    groups = [f"{name}[{band}]" for name in ("down_proj", "gate_proj", "k_proj", "up_proj") for band in range(10, 30)]
    placement = Placement.of(groups, 8)
    catalog.add_trial(search.id, 7, placement, None)
    assert catalog.record(search.id, 7, "complete", measurement={})
    tracker.drain()
    run = reader.trials()[7]
    assert len(run.info.run_name) == 250
    assert placement.label.startswith(run.info.run_name[:-1])
    assert run.data.params["targets"] == ",".join(placement.groups)


def test_a_trial_that_went_on_has_each_step_once_and_no_reason(
    catalog: Catalog, tracker: Tracker, reader: Reader
) -> None:
    """It was given up when time was over, and the search was resumed."""
    search = begin(catalog)
    catalog.add_trial(search.id, 7, PLACEMENTS[7], None)
    assert catalog.stop(search.id, 7, {"losses": [[10, 2.0], [20, 1.9]]}, 20)
    catalog.give_up(search.id, 7, "at 20 of 40 steps, when --max-hours was over")
    tracker.drain()
    assert reader.trials()[7].data.tags["reason"].startswith("at 20 of 40 steps")
    catalog.take_up(search.id, 7)
    assert catalog.go_on(search.id, 7)
    losses = [[10, 2.0], [20, 1.9], [30, 1.8], [40, 1.7]]
    assert catalog.record(search.id, 7, "complete", measurement={"losses": losses}, steps=40)
    tracker.drain()
    run = reader.trials()[7]
    assert (run.data.tags["status"], run.data.tags["reason"]) == ("complete", "")
    history = reader.client.get_metric_history(run.info.run_id, "training_loss")
    assert sorted((point.step, point.value) for point in history) == [(step, loss) for step, loss in losses]


def test_a_run_that_someone_deleted_is_written_anew(catalog: Catalog, tracker: Tracker, reader: Reader) -> None:
    search = begin(catalog)
    tracker.drain()
    reader.client.delete_run(reader.parent().info.run_id)
    end_trial(catalog, search, 7)
    tracker.drain()
    assert reader.trials()[7].data.tags["mlflow.parentRunId"] == reader.parent().info.run_id


@pytest.mark.parametrize("resumed", [True, False])
def test_an_experiment_that_someone_deleted_is_restored(
    catalog: Catalog, tracker: Tracker, reader: Reader, tracking_uri: str, tmp_path: Path, resumed: bool
) -> None:
    search = begin(catalog)
    tracker.drain()
    reader.client.delete_experiment(reader.experiment.experiment_id)
    end_trial(catalog, search, 7)
    if resumed:
        tracker = Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document())
    assert [tracker.drain(), tracker.drain()] == ([1, 0] if resumed else [0, 1]), "refused, and then restored"
    assert reader.experiment.lifecycle_stage == "active"
    assert list(reader.trials()) == [7]


def test_a_new_tracking_database_gets_the_search_too(
    catalog: Catalog, tracker: Tracker, migrated_mlflow: Path, tmp_path: Path
) -> None:
    search = begin(catalog)
    tracker.drain()
    other = tmp_path / "other.db"
    other.write_bytes(migrated_mlflow.read_bytes())
    end_trial(catalog, search, 7)
    Tracker(catalog, f"sqlite:///{other}", tmp_path / "mlartifacts", lambda _: document()).drain()
    reader = Reader(f"sqlite:///{other}")
    assert list(reader.trials()) == [7]
    assert catalog.search("demo").mlflow_run_id == reader.parent().info.run_id


@on_both
def test_many_trackers_at_once_deliver_once(
    catalog: Catalog, tracking_uri: str, reader: Reader, tmp_path: Path
) -> None:
    search = begin(catalog)
    for number in PLACEMENTS:
        end_trial(catalog, search, number)
    catalogs = [Catalog(catalog.url) for _ in range(3)]
    trackers = [Tracker(each, tracking_uri, tmp_path / "mlartifacts", lambda _: document()) for each in catalogs]
    for each in trackers:
        each.start()
    assert [each.stop(30) for each in trackers] == [0, 0, 0]
    assert len(reader.runs()) == 6
    for each in catalogs:
        each.close()


def test_the_thread_delivers_while_the_search_goes_on(catalog: Catalog, tracker: Tracker, reader: Reader) -> None:
    tracker.start()
    search = begin(catalog)
    wait_for(lambda: backlog(catalog) == 0)
    end_trial(catalog, search, 7)
    end_trial(catalog, search, 4)
    catalog.set_status(search.id, "complete")
    assert tracker.stop(30) == 0
    assert reader.parent().info.status == "FINISHED"
    assert not [thread for thread in threading.enumerate() if thread.name == "tracker"]


def test_one_row_that_cannot_be_written_holds_up_no_other(
    catalog: Catalog, tracking_uri: str, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.tracking._BATCH", 1)  # as many as are refused
    broken = True

    def flaky(search_id: str) -> dict[str, Any]:
        if broken and search_id == first.id:
            raise KeyError("accuracy")
        return document()

    first, second = begin(catalog, "first"), begin(catalog, "second")
    catalog.set_status(first.id, "complete")
    catalog.set_status(second.id, "complete")
    tracker = Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", flaky)
    assert tracker.drain() == 3
    ((row),) = pending(catalog)
    assert (row.search_id, row.kind, row.attempts, row.error) == (first.id, "result", 1, "KeyError: 'accuracy'")
    broken = False
    assert (tracker._failures, tracker.drain(), tracker._failures) == (1, 1, 0)
    assert {run.info.status for run in reader.runs()} == {"FINISHED"}

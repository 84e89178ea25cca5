"""Searches side by side, from a real catalog: what is compared, what is left out, what is refused."""

from __future__ import annotations

import io
import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from objectives.errors import RequestError
from objectives.placement import Placement
from search.across import _ratio, _requests, _shape, _tail_saving, comparison_document
from search.catalog import Catalog
from search.catalog.records import TrialRecord
from search.mlflow_runs import MlflowRuns
from search.mlflow_store import EXPERIMENT
from search.terminal import print_comparison
from tests import forked
from tests.commands import environment
from tests.dashboards.documents import comparison
from tests.json_reference import undescribed
from tests.search.recorded import begin, evaluation, latency, record_task

A = {"o_proj": 60, "o_proj+q_proj": 80, "k_proj": 30}
B = {"o_proj": 70, "o_proj+q_proj": 65, "k_proj": 30}


@pytest.fixture
def storage(sqlite: str) -> str:
    """What is read here is read the same from both backends (test_catalog)."""
    return sqlite


@pytest.fixture
def both(catalog: Catalog) -> Catalog:
    record_task(catalog, "a", A)
    record_task(catalog, "b", B)
    return catalog


def by_label(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["label"]: each for each in document["placements"]}


def refusal(catalog: Catalog, *names: str, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        comparison_document(catalog, names, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_document_is_the_contract(both: Catalog) -> None:
    document = comparison_document(both, ["a", "b"])
    json.dumps(document, allow_nan=False)
    assert document["tasks"] == ["a", "b"]
    assert (document["split"], document["rows"], document["paired"]) == (
        "validation",
        {"a": 100, "b": 100},
        {"a": True, "b": True},
    )
    assert document["base"]["a"]["accuracy"] == 0.2
    found = by_label(document)
    assert list(found) == ["o_proj r8", "k_proj r8", "o_proj+q_proj r8"], "the fastest first"
    one = found["o_proj r8"]
    assert (one["targets"], one["rank"], one["reference"]) == (["o_proj"], 8, "o_proj only")
    assert one["tpot_ratio"] == pytest.approx(1.1)
    assert one["accuracy"] == {"a": 0.6, "b": 0.7}
    assert one["gain"] == pytest.approx({"a": 0.4, "b": 0.5})
    assert one["regret"] == pytest.approx({"a": 0.2, "b": 0.0})
    assert (one["mean_regret"], one["worst_regret"]) == pytest.approx((0.1, 0.2))
    assert found["o_proj+q_proj r8"]["worst_regret"] == pytest.approx(0.05)
    low, high = found["o_proj+q_proj r8"]["regret_ci"]["b"]
    assert low == 0.0
    assert high > 0.05
    assert document["rank_stability"]["kendall_tau_b"] == pytest.approx(1 / 3)
    assert document["left_out"] == document["notes"] == []


def test_the_default_and_its_sentence(both: Catalog) -> None:
    chosen = comparison_document(both, ["a", "b"])["robust_default"]
    assert (chosen["targets"], chosen["rank"]) == (["o_proj", "q_proj"], 8)
    assert chosen["against"]["label"] == "o_proj r8", "it is itself the most accurate and the slowest"
    assert (
        chosen["why"] == "it has the smallest worst regret, and every faster one has a larger one beyond its interval"
    )
    assert chosen["sentence"].startswith("o_proj+q_proj r8 is within 5.0 points of the best on every task (with 95%")
    capped = comparison_document(both, ["a", "b"], max_tpot_ratio=1.15)["robust_default"]
    assert capped["targets"] == ["o_proj"]
    assert capped["against"]["tpot_saving"] == pytest.approx(1 - 1.1 / 1.2)
    assert capped["against"]["tpot_p95_saving"] == pytest.approx(1 - 1.1 / 1.2)
    assert " lower TPOT p95 than o_proj+q_proj r8, the most accurate on average (TPOT ratio 1.100" in capped["sentence"]
    assert comparison_document(both, ["a", "b"], max_tpot_ratio=1.05)["robust_default"] is None


@pytest.mark.parametrize(
    ("reach", "label", "says"),
    [
        (0.02, "o_proj r8", "the fastest whose worst regret cannot be told from the smallest, the 0.0 points of "
         "o_proj+q_proj r8"),
        (0.30, "o_proj+q_proj r8", "it has the smallest worst regret, and every faster one has a larger one beyond its "
         "interval, but for o_proj only r8, whose lower latency may be noise (1.100 for 1.200)"),
    ],
)  # fmt: skip
def test_what_is_faster_by_noise_is_no_default_but_is_named(
    catalog: Catalog, reach: float, label: str, says: str
) -> None:
    for name in ("a", "b"):
        record_task(catalog, name, {"o_proj": 88, "o_proj+q_proj": 90}, reach=reach)
    chosen = comparison_document(catalog, ["a", "b"])["robust_default"]
    assert (chosen["label"], chosen["why"]) == (label, says)


def test_without_scores_of_rows_intervals_are_wider_and_said_to_be_unpaired(both: Catalog) -> None:
    record_task(both, "old a", A, kept=False)
    record_task(both, "old b", B, kept=False)
    old, new = comparison_document(both, ["old a", "old b"]), comparison_document(both, ["a", "b"])
    assert old["paired"] == {"old a": False, "old b": False}
    for before, now in zip(old["placements"], new["placements"], strict=True):
        assert before["regret"]["old a"] == now["regret"]["a"]
        assert before["worst_regret_ci"][1] > now["worst_regret_ci"][1]


def test_what_is_left_out_has_a_reason(both: Catalog) -> None:
    record_task(both, "c", {"o_proj": 50, "v_proj": 50})
    unlucky = both.search("c")
    both.add_trial(unlucky.id, 2, Placement.of(["k_proj"], 8), None)
    both.record(unlucky.id, 2, "failed", reason="the loss is NaN at step 3", measurement=None)
    document = comparison_document(both, ["a", "b", "c"])
    assert list(by_label(document)) == ["o_proj r8"]
    assert {each["label"]: each["why"] for each in document["left_out"]} == {
        "k_proj r8": "failed in c: the loss is NaN at step 3",
        "o_proj+q_proj r8": "not tried by c",
        "v_proj r8": "not tried by a",
    }
    assert document["rank_stability"] == {"kendall_tau_b": None}
    assert document["robust_default"]["against"] is None


def test_the_default_is_told_against_a_baseline_with_the_error_of_the_difference(both: Catalog) -> None:
    document = comparison_document(both, ["a", "b"], baseline="o_proj only r8")
    known, default = document["baseline"], document["robust_default"]
    assert (known["label"], default["label"]) == ("o_proj r8", "o_proj+q_proj r8")
    assert known["difference"] == pytest.approx({"a": 0.2, "b": -0.05})
    assert known["mean_difference"] == pytest.approx(0.075)
    widths = [high - low for low, high in known["difference_ci"].values()]
    low, high = known["mean_difference_ci"]
    assert high - low == pytest.approx(math.hypot(*widths) / 2), "of two that are independent"
    assert (low + high) / 2 == pytest.approx(0.075)
    assert undescribed("compare", document) == []

    itself = comparison_document(both, ["a", "b"], baseline="q_proj, o_proj")["baseline"]
    assert (itself["label"], itself["difference"], itself["mean_difference"]) == ("o_proj+q_proj r8", None, None)
    assert comparison_document(both, ["a", "b"])["baseline"] is None
    told = "the placements that all searches completed: choose from 'o_proj r8', 'k_proj r8', 'o_proj+q_proj r8'"
    for asked in ("o_proj r4", "v_proj", "o_proj k_proj"):
        assert refusal(both, "a", "b", baseline=asked) == f"--baseline {asked} is none of {told}"


def test_of_two_ranks_a_baseline_is_neither_and_searches_may_name_theirs(catalog: Catalog) -> None:
    for name, own in {"a": "o_proj", "b": "o_proj", "c": "k_proj", "d": "v_proj", "e": "v_proj"}.items():
        search = record_task(catalog, name, A, spec={"baseline": f"{own} r8"})
        catalog.add_trial(search.id, 9, Placement.of(["o_proj"], 4), None)
        measured = {"validation": evaluation(60), "latency": latency(1.05), "parameters": 1}
        assert catalog.record(search.id, 9, "complete", measurement=measured, adapter="adapters/9")
    assert refusal(catalog, "a", "b", baseline="o_proj") == (
        "--baseline o_proj may be several of the placements that all searches completed: choose from 'o_proj r4', "
        "'o_proj r8'"
    )
    assert comparison_document(catalog, ["a", "b"])["baseline"]["label"] == "o_proj r8"
    assert comparison_document(catalog, ["a", "b"], baseline="o_proj r4")["baseline"]["label"] == "o_proj r4"
    assert comparison_document(catalog, ["a", "c"])["baseline"] is None, "they differ"
    assert comparison_document(catalog, ["d", "e"])["baseline"] is None, "nobody tried it"


def test_the_test_split_is_compared_where_all_have_it(both: Catalog) -> None:
    document = comparison_document(both, ["a", "b"], split="test")
    assert list(by_label(document)) == ["o_proj r8"]
    assert document["placements"][0]["accuracy"] == {"a": 0.55, "b": 0.65}
    assert document["left_out"][0]["why"] == "not measured on the test split by a, where it is not on the front"


def test_what_is_no_difference_of_tasks_is_noted(both: Catalog) -> None:
    other = {"steps": 400, "alpha": "16", "label_weight": 0.0, "batch_size": 2, "accumulate": 8, "max_tokens": 20}
    other |= {"learning_rate": 0.01, "seed": 4}
    record_task(both, "c", A, spec=other, facts={"template": "{text}", "model": "models/copy"})
    both.set_base(both.search("c").id, (both.search("c").base or {}) | {"device": "cuda"})
    both.set_status(both.search("c").id, "interrupted")
    assert comparison_document(both, ["a", "c"])["notes"] == [
        "the searches differ in model: models/tiny in a, models/copy in c",
        "the searches differ in --steps: 200 in a, 400 in c",
        "the searches differ in --learning-rate: 0.001 in a, 0.01 in c",
        "the searches differ in --alpha: 2r in a, 16 in c",
        "the searches differ in --label-weight: 4.0 in a, 0.0 in c",
        "the searches differ in --batch-size: None in a, 2 in c",
        "the searches differ in --accumulate: None in a, 8 in c",
        "the searches differ in --max-tokens: None in a, 20 in c",
        "the searches differ in --template: None in a, {text} in c",
        "the searches differ in --seed: 3 in a, 4 in c",
        "the searches differ in device: cpu, 1 thread in a, cuda in c",
        "search c is interrupted: placements may be missing",
    ]


def test_searches_of_the_same_data_are_no_independent_tasks(catalog: Catalog) -> None:
    for name, data in (("a", "one"), ("b", "two"), ("c", "one")):
        record_task(catalog, name, A, facts={"data_hash": data})
    assert comparison_document(catalog, ["a", "b", "c"])["notes"] == [
        "searches a, c are of the same data: intervals over tasks take their rows for different ones, and "
        "may be too narrow"
    ]


def test_encoders_are_compared_by_the_time_of_their_passes(catalog: Catalog) -> None:
    for name in ("a", "b"):
        record_task(catalog, name, A, axis="ttft", facts={"kind": "encoder"})
    document = comparison_document(catalog, ["a", "b"], max_tpot_ratio=1.15)
    assert document["latency_axis"] == "ttft"
    assert by_label(document)["o_proj r8"]["ttft_p95_ms"] == pytest.approx(4.1 * 1.1)
    assert document["robust_default"]["against"]["ttft_p95_saving"] == pytest.approx(1 - 1.1 / 1.2)


def test_a_latency_is_the_mean_of_what_the_searches_measured(both: Catalog) -> None:
    placement = Placement.of(["o_proj"], 8)
    (here,) = (trial for trial in both.trials(both.search("a").id) if trial.placement == placement)
    again = {"latency": here.latency | {"ratio": 1.3, "ratio_ci": [1.26, 1.34], "tpot_p95_ms": 5.51}}
    tried = {"a": {placement: here}, "b": {placement: replace(here, measurement=again)}}
    ratio = _ratio(tried, placement)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.2, 1.17, 1.23))
    assert _shape(placement, tried, "tpot", ratio)["tpot_p95_ms"] == pytest.approx((4.51 + 5.51) / 2)


def test_a_request_counts_once_and_where_both_models_answered_more_than_a_token(both: Catalog) -> None:
    placement = Placement.of(["o_proj"], 8)
    tried = {name: {t.placement: t for t in both.trials(both.search(name).id)} for name in ("a", "b")}
    base, adapted = _requests(tried, "tpot", placement)
    assert (len(base), len(adapted)) == (20, 20), "both searches used one profile"

    def told(trial: TrialRecord, **samples: Any) -> TrialRecord:
        measured = json.loads(json.dumps(trial.measurement))
        measured["latency"]["samples"]["adapted"] |= samples
        return replace(trial, measurement=measured)

    tried["b"][placement] = told(tried["b"][placement], output_tokens=[1] + [3] * 19)
    assert [len(each) for each in _requests(tried, "tpot", placement)] == [39, 39]
    for found in tried.values():
        found[placement] = told(found[placement], output_tokens=[1] * 19 + [3])
    assert _tail_saving(tried, "tpot", placement, Placement.of(["k_proj"], 8)) == {}, "of one request"


def test_heads_of_encoders_are_no_difference_of_structure(catalog: Catalog) -> None:
    record_task(catalog, "two labels", A, facts={"kind": "encoder", "structure": "2"})
    record_task(catalog, "six labels", A, facts={"kind": "encoder", "structure": "6"})
    assert comparison_document(catalog, ["two labels", "six labels"])["tasks"] == ["two labels", "six labels"]


def test_what_cannot_be_compared_is_refused(both: Catalog) -> None:
    record_task(both, "other", A, facts={"structure": "0ff", "model": "models/large"})
    record_task(both, "apart", {"v_proj": 50})
    begin(both, "begun")
    record_task(both, "halves", A, spec={"bands": 2})
    record_task(both, "thirds", A, spec={"bands": 3})
    assert refusal(both, "halves", "thirds") == (
        "searches halves and thirds have other bands (2, 3): compare searches of one --bands"
    )
    assert refusal(both, "a") == ("1 search cannot be compared: name at least two; `list` shows them")
    assert refusal(both, "a", "b", "a") == "search a is named twice: name each search once"
    assert refusal(both, "a", "x").startswith("no search is named 'x': known are ")
    assert refusal(both, "a", "other") == (
        "searches a and other are of models of different structure (models/tiny, models/large): compare searches of "
        "one model"
    )
    assert refusal(both, "a", "apart") == (
        "searches a, apart have no placement that all of them completed and measured on the validation split "
        "(not tried by apart: 3): run them with the same --ranks and --bands, or take `python -m search ablate`"
    )
    assert refusal(both, "a", "begun", flags=" --home there") == (
        "search begun has not measured its base model yet: wait for it, or continue it with `python -m search resume "
        "begun --home there`"
    )
    served = both.search("b").base or {}
    both.set_base(both.search("b").id, served | {"latency": served["latency"] | {"engine": "vllm"}})
    assert refusal(both, "a", "b") == (
        "searches a and b have latencies of different engines (transformers, vllm): compare searches of one --engine"
    )


def test_a_split_that_was_not_read_is_refused(both: Catalog) -> None:
    base = both.search("b").base or {}
    both.set_base(both.search("b").id, {"validation": evaluation(20), "latency": base["latency"]})
    assert refusal(both, "a", "b", split="test", flags=" --home there") == (
        "search b has not read its test split yet: continue it with `python -m search resume b --home there`"
    )


def compare(home: Path, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = forked.run(["compare", *args, "--home", str(home)], environment() | {"COLUMNS": "200"}, 60)
    assert done.returncode == code, done.stderr
    return done


def test_the_command(both: Catalog, tmp_path: Path) -> None:
    home = tmp_path / "home of 100% ünïcode"
    shown = compare(home, "a", "b", "--out", str(tmp_path / "page.html"))
    assert "Robust default: o_proj+q_proj r8" in shown.stdout
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    printed = json.loads(compare(home, "a", "b", "--json", "--out", str(tmp_path / "page.html")).stdout)
    assert printed == comparison_document(both, ["a", "b"])
    refused = compare(home, "a", "b", "--max-tpot-ratio", "0.5", code=2)
    assert refused.stderr.startswith("error: --max-tpot-ratio 0.5 is below 1")
    assert refused.stdout == ""
    assert compare(home, "a", "none", code=2).stderr.startswith("error: no search is named 'none'")


def test_the_terminal_shows_both_tables_and_what_follows(both: Catalog) -> None:
    stream = io.StringIO()
    print_comparison(comparison_document(both, ["a", "b"]), stream)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "models/tiny on 2 tasks: a, b"
    assert lines[1].split() == ["regret", "in", "points", "a", "b", "mean", "worst", "TPOT", "ratio"]
    assert any(line.startswith("o_proj+q_proj r8") and line.rstrip().endswith("robust default") for line in lines)
    assert any(line.startswith("Rank stability: Kendall's tau-b") for line in lines)


def test_mlflow_has_one_run_of_a_comparison(both: Catalog, tracking_uri: str, tmp_path: Path) -> None:
    runs = MlflowRuns(both, tracking_uri, tmp_path / "mlartifacts", lambda _: {})
    for _ in range(2):
        runs.write_comparison(comparison_document(both, ["a", "b"]))
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.comparison = 'true'")
    assert (run.info.run_name, run.info.status) == ("comparison of 2 tasks", "FINISHED")
    assert run.data.tags["mlflow.note.content"].startswith("Robust default: o_proj+q_proj r8")
    assert run.data.metrics["o_proj only r8.worst_regret"] == pytest.approx(0.2)
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"comparison.html", "comparison.json"}
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "comparison.json", str(tmp_path))).read_text())
    assert len(table["data"]) == 6


def test_placements_of_many_groups_have_metrics_of_their_own_in_mlflow(
    catalog: Catalog, tracking_uri: str, tmp_path: Path
) -> None:
    """MLflow takes names of 250 characters."""
    many = [f"layers_{number}_projection" for number in range(13)]
    labels = [Placement.of([*many, last], 8).label for last in ("a", "b")]
    assert min(map(len, labels)) > 250
    document = comparison()
    document["placements"] += [document["placements"][0] | {"label": label, "reference": None} for label in labels]
    MlflowRuns(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: {}).write_comparison(document)
    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.comparison = 'true'")
    assert run.info.status == "FINISHED"
    long = [name for name in run.data.metrics if "layers_0_projection" in name]
    assert sorted(name.rpartition(".")[2] for name in long) == sorted(["mean_regret", "tpot_ratio", "worst_regret"] * 2)

"""Searches side by side, from a real catalog: what is compared, what is left out, what is refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from objectives.errors import Interrupted, RequestError, SearchError, StoreError
from objectives.placement import Placement
from search.across import comparison_document
from search.catalog import Catalog
from search.home import Home
from search.mlflow_runs import MlflowRuns
from search.mlflow_store import EXPERIMENT
from search.several import _comparable, _named, _track, _unused, run_each
from search.spec import SearchSpec
from search.terminal import print_comparison
from tests.dashboards.documents import comparison
from tests.search.recorded import begin, evaluation, record_task

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


def test_the_test_split_is_compared_where_all_have_it(both: Catalog) -> None:
    document = comparison_document(both, ["a", "b"], split="test")
    assert list(by_label(document)) == ["o_proj r8"]
    assert document["placements"][0]["accuracy"] == {"a": 0.55, "b": 0.65}
    assert document["left_out"][0]["why"] == "not measured on the test split by a, where it is not on the front"


def test_what_is_no_difference_of_tasks_is_noted(both: Catalog) -> None:
    other = {"steps": 400, "alpha": "16", "label_weight": 0.0, "batch_size": 2, "accumulate": 8, "max_tokens": 20}
    record_task(both, "c", A, spec=other, facts={"template": "{text}"})
    both.set_status(both.search("c").id, "interrupted")
    assert comparison_document(both, ["a", "c"])["notes"] == [
        "the searches differ in --steps: 200 in a, 400 in c",
        "the searches differ in --alpha: 2r in a, 16 in c",
        "the searches differ in --label-weight: 4.0 in a, 0.0 in c",
        "the searches differ in --batch-size: None in a, 2 in c",
        "the searches differ in --accumulate: None in a, 8 in c",
        "the searches differ in --max-tokens: None in a, 20 in c",
        "the searches differ in --template: None in a, {text} in c",
        "search c is interrupted: placements may be missing",
    ]


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
    assert refusal(both, "a") == ("1 search cannot be compared: name at least two; `python -m search list` shows them")
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
    command = [sys.executable, "-m", "search", "compare", *args, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
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


def test_searches_of_several_data_sets_are_named_by_prefix_and_data(both: Catalog, tmp_path: Path) -> None:
    home = Home(tmp_path, both.url, "")

    def names(prefix: str | None, *data: str, kind: str = "") -> list[str | None]:
        specs = [SearchSpec(name=prefix, model="models/tiny", data=source) for source in data]
        return [spec.name for spec in _named(specs, home, kind)]

    assert names(None, "x/a.jsonl", "y/a", kind="ablate") == ["ablate-tiny-a", "ablate-tiny-a-2"]
    assert names(None, "x/mails", "x/talks") == ["tiny-mails", "tiny-talks"]
    assert names("nightly", "x/mails", "x/talks") == ["nightly-mails", "nightly-talks"]
    record_task(both, "nightly-talks", A)
    with pytest.raises(
        RequestError, match=f"^a search named 'nightly-talks' exists already .*resume nightly-talks --home {tmp_path}"
    ):
        names("nightly", "x/mails", "x/talks")
    with pytest.raises(RequestError, match=r"data set x/mails is given twice: give each data set once"):
        names(None, "x/mails", "x/mails")


def test_trials_of_several_data_sets_all_run_to_their_end() -> None:
    def strategies(*strategies: str) -> list[str]:
        return [spec.strategy for spec in _comparable([SearchSpec(strategy=strategy) for strategy in strategies])]

    assert strategies("auto", "auto") == ["tpe", "tpe"]
    assert strategies("random", "random") == ["random", "random"]
    assert strategies("auto") == ["auto"]


@pytest.mark.parametrize(
    ("given", "searches", "standard_list", "unused"),
    [
        ({}, 2, True, []),
        ({"strategy": "tpe", "budget": 60}, 1, True, ["--strategy tpe", "--budget 60"]),
        ({"stop_when": "settled"}, 2, True, ["--stop-when settled"]),
        ({"stop_when": "settled", "budget": 60}, 2, False, ["--stop-when settled"]),
        ({"stop_when": "settled", "strategy": "additive"}, 2, False, []),
        ({"stop_when": "settled", "budget": 60}, 1, False, []),
    ],
)
def test_what_several_searches_do_not_do_is_said(
    given: dict[str, Any], searches: int, standard_list: bool, unused: list[str]
) -> None:
    said = _unused([SearchSpec(**given)] * searches, standard_list)
    why = (
        "the reference placements are trained to their end, and no others"
        if standard_list
        else "trials of several data sets run to their end, so that they can be compared"
    )
    assert said == [f"{setting} is not used: {why}" for setting in unused]


def test_a_cap_that_leaves_no_reference_is_named(tmp_path: Path) -> None:
    spec = SearchSpec(max_adapter_mb=0.01, ranks=(4, 8, 16), validation_rows=4, test_rows=4)
    with pytest.raises(
        RequestError, match=r"^--max-adapter-mb 0.01 allows none of the reference placements: give more$"
    ):
        run_each([spec], Home.at(tmp_path, None, None), standard_list=True)


def on_data(folder: Path, *names: str, **settings: Any) -> list[SearchSpec]:
    """Of data sets that differ, each in a file of its own."""
    specs = [SearchSpec(data=str(folder / f"{name}.jsonl"), name="x", workers=1, **settings) for name in names]
    for spec in specs:
        rows = "".join(f'{{"text": "{n} of {spec.data}", "label": "{n % 2}"}}\n' for n in range(60))
        Path(spec.data or "").write_text(rows)
    return specs


def test_searches_that_share_nothing_are_told_all_the_same(
    both: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = iter(["o_proj", "k_proj"])

    def end(spec: SearchSpec, *_: object) -> dict[str, Any]:
        return {"search": record_task(both, spec.name or "", {next(ends): 50}).name}

    monkeypatch.setattr("search.several.start", end)
    said = io.StringIO()
    found = run_each(on_data(tmp_path, "one", "two"), Home.at(tmp_path, both.url, None), progress_stream=said)
    assert [each["search"] for each in found["searches"]] == ["x-one", "x-two"]
    assert found["comparison"] is None
    assert "note: searches x-one, x-two have no placement that all of them completed" in said.getvalue()


def test_several_searches_share_the_hours(both: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ends early, the second late, and the third gets a first result all the same."""
    hours: list[float] = []
    clock = 100.0

    def end(spec: SearchSpec, *_: object) -> dict[str, Any]:
        nonlocal clock
        hours.append(spec.max_hours or 0.0)
        clock += [3600.0, 6 * 3600.0, 0.0][len(hours) - 1]
        return {"search": record_task(both, spec.name or "", A).name}

    monkeypatch.setattr("search.several.start", end)
    monkeypatch.setattr("search.several.time", SimpleNamespace(monotonic=lambda: clock))
    specs = on_data(tmp_path, "one", "two", "three", max_hours=6.0)
    run_each(specs, Home.at(tmp_path, both.url, None), progress_stream=io.StringIO())
    assert hours == [2.0, 2.5, pytest.approx(0, abs=0.001)]


@pytest.mark.parametrize("kind", [SearchError, StoreError, Interrupted])
def test_whatever_ends_one_of_several_the_others_are_named(
    kind: type[SearchError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> dict[str, Any]:
        raise kind("it ended")

    monkeypatch.setattr("search.several.start", end)
    specs = on_data(tmp_path, "one", "two")
    with pytest.raises(kind) as ended:
        run_each(specs, Home.at(tmp_path, None, None), progress_stream=io.StringIO())
    left = f"it ended; not begun: {tmp_path}/two.jsonl: repeat the command with these, then compare all"
    assert (type(ended.value), str(ended.value)) == (kind, left)


def test_a_comparison_that_mlflow_did_not_take_can_be_made_again(both: Catalog, tmp_path: Path) -> None:
    said = io.StringIO()
    _track(both, Home.at(tmp_path, None, "http://127.0.0.1:9"), {"tasks": ["one", "two"]}, said)
    again = f"`python -m search compare one two --out FILE.html --home {tmp_path}` writes it as a page\n"
    assert said.getvalue().startswith("note: MLflow did not take the comparison (")
    assert said.getvalue().endswith(again)

from __future__ import annotations

import json
import math
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import words
from tests.dashboards import documents


def test_outcome_names_both_ends_the_base_and_the_ties() -> None:
    assert words.outcome(documents.document()) == (
        "The front has 3 placements. The most accurate by validation, down_proj+o_proj+q_proj r16, reaches accuracy "
        "0.680 [0.650, 0.710] on the test split at 1.310 times the base model's TPOT. The cheapest, o_proj r8, reaches "
        "0.610 [0.580, 0.640] on the test split at 1.120 times the base model's TPOT. The base model has 0.210 on the "
        "test split. The test interval of the most accurate overlaps with that of down_proj+o_proj r8: they may be "
        "tied."
    )


def test_outcome_of_one_placement_and_of_none() -> None:
    assert words.outcome(documents.single()) == (
        "The front is one placement: o_proj r8 reaches accuracy 0.610 [0.580, 0.640] on the test split at 1.120 times "
        "the base model's TPOT. The base model has 0.210 on the test split."
    )
    assert words.outcome(documents.empty()) == "No placement has both an accuracy and a latency, so there is no front."


def test_outcome_before_the_test_split_was_read_says_validation() -> None:
    text = words.outcome(documents.untested())
    assert "0.690 on the validation split" in text
    assert "The base model has 0.200 on the validation split." in text
    assert "test" not in text


@pytest.mark.parametrize("untested", ["base", 0, 2])
def test_outcome_compares_figures_of_one_split(untested: str | int) -> None:
    """A search that was resumed has members that were tested before, and new ones that were not yet."""
    full = documents.document(status="running")
    row = full["base"] if untested == "base" else full["front"][untested]
    row |= {"accuracy": None, "accuracy_ci": None}
    text = words.outcome(full)
    assert text.count("on the validation split") == 3
    assert "on the test split" not in text


def test_recommendation() -> None:
    assert words.recommendation(documents.document()) == (
        "Recommended: down_proj+o_proj r8 (trial 2): the cheapest within one standard error of the best. "
        "The knee of the front is o_proj r8 (trial 7)."
    )
    document = documents.document()
    document["recommended"]["why"] = "down_proj+o_proj r8 is the fastest placement, and | so on"
    named_once = "Recommended: down_proj+o_proj r8 (trial 2), which is the fastest placement, and | so on. "
    assert words.recommendation(document).startswith(named_once)
    assert words.recommendation(document, markdown=True).startswith(
        "Recommended: `down_proj+o_proj r8` (trial 2), which is the fastest placement, and \\| so on. "
    )
    assert words.recommendation(documents.single()).endswith(": the only one. It is also the knee of the front.")
    assert words.recommendation(documents.empty()) == ""


def test_state_counts_trials() -> None:
    assert words.state(documents.document()) == (
        "complete, 6 of 6 trials (4 complete, 1 failed, 1 infeasible) in 2m11s"
    )
    assert words.state(documents.empty()) == "interrupted, 0 of 6 trials"


def test_front_table_starts_with_the_base_and_grows_dearer() -> None:
    header, rows = words.front_table(documents.document())
    assert header[2:5] == ["test accuracy", "validation", "TPOT ratio"]
    assert [row[-1] for row in rows] == ["", "knee", "recommended", ""]
    assert [row[:-1] for row in rows] == [
        ["-", "base model", "0.210 [0.180, 0.250]", "0.200", "1.000", "4.10", "0"],
        ["7", "o_proj r8", "0.610 [0.580, 0.640]", "0.600", "1.120 [1.100, 1.140]", "4.60", "12,800"],
        ["2", "down_proj+o_proj r8", "0.640 [0.610, 0.670]", "0.660", "1.200 [1.180, 1.220]", "4.60", "12,800"],
        ["4", "down_proj+o_proj+q_proj r16", "0.680 [0.650, 0.710]", "0.690", "1.310 [1.290, 1.330]", "4.60", "12,800"],
    ]


def test_the_base_is_not_marked_where_nothing_is() -> None:
    assert words.front_table(documents.empty())[1] == [["-", "base model", "-", "-", "1.000", "-", "0", ""]]


def test_an_encoder_is_measured_by_the_time_of_its_requests() -> None:
    header, rows = words.front_table(documents.encoder())
    assert header[4:6] == ["request time ratio", "request time p95 ms"]
    assert rows[1][5] == "9.60"
    assert "answers in one pass" in words.latency_meaning(documents.encoder())


def test_front_rows_are_flat_and_serialisable() -> None:
    rows = words.front_rows(documents.document())
    assert [row["trial"] for row in rows] == [7, 2, 4]
    figures = {name: value for name, value in rows[0].items() if isinstance(value, int | float)}
    assert figures == pytest.approx(
        {
            "trial": 7, "rank": 8, "accuracy": 0.61, "accuracy_low": 0.58, "accuracy_high": 0.64,
            "validation_accuracy": 0.6, "tpot_ratio": 1.12, "tpot_ratio_low": 1.1, "tpot_ratio_high": 1.14,
            "tpot_p50_ms": 4.3, "tpot_p95_ms": 4.6, "ttft_p95_ms": 9.6, "parameters": 12800, "adapter_mb": 0.05,
        }
    )  # fmt: skip
    texts = {name: value for name, value in rows[1].items() if isinstance(value, str)}
    assert texts == {
        "placement": "down_proj+o_proj r8", "targets": "down_proj+o_proj", "metric": "accuracy", "mark": "recommended",
        "mlflow_run_id": "0123abc",
    }  # fmt: skip
    assert all(isinstance(value, str | int | float | None) for row in rows for value in row.values())
    assert len({tuple(row) for row in rows}) == 1
    json.dumps(rows)


@pytest.mark.parametrize("case", documents.ALL)
def test_every_document_has_a_description_that_mlflow_keeps_whole(case: str) -> None:
    document = documents.ALL[case]()
    text = words.description(document)
    first, question = text.partition("\n\n")[0], "demo: which modules of `models/tiny`"
    assert first.startswith("**Recommended: " if document["front"] else question)
    assert question in text
    assert len(text) <= words.DESCRIPTION_LIMIT


def test_description_says_how_to_export_and_what_latency_means() -> None:
    text = words.description(documents.document(search="my search; rm"))
    assert f"    python -m search export {shlex.quote('my search; rm')} --pick recommended --out DIR" in text
    assert "A merged adapter costs the base model's latency" in text
    assert "- 1 failed: the loss is NaN at step 3" in text


def test_what_there_is_none_of_is_not_spoken_of() -> None:
    full = documents.document()
    full["effects"]["groups"]["accuracy"] = [documents.effect("down_proj", 0.08, 0.03)]
    assert not [sentence for sentence in words.effects(full) if sentence.startswith(("What takes", "No effect"))]
    full["effects"]["groups"]["accuracy"] = [documents.effect("down_proj", -0.08, 0.03)]
    full["effects"]["groups"]["tpot_ratio"] = [documents.effect("down_proj", 0.1, 0.03)]
    assert words.effects(full)[:2] == [
        "What takes from accuracy: down_proj.",
        "Each group costs 0.100 in TPOT ratio.",
    ]
    told = words.description(full)
    assert not re.search("more members|registered|champion", told)
    full |= {"champion": {"why": "champion stays: tied"}, "registry_uri": "models:/demo@champion"}
    assert "\n\nThe champion stays: tied.\n\nThe adapter to serve is registered as `models:/demo@champion`.\n\n" in (
        words.description(full)
    )


def test_a_member_without_a_latency_is_the_last_of_the_front() -> None:
    full = documents.document()
    full["front"][0]["tpot_ratio"], full["front"][1]["tpot_ratio"] = None, math.nan
    assert [member["trial"] for member in words.ordered_front(full)] == [4, 7, 2]


def test_a_long_front_is_shortened_and_says_so() -> None:
    text = words.description(documents.large(3000))
    shown = text.count("\n| ") - 2
    assert 0 < shown < 150
    assert f"{150 - shown + 1} more members of the front are in the table artifact." in text
    assert text.endswith("whatever it targets.")


@given(st.text(min_size=1, max_size=40))
def test_no_name_leaves_its_markdown_cell(name: str) -> None:
    full = documents.document(search=name, model=name)
    full["front"][0]["label"] = name
    table = words.front_table_markdown(full).splitlines()
    assert len(table) == 6
    assert {line.replace("\\|", "").count("|") for line in table} == {9}
    assert all(line.count("`") == 2 for line in table[2:])


def test_html_in_a_name_stays_text() -> None:
    evil = "<script>alert(1)</script>"
    full = documents.document(search=evil, model=evil, recommended={"trial": 2, "why": evil})
    for placement in full["front"]:
        placement["label"] = f"{evil} r8"
    text = words.description(full)
    outside_code = re.sub(r"`[^`]*`|^    .*$", "", text, flags=re.MULTILINE)
    assert "&lt;script&gt;" in outside_code
    assert "<" not in outside_code


def test_the_axis_names_mode_and_engine() -> None:
    assert words.latency_meaning(documents.document()) == (
        "The latency axis shows adapters served unmerged by transformers: the time per output token (TPOT) over that "
        "of the base model, measured by turns in one process. A merged adapter costs the base model's latency (ratio "
        "1.0), whatever it targets."
    )
    served = words.latency_meaning({**documents.document(), "latency_engine": "vllm"})
    assert "served unmerged by vllm" in served
    assert "by turns on the same server. What is wrapped there was decided when the server was started" in served
    other = words.latency_meaning({**documents.document(), "latency_engine": "transformers serve"})
    assert "by turns on the same server. A merged adapter costs" in other


def test_milliseconds_from_before_the_search_are_said_to_be_so() -> None:
    document = documents.document()
    for point in document["points"]:
        if point["trial"] in (2, 7):
            point["base_p50_ms"] = None
    assert words.latency_meaning(document).endswith(
        "whatever it targets. 2 of the front's 3 latencies were kept from before this search: compare their ratios, "
        "not their milliseconds."
    )
    next(point for point in document["points"] if point["trial"] == 2)["base_p50_ms"] = 4.0
    assert words.latency_meaning(document).endswith(
        "1 of the front's 3 latencies was kept from before this search: compare its ratio, not its milliseconds."
    )


def test_neighbours_say_what_a_step_costs() -> None:
    assert words.neighbours(documents.document()) == [
        "One step faster: o_proj r8, -0.060 in validation accuracy and -0.080 in TPOT ratio.",
        "One step more accurate: down_proj+o_proj+q_proj r16, +0.030 in validation accuracy and +0.110 in TPOT ratio.",
    ]
    assert words.neighbours(documents.single()) == [
        "Nothing on the front is faster.",
        "Nothing on the front is more accurate.",
    ]
    assert words.neighbours(documents.empty()) == []


def test_what_latencies_say_of_themselves() -> None:
    assert words.latency_check(documents.document()) == [
        "The base model against itself: a ratio of 1.003 [0.980, 1.020], what noise alone does to one here.",
        "Every trial's TPOT ratio was measured before it was trained. From what groups and rank add in the other "
        "trials it would have been told within 0.8% for half of 5 trials, and within 2.1% for all.",
        "The base model's own TPOT was 4.00 ms over the first quarter of 5 trials and 4.30 ms over the last: the "
        "machine was 7.5% slower at the end.",
        "Ratios are measured by turns with the base model, so that they should not feel it: over their predictions "
        "they moved by -0.4% [-1.2%, +0.5%].",
    ]
    assert words.latency_check(documents.empty()) == []
    steady = documents.document()
    steady["latency_check"]["drift"] |= {"base_last_ms": 4.0, "base_change": 0.0}
    assert words.latency_check(steady)[2].endswith("and 4.00 ms over the last: the machine was as fast at the end.")


def test_effects_are_told_by_how_sure_they_are() -> None:
    assert words.effects(documents.document()) == [
        "What adds accuracy on average over the placements tried: down_proj +0.080 [0.050, 0.110].",
        "What takes from it: o_proj.",
        "No effect beyond doubt, of either sign: q_proj.",
        "Each group costs 0.100 to 0.120 in TPOT ratio.",
        "Pairs whose accuracy is not the sum of both: down_proj+o_proj -0.050 [-0.060, -0.040].",
    ]
    assert words.effects(documents.document(effects=None)) == []


def test_of_many_groups_a_sentence_names_those_that_matter_most() -> None:
    adds, takes, doubtful, *_ = words.effects(documents.many_groups(70))
    assert adds.startswith(
        "What adds accuracy on average over the placements tried: layer0 +0.500 [0.495, 0.505], layer1 "
    )
    assert adds.endswith(" and 25 more.")
    assert takes == (
        "What takes from it: layer69, layer67, layer65, layer63, layer61, layer59, layer57, layer55, layer53, layer51 "
        "and 8 more."
    )
    assert doubtful.count("layer") == 10 and doubtful.endswith(" and 7 more.")


def test_spending_adds_up() -> None:
    header, rows = words.spending(documents.document())
    assert header == ["status", "trials", "steps", "training", "latency", "evaluation", "other"]
    assert rows[0] == ["complete", "4", "800", "16s", "4s", "2s", "0s"]
    assert [row[0] for row in rows] == ["complete", "failed", "infeasible"]
    assert sum(int(row[1]) for row in rows) == 6

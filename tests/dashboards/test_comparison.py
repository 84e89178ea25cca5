from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from dashboards import comparison as words
from dashboards.heat_map import regret_map
from dashboards.report import comparison_page
from tests.dashboards import documents
from tests.dashboards.test_report import Page


def against(**changes: Any) -> dict[str, Any]:
    document = documents.comparison()
    document["robust_default"]["against"] |= changes
    return document


@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        (["ablate-m-mails", "ablate-m-talks"], ["mails", "talks"]),
        (["trec6", "trec"], ["trec6", "trec"]),
        (["ablate-trec6", "ablate-trec"], ["trec6", "trec"]),
        (["a-b", "a-"], ["b", "a-"]),
        (["x", "y"], ["x", "y"]),
    ],
)
def test_a_task_is_called_by_what_is_its_own(tasks: list[str], names: list[str]) -> None:
    assert list(words.task_names({"tasks": tasks}).values()) == names


def test_regret_is_in_points_with_intervals() -> None:
    header, rows = words.regret_table(documents.comparison())
    assert header == ["regret in points", "mails", "talks", "mean", "worst", "TPOT ratio", ""]
    assert rows[1] == [
        "o_proj only r8",
        "2.0 [0.0, 5.0]",
        "0.0 [0.0, 3.0]",
        "1.0 [0.0, 3.0]",
        "2.0 [0.0, 5.0]",
        "1.200 [1.180, 1.220]",
        "robust default",
    ]
    assert [row[-1] for row in rows] == ["", "robust default", ""]


def test_gain_stands_beside_accuracy_of_each_tasks_metric() -> None:
    header, rows = words.accuracy_table(documents.comparison())
    assert header == ["placement", "mails accuracy, gain in points", "talks ROUGE-L, gain in points"]
    assert rows[0] == ["base model", "0.200 [0.170, 0.230]", "0.200 [0.170, 0.230]"]
    assert rows[1] == ["q_proj r8", "0.500  +30.0 [+25.0, +35.0]", "0.700  +50.0 [+45.0, +55.0]"]


def test_the_sentence_for_a_platform_team() -> None:
    assert words.default_sentence(documents.comparison()) == (
        "o_proj only r8 is within 2.0 points of the best on every task (with 95% confidence within 5.0), at 22.6% "
        "[18.0, 26.1] lower TPOT p95 than k_proj+v_proj r8, the most accurate on average (TPOT ratio 1.200 instead of "
        "1.500)."
    )


@pytest.mark.parametrize(
    ("value", "bounds", "says"),
    [(0.1, [-0.3, 0.4], "10.0% [-30.0, 40.0] lower"), (-0.5, [-0.9, -0.1], "50.0% [10.0, 90.0] higher")],
)
def test_a_percentile_that_other_load_made_is_no_headline(value: float, bounds: list[float], says: str) -> None:
    assert words.default_sentence(against(tpot_p95_saving=value, tpot_p95_saving_ci=bounds)) == (
        "o_proj only r8 is within 2.0 points of the best on every task (with 95% confidence within 5.0), at 20.0% "
        "lower TPOT than k_proj+v_proj r8, the most accurate on average (ratio 1.200 instead of 1.500; TPOT p95, with "
        f"all else that this machine did, is {says})."
    )


def test_a_dearer_default_is_said_to_be_dearer() -> None:
    document = against(tpot_saving=-0.25, tpot_p95_saving=-0.3, tpot_p95_saving_ci=[-0.35, -0.2])
    assert "at 30.0% [20.0, 35.0] higher TPOT p95 than" in words.default_sentence(document)
    document = against(tpot_saving=-0.25)
    del document["robust_default"]["against"]["tpot_p95_saving"]
    assert "at 25.0% higher TPOT than k_proj+v_proj r8" in words.default_sentence(document)


def test_a_rival_of_equal_latency_is_no_saving() -> None:
    """As where a server fuses both; percentiles of one measurement say nothing of two placements."""
    document = against(tpot_saving=0.0004)
    document["placements"][2]["tpot_ratio"] = 1.2005
    assert words.default_sentence(document).endswith(
        "within 5.0), at the same TPOT as k_proj+v_proj r8, the most accurate on average (ratio 1.200)."
    )


def test_an_only_placement_is_the_best_of_nothing() -> None:
    """As `--split test` leaves it, where fronts share no more: a regret of 0 there is no evidence."""
    document = documents.comparison(placements=[documents.compared("o_proj r8", 1.2, (0.0, 0.0))])
    document["robust_default"]["against"] = None
    assert words.default_sentence(document) == "o_proj r8 is the only placement that every task has a figure of."
    assert words.default_why(document) == "there is no other to choose from"


def test_a_default_without_a_rival_has_its_regret_alone() -> None:
    equal = [documents.compared(label, 1.2, (0.0, 0.0)) for label in ("o_proj r8", "q_proj r8")]
    document = documents.comparison(placements=equal)
    document["robust_default"]["against"] = None
    assert words.default_sentence(document).endswith("within 3.0).")


def test_why_this_default() -> None:
    document = documents.comparison()
    assert words.default_why(document) == (
        "the fastest whose worst regret cannot be told from the smallest, the 1.0 points of k_proj+v_proj r8"
    )
    assert words.default_why(documents.comparison(max_tpot_ratio=1.3)) == (
        "it has the smallest worst regret of those up to TPOT ratio 1.3, and every faster one has a larger one beyond "
        "its interval"
    )


def test_the_fastest_of_all_has_no_faster_rival() -> None:
    both = [documents.compared("o_proj r8", 1.2, (0.0, 0.0)), documents.compared("q_proj r8", 1.3, (0.1, 0.0))]
    document = documents.comparison(placements=both)
    assert words.default_why(document) == "it has the smallest worst regret, and none is faster"


def test_why_this_default_although_another_may_be_faster() -> None:
    document = documents.comparison()
    faster = document["placements"][0]
    but = ", but for q_proj r8, whose lower latency may be noise (1.100 for 1.200)"
    assert words.default_why(document, [faster]).endswith(f"the 1.0 points of k_proj+v_proj r8{but}")
    assert words.default_why(documents.comparison(max_tpot_ratio=1.3), [faster]).endswith(f"beyond its interval{but}")


def test_what_follows_is_said() -> None:
    assert words.sentences(documents.comparison()) == [
        "Robust default: o_proj only r8 is it. Why: the fastest of those.",
        "Rank stability: Kendall's tau-b of the placements' order is 0.33, the mean over pairs of tasks (1: all tasks "
        "order them alike, 0: as by chance).",
        "Figures are of the validation split (rows: 500 of mails, 500 of talks). Brackets hold 95% intervals over its "
        "rows, paired by row; each placement was trained once, with one seed, and what another seed would change is "
        "not in them.",
    ]


def test_a_baseline_is_marked_and_the_default_told_against_it() -> None:
    known = {"targets": ["k_proj", "v_proj"], "rank": 8, "label": "k_proj+v_proj r8"}
    known |= {"difference": {"ablate-mails": -0.02, "ablate-talks": 0.01}, "mean_difference": -0.005}
    known |= {"difference_ci": {"ablate-mails": [-0.05, 0.01], "ablate-talks": [-0.02, 0.04]}}
    document = documents.comparison(baseline=known | {"mean_difference_ci": [-0.026, 0.016]})
    assert [row[-1] for row in words.regret_table(document)[1]] == ["", "robust default", "baseline"]
    assert (
        "Against the baseline, k_proj+v_proj r8, it has -0.5 [-2.6, +1.6] points on average over tasks (mails -2.0 "
        "[-5.0, +1.0], talks +1.0 [-2.0, +4.0]), at a TPOT ratio of 1.200 instead of 1.500."
    ) in words.sentences(document)
    document["placements"][2]["reference"] = "baseline"
    assert any("Against the baseline, k_proj+v_proj r8, it has" in sentence for sentence in words.sentences(document))
    itself = documents.comparison(baseline={"targets": ["o_proj"], "rank": 8, "label": "o_proj r8", "difference": None})
    assert "The baseline, o_proj only r8, is the robust default." in words.sentences(itself)
    assert [row[-1] for row in words.regret_table(itself)[1]] == ["", "robust default", ""]
    none = documents.comparison(baseline=known, robust_default=None, max_tpot_ratio=1.05)
    assert not any("Against the baseline" in sentence for sentence in words.sentences(none))


def test_a_default_that_is_no_gain_and_intervals_that_are_not_paired_are_said() -> None:
    document = documents.comparison(paired={"ablate-mails": True, "ablate-talks": False})
    document["placements"][1]["gain_ci"]["ablate-mails"] = [-0.01, 0.05]
    _, useless, _, meaning = words.sentences(document)
    assert useless == "On mails it is not better than the base model beyond its interval."
    assert "not paired by row on talks" in meaning


def test_no_default_under_the_cap_is_said() -> None:
    document = documents.comparison(robust_default=None, max_tpot_ratio=1.05)
    assert words.sentences(document)[0] == (
        "No robust default: no placement has a TPOT ratio up to 1.05; the fastest, q_proj r8, has 1.100."
    )


def test_what_is_left_out_is_counted_by_reason() -> None:
    assert words.left_out_sentence(documents.comparison()) == (
        "2 placements are not compared: 1 not tried by ablate-talks; 1 failed in ablate-mails: out of memory."
    )
    assert words.left_out_sentence(documents.comparison(left_out=[])) == ""
    reasons = [{"why": f"not tried by {name}"} for name in "aabcde"]
    first = "2 not tried by a; 1 not tried by b; 1 not tried by c"
    for number, said in (
        (1, "1 placement is not compared: 1 not tried by a."),
        (4, f"4 placements are not compared: {first}."),
        (5, f"5 placements are not compared: {first}; others for 1 more reason, which --json has."),
        (6, f"6 placements are not compared: {first}; others for 2 more reasons, which --json has."),
    ):
        assert words.left_out_sentence(documents.comparison(left_out=reasons[:number])) == said


def test_rows_are_flat_and_serialisable() -> None:
    rows = words.rows_of(documents.comparison())
    assert len(rows) == 6
    assert len({tuple(row) for row in rows}) == 1
    assert (rows[2]["task"], rows[2]["regret"], rows[2]["robust_default"]) == ("ablate-mails", 0.02, True)
    json.dumps(rows)


def test_the_map_shows_every_regret_once() -> None:
    figure = regret_map(documents.comparison())
    (cells,) = figure.data
    assert [list(row) for row in cells.z] == [
        pytest.approx(row) for row in ([30, 10, 20, 30], [2, 0, 1, 2], [0, 1, 0.5, 1])
    ]
    assert list(figure.layout.xaxis.ticktext) == ["mails", "talks", "mean", "worst"]
    assert figure.layout.yaxis.ticktext[1] == "<b>o_proj only r8<br>TPOT x1.20</b>"
    assert cells.hovertext[1][0].split("<br>") == [
        "<b>o_proj only r8</b>",
        "accuracy 0.780",
        "regret 2.0 [0.0, 5.0] points",
        "gain over base 58.0 [53.0, 63.0] points",
    ]
    assert list(cells.hovertext[1][2:]) == ["", ""], "mean and worst are of no task"
    assert figure.layout.yaxis.autorange == "reversed", "the fastest on top, as in the table"


@pytest.mark.parametrize("placements", [1, 30])
def test_every_row_of_the_map_has_room_for_its_name(placements: int) -> None:
    rows = [documents.compared(f"o_proj r{number + 1}", 1.2, (0.0, 0.0)) for number in range(placements)]
    assert (regret_map(documents.comparison(placements=rows)).layout.height - 120) / placements >= 64


def luminance(colour: Sequence[float]) -> float:
    """Relative, of WCAG; of red, green and blue from 0 to 255."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_figures_of_the_map_are_readable_on_every_cell() -> None:
    (cells,) = regret_map(documents.comparison()).data
    at, colours = zip(*((position, tuple(bytes.fromhex(text[1:]))) for position, text in cells.colorscale), strict=True)
    ink = luminance(bytes.fromhex(cells.textfont.color[1:]))
    for share in np.linspace(0, 1, 101):
        paper = luminance([np.interp(share, at, parts) for parts in zip(*colours, strict=True)])
        assert (paper + 0.05) / (ink + 0.05) >= 4.5, share


def test_colours_of_the_map_begin_at_no_regret_and_reach_a_point_at_least() -> None:
    (cells,) = regret_map(documents.comparison()).data
    assert (cells.zmin, cells.zmax) == (0, pytest.approx(30))
    best = [documents.compared("o_proj r8", 1.2, (0.0, 0.0)), documents.compared("q_proj r8", 1.3, (0.0, 0.0))]
    (cells,) = regret_map(documents.comparison(placements=best)).data
    assert (cells.zmin, cells.zmax) == (0, 1)


def test_the_page_holds_the_whole_comparison_and_asks_for_nothing() -> None:
    html = comparison_page(documents.comparison())
    assert "://" not in html
    assert html.count('id="plotly"') == 1
    text = Page(html).text
    for part in (
        "Placements across 2 tasks",
        "Which modules of models/tiny should LoRA adapt if the task is not known yet?",
        "mails (search ablate-mails, data/mails)",
        "o_proj only r8 is it.",
        "2.0 [0.0, 5.0]",
        "+30.0 [+25.0, +35.0]",
        "2 placements that are not compared",
        "failed in ablate-mails: out of memory",
        "the searches differ in --steps",
    ):
        assert part in text, part


def test_names_are_escaped_everywhere() -> None:
    evil = "<script>alert(1)</script>"
    placements = [documents.compared("o_proj r8", 1.2, (0.0, 0.0), reference=evil)]
    html = comparison_page(documents.comparison(model=evil, placements=placements, notes=[evil]))
    assert "<script>alert" not in html
    assert evil in Page(html).text

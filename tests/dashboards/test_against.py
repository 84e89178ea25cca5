"""The sentence that compares what is recommended with the baseline."""

from __future__ import annotations

from typing import Any

import pytest

from dashboards.against import against
from dashboards.figures import front_figure
from dashboards.report import report_page
from dashboards.words import description, mark
from tests.dashboards import documents


def baseline(**changes: Any) -> dict[str, Any]:
    """Trial 0 of the document; 2 is recommended, at a ratio of 1.20 [1.18, 1.22]."""
    return {
        "label": "q_proj r4",
        "trial": 0,
        "status": "complete",
        "reason": None,
        "accuracy": 0.52,
        "accuracy_ci": [0.49, 0.55],
        "validation_accuracy": 0.5,
        "tpot_ratio": 1.15,
        "tpot_ratio_ci": [1.13, 1.17],
        "difference": 0.12,
        "difference_ci": [0.09, 0.15],
        "test_rows": 2000,
        **changes,
    }


def own(ratio: str, figure: str = "test accuracy 0.520 [0.490, 0.550]") -> str:
    return f"The baseline, q_proj r4 (trial 0), has {figure} at a TPOT ratio of {ratio}. What is recommended has "


MEASURED = own("1.150 [1.130, 1.170]")
NOT_TESTED = {"accuracy": None, "accuracy_ci": None, "difference": None, "difference_ci": None, "test_rows": None}
NOT_MEASURED = NOT_TESTED | {"validation_accuracy": None}
SENTENCES: list[tuple[dict[str, Any], str]] = [
    ({}, f"{MEASURED}+0.120 [0.090, 0.150] on the same 2,000 rows and is slower (1.200)."),
    (
        {"difference": 0.01, "difference_ci": [-0.02, 0.04]},
        f"{MEASURED}+0.010 [-0.020, 0.040] on the same 2,000 rows, which is no difference beyond the interval, and is "
        "slower (1.200).",
    ),
    (
        {"difference": -0.05, "difference_ci": [-0.08, -0.02], "tpot_ratio": 1.3, "tpot_ratio_ci": [1.23, 1.37]},
        f"{own('1.300 [1.230, 1.370]')}-0.050 [-0.080, -0.020] on the same 2,000 rows and is faster (1.200).",
    ),
    (
        {"tpot_ratio_ci": [1.1, 1.18]},
        f"{own('1.150 [1.100, 1.180]')}+0.120 [0.090, 0.150] on the same 2,000 rows and is as fast within the "
        "intervals (1.200).",
    ),
    (
        NOT_TESTED,
        f"{own('1.150 [1.130, 1.170]', 'validation accuracy 0.500')}+0.160 in validation accuracy and is slower "
        "(1.200).",
    ),
    ({"trial": 2, "label": "o_proj r8"}, "The baseline, o_proj r8 (trial 2), is what is recommended."),
    (NOT_MEASURED | {"trial": None, "status": None}, "The baseline, q_proj r4, has not been tried yet."),
    (NOT_MEASURED | {"status": "running"}, "The baseline, q_proj r4 (trial 0), is running."),
    (
        NOT_MEASURED | {"status": "infeasible", "reason": "TPOT ratio 1.15 is over 1.1"},
        "The baseline, q_proj r4 (trial 0), is infeasible: TPOT ratio 1.15 is over 1.1.",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), SENTENCES)
def test_in_words(changes: dict[str, Any], sentence: str) -> None:
    assert against(documents.document(baseline=baseline(**changes))) == sentence


def test_nothing_is_said_where_none_was_named() -> None:
    assert against(documents.document()) == against(documents.document(baseline=None)) == ""


def test_on_the_front_it_is_marked() -> None:
    assert mark(documents.document(baseline=baseline(trial=2)), 2) == "recommended, baseline"
    assert mark(documents.document(baseline=baseline(trial=None)), 2) == "recommended"


@pytest.mark.parametrize(("trial", "drawn"), [(0, [(1.15, 0.5)]), (2, [(1.2, 0.66)]), (3, []), (None, [])])
def test_it_has_a_ring_in_the_figure_wherever_it_lies(trial: int | None, drawn: list[tuple[float, float]]) -> None:
    """Trial 3 was too slow and has no accuracy; what is recommended keeps its name where it is the same."""
    figure = front_figure(documents.document(baseline=baseline(trial=trial)))
    rings = [trace for trace in figure.data if trace.name == "baseline"]
    assert [point for ring in rings for point in zip(ring.x, ring.y, strict=True)] == drawn
    assert [note.text for note in figure.layout.annotations] == [
        note.text for note in front_figure(documents.document()).layout.annotations
    ]


def test_page_and_description_say_it() -> None:
    """Also that the test split was read for it."""
    told = documents.document(baseline=baseline())
    assert "What is recommended has +0.120 [0.090, 0.150] on the same" in report_page(told)
    assert "the test split was read once, for the front and the baseline." in report_page(told)
    assert "the test split was read once, for the front." in report_page(documents.document())
    assert "What is recommended has +0.120" in description(told)

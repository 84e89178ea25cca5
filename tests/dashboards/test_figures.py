from __future__ import annotations

import base64
import json
import re
import zlib
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from dashboards.embedding import figure_html, plotly_library
from dashboards.figures import CURVE_POINTS, KNEE, RECOMMENDED, effects_figure, front_figure, learning_curves
from dashboards.latency_figures import drift_figure, prediction_figure
from tests.dashboards import documents


def traces(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def test_the_front_is_a_step_line_with_intervals_on_both_axes() -> None:
    front = traces(front_figure(documents.document()))["front"]
    assert list(front.x) == [1.12, 1.20, 1.31]
    assert list(front.y) == [0.60, 0.66, 0.69]
    assert front.line.shape == "hv"
    assert list(front.error_x.array) == pytest.approx([0.02] * 3)
    assert list(front.error_y.arrayminus) == pytest.approx([0.04] * 3)


def test_base_dominated_recommended_and_knee_are_told_apart() -> None:
    figure = front_figure(documents.document())
    drawn = traces(figure)
    assert (drawn["base model"].x[0], drawn["base model"].y[0]) == (1.0, 0.2)
    assert drawn["base model"].marker.symbol == "diamond"
    assert list(drawn["dominated"].x) == [1.15]
    assert drawn["recommended: down_proj+o_proj r8"].marker.symbol == "star"
    assert "knee: o_proj r8" in drawn
    assert {note.text for note in figure.layout.annotations} == {"recommended", "knee"}


def test_hover_shows_all_that_was_measured() -> None:
    text = traces(front_figure(documents.document()))["front"].hovertext[0]
    assert text.split("<br>") == [
        "<b>o_proj r8</b>",
        "trial 7, rank 8, complete",
        "validation accuracy 0.600 [0.560, 0.640]",
        "test accuracy 0.610 [0.580, 0.640]",
        "TPOT ratio 1.120 [1.100, 1.140]",
        "TPOT p50 4.30 ms, p95 4.60 ms",
        "12,800 parameters",
        "reference placement: o_proj only",
    ]
    base = traces(front_figure(documents.document()))["base model"].hovertext[0]
    assert base == "<b>base model</b><br>validation accuracy 0.200<br>test accuracy 0.210 [0.180, 0.250]"


def test_signs_at_the_end_of_an_axis_have_room_whatever_it_is_that_the_axis_goes_down_to() -> None:
    """On an easy task intervals reach further down than the base model and all placements."""
    easy = documents.single()
    easy["base"]["validation_accuracy"] = 1.0
    easy["points"][0].update(validation_accuracy=0.99, validation_accuracy_ci=[0.9, 1.0])
    assert front_figure(easy).layout.yaxis.autorangeoptions.clipmax == pytest.approx(1 + 0.04 * 0.1)
    easy["points"][0].update(validation_accuracy_ci=None)
    assert front_figure(easy).layout.yaxis.autorangeoptions.clipmax == pytest.approx(1 + 0.04 * 0.01)


def test_names_of_marked_placements_have_room_above_the_drawing_where_they_need_it() -> None:
    usual = front_figure(documents.document()).layout.margin.t
    high = documents.document()
    high["points"][-2]["validation_accuracy"] = 0.8  # of 0.2 to 1: in the upper third
    assert front_figure(high).layout.margin.t > 2 * usual
    assert all(note.showarrow for note in front_figure(high).layout.annotations)


def test_axes_are_named_by_metric_and_latency() -> None:
    figure = front_figure({**documents.encoder(), "metric": "rouge_l"})
    assert figure.layout.xaxis.title.text == "request time ratio to base model (merged = 1.0)"
    assert figure.layout.yaxis.title.text == "validation ROUGE-L"


def test_a_trial_that_stopped_has_no_accuracy_to_be_drawn_at() -> None:
    stopped = documents.point(9, "v_proj r8", None, 1.1, status="stopped", reason="cannot reach the front")
    assert set(traces(front_figure(documents.document(points=[stopped])))) == {"base model"}


def test_learning_curves_colour_the_front_and_keep_the_rest_in_one_trace() -> None:
    figure = learning_curves(documents.document())
    names = [trace.name.replace("<br>", "") for trace in figure.data]
    assert names == ["not on the front", "o_proj r8", "down_proj+o_proj r8", "down_proj+o_proj+q_proj r16"]
    assert list(figure.data[0].y) == [2.1, 1.7, None]
    assert list(figure.data[0].customdata) == [0, 0, 0]
    assert list(figure.data[1].x) == [10, 20, None]


def test_learning_curves_of_a_few_trials_are_drawn_exactly_and_nothing_stands_over_them() -> None:
    document = documents.single()
    document["points"][0]["losses"] = losses = [[step, 100 / step] for step in range(10, 410, 10)]
    figure = learning_curves(document)
    (curve,) = figure.data
    assert list(zip(curve.x, curve.y, strict=True)) == [*map(tuple, losses), (None, None)]
    assert not figure.layout.annotations


def test_learning_curves_of_many_trials_are_thinned_to_their_last_point_and_keep_the_recommended() -> None:
    rest, others, *coloured = learning_curves(documents.large()).data
    assert sum(len(trace.x) for trace in (rest, others, *coloured)) <= CURVE_POINTS * 1.2
    assert all(trace.x[-2:] == (1990, None) for trace in (rest, others, *coloured))
    assert others.name == "others of the front"
    assert [trace.customdata[0] for trace in coloured] == [20, 40, *range(880, 1000, 20)]


def test_a_legend_names_a_placement_of_many_groups_by_its_trial() -> None:
    label = "+".join(f"{name}_proj@{band}" for name in "gkoquv" for band in ("first", "last")) + " r8"
    points = [documents.point(2, label, 0.6, 1.2, front=True), documents.point(7, "o_proj r8", 0.5, 1.1, front=True)]
    document = documents.document(points=points, front=[documents.member(point, 0.6) for point in points])
    names = {trace.name for trace in (*front_figure(document).data, *learning_curves(document).data)}
    assert {"recommended: trial 2, 12 groups r8", "trial 2, 12 groups r8", "knee: o_proj r8", "o_proj r8"} <= names


def test_a_curve_of_one_loss_is_seen() -> None:
    short = documents.point(7, "o_proj r8", 0.6, 1.1, front=True, losses=[[4, 2.1]])
    drawn = traces(learning_curves(documents.document(points=[short, documents.point(0, "q_proj r4", 0.5, 1.15)])))
    assert (drawn["o_proj r8"].mode, drawn["not on the front"].mode) == ("markers", "lines")


@pytest.mark.parametrize("case", documents.ALL)
def test_every_document_gives_a_page_without_a_network(case: str) -> None:
    for draw in (front_figure, learning_curves):
        page = figure_html(draw(documents.ALL[case]()), full_page=True)
        assert page.count('id="plotly"') == 1
        assert "://" not in page
        assert not re.search(r"<(link|img)|src=", page)
        assert len(page) < 5_000_000


def test_the_recommended_and_the_knee_have_their_colours_in_every_figure_and_no_other_trial_has() -> None:
    document = documents.large()
    for draw in (front_figure, learning_curves):
        coloured = {}
        for trace in draw(document).data:
            style = trace.marker if trace.mode == "markers" else trace.line
            coloured.setdefault(style.color, []).append(trace)
        (recommended,), (knee,) = coloured[RECOMMENDED], coloured[KNEE]
        if draw is front_figure:
            assert (recommended.name.split(":")[0], knee.name.split(":")[0]) == ("recommended", "knee")
        else:
            assert (recommended.customdata[0], knee.customdata[0]) == (20, 40)
    drawn = json.dumps(effects_figure(document).to_dict(), default=list)
    assert RECOMMENDED not in drawn and KNEE not in drawn


@pytest.mark.parametrize(
    ("status", "yet"), [("running", " yet"), ("interrupted", " yet"), ("failed", ""), ("complete", "")]
)
def test_nothing_to_draw_is_said(status: str, yet: str) -> None:
    document = documents.empty() | {"status": status}
    assert front_figure(document).layout.annotations[0].text == f"No trial has both figures{yet}."
    assert learning_curves(document).layout.annotations[0].text == f"No losses{yet}."


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_the_base_model_alone_is_not_written_over(accuracy: float) -> None:
    figure = front_figure(documents.empty() | {"base": {"validation_accuracy": accuracy}})
    low, high = figure.layout.yaxis.range
    assert (figure.layout.xaxis.range[0], low) < (1.0, accuracy) and accuracy <= high < 1.1
    assert abs((accuracy - low) / (high - low) - figure.layout.annotations[0].y) > 0.2


def test_what_adds_is_told_from_what_takes_by_a_line_at_zero_on_both_axes() -> None:
    lines = effects_figure(documents.document()).layout.shapes
    assert {(line.xref, line.x0, line.x1, line.yref, line.y0, line.y1) for line in lines} == {
        (axis, 0, 0, "paper", 0, 1) for axis in ("x", "x2")
    }


def test_effects_stand_in_one_order_on_both_axes() -> None:
    accuracy, latency = effects_figure(documents.document()).data
    assert list(accuracy.y) == list(latency.y) == ["o_proj", "q_proj", "down_proj"]
    assert list(accuracy.x) == [-0.04, 0.01, 0.08]
    assert list(latency.x) == [0.12, 0.11, 0.1]
    assert list(accuracy.error_x.array) == pytest.approx([0.03, 0.05, 0.03])
    assert latency.xaxis == "x2"


@pytest.mark.parametrize("groups", [3, 13, 14, 70, 300])
def test_every_group_of_the_effects_has_room_for_its_name(groups: int) -> None:
    layout = effects_figure(documents.many_groups(groups)).layout
    low, high = layout.yaxis.range
    assert ((layout.height or 440) - 120) / (high - low) > 22, "pixels a row"
    assert (layout.yaxis.dtick, layout.height is None) == (1, groups <= 13)
    assert low < 0 and high > groups - 1


def test_predictions_stand_beside_what_was_measured_of_them() -> None:
    equal, trials = prediction_figure(documents.document()).data
    assert list(trials.x) == pytest.approx([1.16, 1.91, 1.13, 1.21, 1.32])
    assert list(trials.y) == [1.15, 1.9, 1.12, 1.2, 1.31], "every trial with a latency, trained or not"
    assert list(trials.error_y.array) == pytest.approx([0.02] * 5)
    assert list(equal.x) == list(equal.y) == [1.12, 1.91]


def test_drift_shows_the_machine_and_what_ratios_felt_of_it() -> None:
    rows = [documents.point(i, "q_proj r4", 0.5, 1.2, base_p50_ms=ms) for i, ms in enumerate([4.0, 4.0, 5.0, None])]
    for row, predicted in zip(rows, (None, 1.2, 1.0, 1.3), strict=True):
        row["tpot_ratio_predicted"] = predicted
    machine, ratios = drift_figure(documents.document(points=rows)).data
    assert list(machine.y) == pytest.approx([0, 0, 25])
    assert list(machine.customdata) == [4.0, 4.0, 5.0]
    assert list(machine.x) == [0, 1, 2], "the last was kept from another day"
    assert (list(ratios.x), list(ratios.customdata)) == ([1, 2], pytest.approx([1.0, 1.2]))
    assert list(ratios.y) == pytest.approx([-100 / 11, 100 / 11])


def unpacked(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


def test_the_drawing_survives_its_page() -> None:
    figure = front_figure(documents.document(points=[documents.point(0, "</script><b>+x r8", 0.5, 1.1)]))
    part = figure_html(figure, full_page=False)
    drawing = re.search(r'<script type="text/plain">(.*?)</script>', part, re.DOTALL)
    assert drawing
    assert json.loads(unpacked(drawing[1])) == json.loads(figure.to_json())
    assert "&lt;/script&gt;&lt;b&gt;+x r8" in figure.data[0].hovertext[0]
    assert 'id="plotly"' not in part


def test_the_library_unpacks_to_plotly() -> None:
    packed = re.search(r'id="plotly">([^<]*)<', plotly_library())
    assert packed
    assert b"newPlot" in unpacked(packed[1])


def test_the_library_is_of_plotlys_own_version() -> None:
    """Else figures made here could ask for what it cannot draw: CONTRIBUTING.md says how to take a new one."""
    version = r"plotly\.js v(\d+)"
    packed = re.search(r'id="plotly">([^<]*)<', plotly_library())
    assert packed
    ours, theirs = (re.search(version, text) for text in (unpacked(packed[1]).decode(), get_plotlyjs()))
    assert ours and theirs and ours[1] == theirs[1]

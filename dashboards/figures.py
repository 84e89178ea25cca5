"""Interactive figures of a search, from the document that ``run --json`` prints, in pages that need no network."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from plotly.graph_objects import Figure, Scatter

from dashboards.format import count, decimal, latency_name, metric_name, plain, with_interval, wrapped
from dashboards.words import mark, ordered_front

#: Readable on a light and on a dark page, and told apart by colour-blind readers (after Okabe and Ito).
FRONT, RECOMMENDED, KNEE, GREY = "#2f8fd8", "#e0661a", "#c667a6", "#9aa3ad"
#: Of trials that are neither recommended nor the knee, whose colours mean them in every figure.
CURVES = (FRONT, "#1aa47a", "#b8932a", "#7b73d9", "#d04a4a", "#3aa6b9")

#: Points that all learning curves share: a page of a thousand trials stays small, a short search is drawn exactly.
CURVE_POINTS = 20_000

#: Marks that stand beside their point, which is on the front; the baseline may be anywhere, and has a ring.
_NAMED = ("recommended", "knee")
#: Where names of marked placements stand, in pixels, the faster one's first: above to the left, since nothing is both
#: faster and better. The second is above the first and its arrow to the right of it, however close the two are.
_NAMES: tuple[dict[str, Any], ...] = ({"ax": -12, "ay": -30, "xanchor": "right"}, {"ax": -16, "ay": -56})

#: Longer names would leave the drawing no room: plotly gives a legend up to half of a figure.
_LEGEND_LINES = 3

_AXIS = {"gridcolor": "#dfe3e8", "zeroline": False, "automargin": True}


def front_figure(document: dict[str, Any]) -> Figure:
    """The validation metric against the latency ratio to the base model (1.0, what a merged adapter costs).

    Every trial with both figures is drawn, which one that stopped on the way has not; a step line joins the front: what
    can be reached at each latency. The metric's axis ends where the metric does, at 0 and 1.
    """
    metric, latency = metric_name(document["metric"]), latency_name(document["latency_axis"])
    drawn = [point for point in document["points"] if _finite(point, "tpot_ratio", "validation_accuracy")]
    test = {member["trial"]: member for member in document["front"]}
    front = sorted((point for point in drawn if point["front"]), key=lambda point: point["tpot_ratio"])
    rest = [point for point in drawn if not point["front"]]
    figure = empty_figure(
        f"{document['search']}: {metric} against {latency}",
        f"{latency} ratio to base model (merged = 1.0)",
        f"validation {metric}",
    )
    hover = functools.partial(_hover, document, test)

    if rest:
        figure.add_trace(_scatter("dominated", rest, hover, marker={"color": GREY, "size": 7, "opacity": 0.7}))
    if front:
        figure.add_trace(
            _scatter(
                "front",
                front,
                hover,
                mode="lines+markers",
                line={"shape": "hv", "color": FRONT, "width": 2},
                marker={"color": FRONT, "size": 9},
                error_x=errors(front, "tpot_ratio"),
                error_y=errors(front, "validation_accuracy"),
            )
        )
    base, base_accuracy = document.get("base") or {}, 0.0
    if _finite(base, "validation_accuracy"):
        base_accuracy = base["validation_accuracy"]
        text = f"<b>base model</b><br>validation {metric} {decimal(base_accuracy)}"
        text += f"<br>test {metric} {with_interval(base.get('accuracy'), base.get('accuracy_ci'))}"
        figure.add_trace(
            Scatter(
                name="base model",
                x=[1.0],
                y=[base_accuracy],
                mode="markers",
                marker={"symbol": "diamond", "size": 13, "color": "#1aa47a"},
                hovertext=[text],
                hoverinfo="text",
            )
        )
    if yours := [point for point in drawn if point["trial"] == (document.get("baseline") or {}).get("trial")]:
        ring = {"symbol": "circle-open", "size": 17, "color": "#d04a4a", "line": {"width": 2}}
        figure.add_trace(_scatter("baseline", yours, hover, marker=ring))
    marked = [(point, names) for point in front if (names := mark(document, point["trial"], _NAMED))]
    if drawn:
        lowest = (point["validation_accuracy_ci"][0] for point in front if point.get("validation_accuracy_ci"))
        span = max(0.01, 1 - min(base_accuracy, *(point["validation_accuracy"] for point in drawn), *lowest))
        # Signs on an end are whole, and no tick is beyond it.
        figure.update_yaxes(autorangeoptions={"clipmin": -0.04 * span, "clipmax": 1 + 0.04 * span})
        if any(point["validation_accuracy"] > 1 - 0.3 * span for point, _ in marked):
            figure.update_layout(margin_t=88)  # names stand above the axis, below the buttons
    for (point, names), place in zip(marked, _NAMES[-len(marked) :], strict=False):
        _point_out(figure, point, names, hover, place)
    if not drawn:
        # Around one point plotly draws more than can be; the words keep away from it.
        figure.update_xaxes(range=[0.9, 1.6]).update_yaxes(range=[-0.05, 1.05])
        _say_none(figure, document, "trial has both figures", 0.25 if base_accuracy > 0.5 else 0.75)
    return figure


def learning_curves(document: dict[str, Any]) -> Figure:
    """Training loss by step: the front's trials in colour, as far as colours go, all others in grey."""
    trials = [point for point in document["points"] if point.get("losses")]
    most = max(10, CURVE_POINTS // max(1, len(trials)))
    figure = empty_figure(f"{document['search']}: learning curves", "training step", "training loss")
    on_front = [point for point in trials if point["front"]]
    # Recommended first, then the most accurate; drawn and named in the order of the front.
    named = {point["trial"]: names for point in on_front if (names := mark(document, point["trial"], _NAMED))}
    best = sorted(on_front, key=lambda point: (point["trial"] not in named, -point["validation_accuracy"]))
    order = {member["trial"]: position for position, member in enumerate(ordered_front(document))}
    colours = {point["trial"]: _colour(named[point["trial"]]) for point in best if point["trial"] in named}
    unmarked = [point["trial"] for point in best if point["trial"] not in colours]
    drawn = sorted(unmarked[: len(CURVES)], key=lambda trial: order.get(trial, 0))
    colours |= dict(zip(drawn, CURVES, strict=False))
    for name, points, opacity in (
        ("not on the front", [point for point in trials if not point["front"]], 0.4),
        ("others of the front", best[len(colours) :], 1.0),
    ):
        if points:
            figure.add_trace(_curves(name, points, most, {"color": GREY, "width": 1}, opacity=opacity))
    for point in sorted(best[: len(colours)], key=lambda point: order.get(point["trial"], 0)):
        line = {"color": colours[point["trial"]], "width": 2}
        figure.add_trace(_curves(_legend_name(point), [point], most, line))
    if not trials:
        _say_none(figure, document, "losses")
    return figure


def _curves(name: str, points: Sequence[dict[str, Any]], most: int, line: dict[str, Any], **style: Any) -> Scatter:
    """Curves of at most about `most` points, in one trace: it draws far faster than a trace a curve."""
    curves = [(point, _thinned(point["losses"], most)) for point in points]
    return Scatter(
        name=name,
        # A null ends a line.
        x=[step for _, curve in curves for step in (*(step for step, _ in curve), None)],
        y=[loss for _, curve in curves for loss in (*(loss for _, loss in curve), None)],
        customdata=[point["trial"] for point, curve in curves for _ in range(len(curve) + 1)],
        # A line of one point is none.
        mode="lines" if any(len(curve) > 1 for _, curve in curves) else "markers",
        line=line,
        hovertemplate="trial %{customdata}: loss %{y:.3f} at step %{x}<extra></extra>",
        **style,
    )


def effects_figure(document: dict[str, Any]) -> Figure:
    """What each group adds to the metric and to the latency ratio, with 95% intervals; the most accurate on top."""
    metric, latency = metric_name(document["metric"]), latency_name(document["latency_axis"])
    found = document["effects"]["groups"]
    order = [row["groups"][0] for row in sorted(found["accuracy"], key=lambda row: row["effect"])]
    figure = empty_figure(f"{document['search']}: what each module group adds", f"added to<br>validation {metric}")
    figure.update_layout(
        showlegend=False,
        xaxis_domain=[0.0, 0.47],
        xaxis2={**_AXIS, "domain": [0.53, 1.0], "anchor": "y", "title": _title(f"added to<br>{latency} ratio")},
        # Every row has its name and room for it; the height that the page has is enough for a dozen.
        height=height if (height := 24 * len(order) + 120) > 440 else None,
        yaxis_dtick=1,
        yaxis_range=[-0.6, len(order) - 0.4],
    )
    for key, axis in (("accuracy", "x"), ("tpot_ratio", "x2")):
        rows = sorted(found[key], key=lambda row: order.index(row["groups"][0]))
        figure.add_trace(
            Scatter(
                name=key,
                x=[row["effect"] for row in rows],
                y=[label_lines(row["groups"][0]) for row in rows],
                xaxis=axis,
                mode="markers",
                marker={"color": FRONT, "size": 10},
                error_x=errors(rows, "effect"),
                hovertemplate="%{y}: %{x:+.3f}<extra></extra>",
            )
        )
        figure.add_shape(
            type="line", x0=0, x1=0, y0=0, y1=1, xref=axis, yref="paper", line={"color": GREY, "dash": "dot"}
        )
    return figure


def empty_figure(title: str, x_title: str, y_title: str = "") -> Figure:
    """The title is not drawn, since the page has it: it names the figure to readers who cannot see it."""
    return Figure(
        layout={
            "template": None,
            "meta": plain(title),
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "margin": {"l": 8, "r": 8, "t": 32, "b": 8},
            "showlegend": True,
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": FRONT},
            "hovermode": "closest",
            "hoverlabel": {"align": "left"},
            "xaxis": {**_AXIS, "title": _title(x_title)},
            "yaxis": {**_AXIS, "title": _title(y_title)},
        }
    )


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 13}}


def _scatter(name: str, points: Sequence[dict[str, Any]], hover: Any, mode: str = "markers", **style: Any) -> Scatter:
    return Scatter(
        name=name,
        x=[point["tpot_ratio"] for point in points],
        y=[point["validation_accuracy"] for point in points],
        hovertext=[hover(point) for point in points],
        hoverinfo="text",
        mode=mode,
        **style,
    )


def _say_none(figure: Figure, document: dict[str, Any], what: str, y: float = 0.5) -> None:
    """``No losses yet.``, at a height as a part of the figure's; no ``yet`` where the search has ended."""
    yet = " yet" if document["status"] in ("running", "interrupted") else ""
    figure.add_annotation(text=f"No {what}{yet}.", x=0.5, y=y, xref="paper", yref="paper", showarrow=False)


def _colour(names: str) -> str:
    return RECOMMENDED if "recommended" in names else KNEE


def _point_out(figure: Figure, point: dict[str, Any], names: str, hover: Any, place: dict[str, Any]) -> None:
    """The recommended placement and the knee: a sign of their own, their name beside it, their label in the legend."""
    recommended, colour = "recommended" in names, _colour(names)
    symbol, size = ("star", 18) if recommended else ("hexagon-open", 17)
    name = f"{names}: {_legend_name(point)}"
    marker = {"symbol": symbol, "size": size, "color": colour, "line": {"width": 0 if recommended else 3}}
    figure.add_trace(_scatter(name, [point], hover, marker=marker))
    figure.add_annotation(
        x=point["tpot_ratio"],
        y=point["validation_accuracy"],
        text=names,
        showarrow=True,
        arrowhead=0,
        arrowcolor=colour,
        **place,
    )


def _hover(document: dict[str, Any], test: dict[int, dict[str, Any]], point: dict[str, Any]) -> str:
    metric, latency = metric_name(document["metric"]), latency_name(document["latency_axis"])
    axis, member = document["latency_axis"], test.get(point["trial"], {})
    rows = [
        f"<b>{label_lines(point['label'])}</b>",
        f"trial {point['trial']}, rank {point['rank']}, {point['status']}",
        f"validation {metric} {with_interval(point['validation_accuracy'], point.get('validation_accuracy_ci'))}",
        f"test {metric} {with_interval(member['accuracy'], member.get('accuracy_ci'))}"
        if member.get("accuracy") is not None
        else "",
        f"{latency} ratio {with_interval(point['tpot_ratio'], point.get('tpot_ratio_ci'))}",
        f"{latency} p50 {decimal(point.get(f'{axis}_p50_ms'), 2)} ms, p95 {decimal(point.get(f'{axis}_p95_ms'), 2)} ms",
        f"{count(point.get('parameters'))} parameters",
        f"reference placement: {label_lines(point['reference'])}" if point.get("reference") else "",
    ]
    return "<br>".join(row for row in rows if row)


def label_lines(label: str) -> str:
    """A label in plotly's text, which reads a little HTML: escaped, broken where it is long."""
    return "<br>".join(escape(line, quote=False) for line in wrapped(plain(label), 32))


def _legend_name(point: dict[str, Any]) -> str:
    """A placement of many groups by its number, under which the page's tables have it."""
    label = label_lines(point["label"])
    if label.count("<br>") < _LEGEND_LINES:
        return label
    return f"trial {point['trial']}, {len(point['targets'])} groups r{point['rank']}"


def errors(points: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """Distances to the bounds of ``<key>_ci``; none where a point has no interval."""
    bounds = [point.get(f"{key}_ci") or (point[key], point[key]) for point in points]
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - point[key]) for point, (_, high) in zip(points, bounds, strict=True)],
        "arrayminus": [max(0.0, point[key] - low) for point, (low, _) in zip(points, bounds, strict=True)],
        "thickness": 1,
        "width": 3,
        "color": FRONT,
    }


def _finite(values: dict[str, Any], *keys: str) -> bool:
    return all(values.get(key) is not None and math.isfinite(values[key]) for key in keys)


def _thinned(curve: Sequence[Sequence[float]], most: int) -> list[Sequence[float]]:
    """At most about `most` points, evenly spaced, always with the last one."""
    stride = math.ceil(len(curve) / most)
    return [*curve[:-1:stride], curve[-1]]

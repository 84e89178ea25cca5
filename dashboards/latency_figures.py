"""What a search's latencies say of themselves: told from the others and measured, and the machine over the trials."""

from __future__ import annotations

from statistics import median
from typing import Any

from plotly.graph_objects import Figure, Scatter

from dashboards.figures import FRONT, GREY, empty_figure, errors, label_lines
from dashboards.format import latency_name


def prediction_figure(document: dict[str, Any]) -> Figure:
    """Each trial's latency ratio as measured, with its interval, against what all others let expect."""
    points = [point for point in document["points"] if point.get("tpot_ratio_predicted") is not None]
    latency = latency_name(document["latency_axis"])
    predicted, measured = ([point[key] for point in points] for key in ("tpot_ratio_predicted", "tpot_ratio"))
    figure = empty_figure(
        f"{document['search']}: {latency} ratios, predicted and measured",
        f"{latency} ratio predicted from the other trials",
        f"{latency} ratio measured",
    )
    ends = [min(predicted + measured), max(predicted + measured)]
    equal = {"color": GREY, "dash": "dot"}
    figure.add_trace(Scatter(name="equal", x=ends, y=ends, mode="lines", line=equal, hoverinfo="skip"))
    figure.add_trace(
        Scatter(
            name="a trial, with the interval of its measurement",
            x=predicted,
            y=measured,
            mode="markers",
            marker={"color": FRONT, "size": 7},
            error_y=errors(points, "tpot_ratio"),
            customdata=[[label_lines(point["label"]), point["trial"]] for point in points],
            hovertemplate="<b>%{customdata[0]}</b><br>trial %{customdata[1]}<br>predicted %{x:.3f}, measured %{y:.3f}"
            "<extra></extra>",
        )
    )
    return figure


def drift_figure(document: dict[str, Any]) -> Figure:
    """By trial, in percent around their medians: the base model's own time, and the ratio over its prediction.

    The first is what the machine did; the second is what was left of it in the figure that the search goes by.
    """
    latency = latency_name(document["latency_axis"])
    figure = empty_figure(f"{document['search']}: drift over the trials", "trial", "percent from the median")
    timed = [point for point in document["points"] if point.get("base_p50_ms") is not None]
    told = [point for point in timed if point.get("tpot_ratio_predicted") is not None]
    for name, points, values, colour, digits in (
        (f"the base model's own {latency}", timed, [p["base_p50_ms"] for p in timed], GREY, "%{customdata:.2f} ms"),
        (
            f"{latency} ratio over its prediction",
            told,
            [p["tpot_ratio"] / p["tpot_ratio_predicted"] for p in told],
            FRONT,
            "%{customdata:.3f}",
        ),
    ):
        if points:
            figure.add_trace(
                Scatter(
                    name=name,
                    x=[point["trial"] for point in points],
                    y=[100 * (value / median(values) - 1) for value in values],
                    customdata=values,
                    mode="markers",
                    marker={"color": colour, "size": 6},
                    hovertemplate=f"trial %{{x}}: {digits}, %{{y:+.1f}}% from the median<extra></extra>",
                )
            )
    return figure

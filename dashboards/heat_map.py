"""Regret of each placement on each task, as a picture."""

from __future__ import annotations

from typing import Any

from plotly.graph_objects import Figure, Heatmap

from dashboards.comparison import called, is_default, points, task_names
from dashboards.figures import empty_figure, label_lines
from dashboards.format import decimal, latency_name, metric_name

#: From what is as good as the best to what is far from it; figures in this ink are readable on all of it. On a darker
#: end plotly would change from dark ink to white, and neither is readable where it does.
_SCALE = [[0.0, "#eef5fb"], [0.5, "#f3b57e"], [1.0, "#e0762f"]]
_INK = "#1d2430"


def regret_map(document: dict[str, Any]) -> Figure:
    """Placements by tasks, the fastest placement on top, the robust default in bold; regret in points."""
    names, tasks = task_names(document), document["tasks"]
    latency = latency_name(document["latency_axis"])
    placements = document["placements"]
    figure = empty_figure(f"Regret by placement and task: {', '.join(names.values())}", "task")
    columns = [*(label_lines(name) for name in names.values()), "mean", "worst"]
    cells = [
        [*(each["regret"][task] for task in tasks), each["mean_regret"], each["worst_regret"]] for each in placements
    ]
    figure.add_trace(
        Heatmap(
            z=[[100 * regret for regret in row] for row in cells],
            # Two tasks may share a short name, and two placements a long one: positions do not collide.
            x=list(range(len(columns))),
            y=list(range(len(placements))),
            texttemplate="%{z:.1f}",
            textfont={"color": _INK},
            hovertext=[[*(_hover(document, each, task) for task in tasks), "", ""] for each in placements],
            hovertemplate="%{hovertext}<extra></extra>",
            colorscale=_SCALE,
            zmin=0,
            # Else plotly centres what is zero everywhere in the scale; less than a point is next to nothing.
            zmax=max(1.0, *(100 * regret for row in cells for regret in row)),
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": "points"}, "outlinewidth": 0},
        )
    )
    labels = [
        f"<b>{text}</b>" if is_default(document, each) else text
        for each in placements
        if (text := f"{label_lines(called(each))}<br>{latency} x{decimal(each['tpot_ratio'], 2)}")
    ]
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=columns, showgrid=False, side="top")
    figure.update_yaxes(tickvals=list(range(len(placements))), ticktext=labels, showgrid=False, autorange="reversed")
    figure.update_layout(height=max(440, 64 * len(placements) + 120), showlegend=False)
    return figure


def _hover(document: dict[str, Any], placement: dict[str, Any], task: str) -> str:
    rows = [
        f"<b>{label_lines(called(placement))}</b>",
        f"{metric_name(document['metric'][task])} {decimal(placement['accuracy'][task])}",
        f"regret {points(placement['regret'][task], placement['regret_ci'][task])} points",
        f"gain over base {points(placement['gain'][task], placement['gain_ci'][task])} points",
    ]
    return "<br>".join(rows)

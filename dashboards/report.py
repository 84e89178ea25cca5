"""One self-contained HTML page of a search: it opens from a mail or an archive, with no network."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dashboards import format as written
from dashboards import words
from dashboards.figures import FIGURE_CSS, figure_html, front_figure, learning_curves, plotly_library


def report_page(document: dict[str, Any]) -> str:
    """HTML; every value of the document is escaped, since names and paths come from users."""
    pages = Environment(
        loader=PackageLoader("dashboards", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["breakable"] = _breakable
    points = document["points"]
    header, rows = words.front_table(document)
    trial_header, trial_rows = _trial_table(document)
    return pages.get_template("report.html").render(
        document=document,
        words=words,
        written=written,
        header=header,
        rows=rows,
        recommended=(document.get("recommended") or {}).get("trial"),
        tested=any(member.get("accuracy") is not None for member in document["front"]),
        trial_header=trial_header,
        trial_rows=trial_rows,
        undrawn=sum(None in (point.get("tpot_ratio"), point.get("validation_accuracy")) for point in points),
        curves=any(point.get("losses") for point in points),
        ended_early=[point for point in points if point.get("reason")],
        figure_css=Markup(FIGURE_CSS),
        front_figure=Markup(figure_html(front_figure(document), full_page=False)),
        learning_curves=Markup(figure_html(learning_curves(document), full_page=False)),
        plotly_library=Markup(plotly_library()),
    )


def _trial_table(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: trial, placement, status, and figures."""
    metric, latency = written.metric_name(document["metric"]), written.latency_name(document["latency_axis"])
    times = ["tpot_p50_ms", "tpot_p95_ms", "ttft_p95_ms"]
    header = ["trial", "placement", "status", f"validation {metric}", "validation loss", f"{latency} ratio"]
    header += ["TPOT p50 ms", "TPOT p95 ms", "TTFT p95 ms", "parameters", "steps", "time"]
    rows = [
        [
            str(point["trial"]),
            f"{point['label']} ({point['reference']})" if point.get("reference") else point["label"],
            f"{point['status']}, front" if point.get("front") else point["status"],
            written.with_interval(point.get("validation_accuracy"), point.get("validation_accuracy_ci")),
            written.decimal(point.get("validation_loss")),
            written.with_interval(point.get("tpot_ratio"), point.get("tpot_ratio_ci")),
            *(written.decimal(point.get(key), 2) for key in times),
            written.count(point.get("parameters")),
            written.count(point.get("steps")),
            written.duration(sum((point.get("seconds") or {}).values())),
        ]
        for point in document["points"]
    ]
    return header, rows


def _breakable(label: str) -> Markup:
    """A placement's label that may break after each plus sign."""
    return Markup("<wbr>").join(written.wrapped(label, 0))

"""Self-contained HTML pages, of a search or a comparison: they open from a mail or an archive, with no network."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.graph_objects import Figure

from dashboards import comparison as compared
from dashboards import format as written
from dashboards import words
from dashboards.against import against
from dashboards.embedding import FIGURE_CSS, figure_html, plotly_library
from dashboards.figures import effects_figure, front_figure, learning_curves
from dashboards.heat_map import regret_map
from dashboards.latency_figures import drift_figure, prediction_figure
from dashboards.loading import loading_code


def report_page(document: dict[str, Any], flags: str = "") -> str:
    """HTML; every value of the document is escaped, since names and paths come from users.

    ``flags`` are those by which a command finds the search: see :meth:`search.home.Home.flags`.
    """
    points = document["points"]
    header, rows = words.front_table(document)
    trial_header, trial_rows = _trial_table(document)
    return _page(
        "report.html",
        document=document,
        flags=flags,
        words=words,
        against=against(document),
        loading_code=loading_code,
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
        figures=defaultdict(str, {name: _part(figure) for name, figure in report_figures(document).items()}),
        spending=words.spending(document),
    )


def report_figures(document: dict[str, Any]) -> dict[str, Figure]:
    """The figures of the page, by name, in its order; those that the document has nothing for are left out."""
    check = document.get("latency_check") or {}
    figures = {
        "front": front_figure(document),
        "effects": effects_figure(document) if document.get("effects") else None,
        "learning-curves": learning_curves(document),
        "predictions": prediction_figure(document) if check.get("predictions") else None,
        "drift": drift_figure(document) if check.get("drift") else None,
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def comparison_page(document: dict[str, Any]) -> str:
    """As :func:`report_page`, from the document that ``compare --json`` prints."""
    return _page(
        "comparison.html",
        document=document,
        names=compared.task_names(document),
        sentences=compared.sentences(document),
        regrets=compared.regret_table(document),
        accuracies=compared.accuracy_table(document),
        regret_map=_part(regret_map(document)),
    )


def _page(template: str, **values: Any) -> str:
    pages = Environment(
        loader=PackageLoader("dashboards", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["breakable"] = _breakable
    library = Markup(plotly_library())
    return pages.get_template(template).render(figure_css=Markup(FIGURE_CSS), plotly_library=library, **values)


def _part(figure: Any) -> Markup:
    return Markup(figure_html(figure, full_page=False))


def _trial_table(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: trial, placement, status, and figures."""
    metric, latency = written.metric_name(document["metric"]), written.latency_name(document["latency_axis"])
    axis = document["latency_axis"]
    times = {f"{latency} p50 ms": f"{axis}_p50_ms", f"{latency} p95 ms": f"{axis}_p95_ms"}
    if axis == "tpot":
        times["TTFT p95 ms"] = "ttft_p95_ms"
    header = ["trial", "placement", "status", f"validation {metric}", "validation loss", f"{latency} ratio"]
    header += [*times, "parameters", "steps", "time"]
    rows = [
        [
            str(point["trial"]),
            f"{point['label']} ({point['reference']})" if point.get("reference") else point["label"],
            f"{point['status']}, front" if point.get("front") else point["status"],
            written.with_interval(point.get("validation_accuracy"), point.get("validation_accuracy_ci")),
            written.decimal(point.get("validation_loss")),
            written.with_interval(point.get("tpot_ratio"), point.get("tpot_ratio_ci")),
            *(written.decimal(point.get(key), 2) for key in times.values()),
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

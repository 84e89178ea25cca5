"""What a command answers on standard output: tables and sentences; nothing is cut in a pipe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TextIO

from dashboards import comparison
from dashboards.against import against
from dashboards.format import (
    MISSING,
    between,
    count,
    decimal,
    latency_name,
    metric_name,
    plain,
    with_interval,
)
from dashboards.words import export_command, front_table, latency_meaning, outcome, reasons, recommendation, state
from objectives.errors import counted
from objectives.placement import Placement
from search.console import open_console, say, show
from search.names import NO_SEARCH
from search.plot import PLOTTED_FROM, Plot, front_layers


def print_result(document: dict[str, Any], stream: TextIO, flags: str = "") -> None:
    """The end of `run`, and `show`: the front, what is recommended and why, and whatever went wrong."""
    console = open_console(stream)
    say(console, f"{plain(document['search'])}: {state(document)}", style="bold")
    if document["front"]:
        header, rows = front_table(document)
        styles = ["bold green" if "recommended" in row[-1] else "dim" if row[0] == MISSING else "" for row in rows]
        show(console, header, rows, left=2, styles=styles)
        if console.is_terminal and console.width >= PLOTTED_FROM:
            console.print(_plot(document))
        say(console, recommendation(document))
        if compared := against(document):
            say(console, compared)
        if champion := document.get("champion"):
            say(console, plain(f"{champion['why'][0].upper()}{champion['why'][1:]}."))
    else:
        say(console, outcome(document))
    if document["front"]:
        if document.get("hypervolume") is not None:
            say(console, f"Hypervolume {decimal(document['hypervolume'])}.")
        say(console, f"Export it: {export_command(document)}{flags}")
        say(console, latency_meaning(document), style="dim")
    for text in [*reasons(document), *map(_note, document["notes"])]:
        say(console, text, style="yellow")


def _plot(document: dict[str, Any]) -> Plot:
    """The front by validation, as while the search ran; trials that stopped have no accuracy."""

    def points(rows: Iterable[dict[str, Any]]) -> list[tuple[float, float]]:
        pairs = [(row["validation_accuracy"], row["tpot_ratio"]) for row in rows]
        return [pair for pair in pairs if None not in pair and all(map(math.isfinite, pair))]

    chosen = (document.get("recommended") or {}).get("trial")
    layers = front_layers(
        points(point for point in document["points"] if not point["front"]),
        (document.get("base") or {}).get("validation_accuracy"),
        points(member for member in document["front"] if member["trial"] != chosen),
        points(member for member in document["front"] if member["trial"] == chosen),
    )
    metric, latency = metric_name(document["metric"]), latency_name(document["latency_axis"])
    return Plot(layers, f"validation {metric} against {latency} ratio")


def print_comparison(document: dict[str, Any], stream: TextIO) -> None:
    """The document of `compare --json`: regret, accuracy and gain by placement and task, and what follows from them."""
    console = open_console(stream)
    say(
        console,
        f"{plain(document['model'])} on {len(document['tasks'])} tasks: {plain(', '.join(document['tasks']))}",
        style="bold",
    )
    for header, rows in (comparison.regret_table(document), comparison.accuracy_table(document)):
        styles = ["bold green" if row[-1] == comparison.DEFAULT else "" for row in rows]
        show(console, header, rows, left=1, styles=styles)
    for text in comparison.sentences(document):
        say(console, text)
    for text in filter(None, [comparison.left_out_sentence(document), *map(_note, document["notes"])]):
        say(console, text, style="yellow")


def print_list(rows: Iterable[dict[str, Any]], stream: TextIO) -> None:
    """One line a search. Keys of a row: search, status, trials (by status), budget, front (its size), metric, best,
    model, data, started (text); any but `search` may be missing or null."""
    console = open_console(stream)
    cells = []
    for row in rows:
        best = decimal(row.get("best"))
        cells.append(
            [
                plain(row["search"]),
                plain(row.get("status") or MISSING),
                f"{sum((row.get('trials') or {}).values())}/{count(row.get('budget'))}",
                count(row.get("front")),
                best if best == MISSING else f"{metric_name(row.get('metric') or '')} {best}".strip(),
                *(plain(row.get(key) or MISSING) for key in ("model", "data", "started")),
            ]
        )
    if cells:
        show(console, ("search", "status", "trials", "front", "best", "model", "data", "started"), cells, left=8)
    else:
        say(console, NO_SEARCH)


def print_modules(document: dict[str, Any], stream: TextIO) -> None:
    """The document of `modules --json`."""
    console = open_console(stream)
    say(console, f"{plain(document['model'])} ({plain(document['type'])})", style="bold")
    groups = [
        [
            *(plain(group.get(key) or MISSING) for key in ("name", "role", "kind")),
            count(group["layers"]),
            count(group["parameters_per_rank"]),
            MISSING if group.get("share") is None else f"{group['share']:.1%}",
        ]
        for group in document["groups"]
    ]
    show(console, ("group", "role", "kind", "layers", "parameters per rank", "share of products"), groups, left=3)
    if left_out := [[plain(row["name"]), plain(row["why"])] for row in document["left_out"]]:
        show(console, ("left out", "why"), left_out, left=2)
    references = [
        [plain(row["name"]), plain("+".join(row["targets"])), count(row["parameters"])]
        for row in document["references"]
    ]
    if references:
        show(console, ("reference placement", "targets", f"parameters at r{document['rank']}"), references, left=2)


def print_latency(document: dict[str, Any], stream: TextIO) -> None:
    """The document of `latency --json`: what was measured; of what was predicted only the number."""
    console = open_console(stream)
    heading = f"{plain(document['model'])}: adapters unmerged, {document['engine']}, {plain(document['device'])}"
    say(console, heading, style="bold")
    rows, predicted = document["profiles"], [row for row in document["profiles"] if row["source"] == "predicted"]
    bases = document["bases"]
    several = len(bases) > 1

    def at_once(figures: dict[str, Any], before: str = ", ") -> str:
        return f"{before}{figures['concurrency']} at once" if several else ""

    shown = [row for row in rows if row["source"] != "predicted"]
    table = []
    for base in bases:
        table.append([f"base model{at_once(base)}", "", *_times(base), decimal(1.0), ""])
        for profile in shown:
            if profile["concurrency"] != base["concurrency"]:
                continue
            placement = Placement.of(profile["targets"], profile["rank"])
            own_class = plain(profile.get("class") or "")
            own_class = MISSING if own_class == placement.name else own_class
            source = plain(profile["source"]) + (", kept from before" if profile.get("cached") else "")
            source += "" if profile.get("settled", True) else ", out of time"
            ratio = with_interval(profile.get("ratio"), profile.get("ratio_ci"))
            table.append([plain(placement.label) + at_once(profile), own_class, *_times(profile), ratio, source])
    header = ("placement", "class", "TTFT p50 ms", "TPOT p50 ms", "TPOT p95 ms", "TPOT p99 ms", "ratio", "source")
    show(console, header, table, left=2)
    if any(row.get("axis") == "ttft" for row in shown):
        say(console, "An encoder has no TPOT: a ratio is of the time of one pass, which stands under TTFT.")
    for drift in document["drifts"]:
        itself = f"The base model against itself{at_once(drift, ' with ')}"
        say(console, f"{itself}: {with_interval(drift['ratio'], drift['ratio_ci'])}.")
    if predicted:
        ratios = between([row["ratio"] for row in predicted])
        more = counted(len(predicted), "more placement")
        say(console, f"Predicted: {more} (ratio {ratios}), which --json has.")
    for check in (document.get("predictions") or {}).get("checks", []):
        guess = with_interval(check["predicted"], check["predicted_ci"])
        measured = f"measured {decimal(check['measured'])}, {check['error']:.1%} off"
        say(console, f"Check of {plain(check['class'])}{at_once(check)}: predicted {guess}, {measured}.")
    for mode in document.get("modes", []):
        adapters = f"{mode['adapters']} adapters" if mode["adapters"] > 1 else "one adapter"
        ratio = with_interval(mode["ratio"], mode["ratio_ci"])
        say(console, f"All groups, {adapters} {plain(mode['mode'])}{at_once(mode)}: {ratio}.")
    if document.get("unmerged"):
        say(console, f"Unmerged, on this engine: {plain(document['unmerged'])}.", style="dim")
    say(console, "A merged adapter costs the base model's latency, whatever it targets.", style="dim")
    for text in map(_note, document["notes"]):
        say(console, text, style="yellow")


def _note(text: str) -> str:
    return f"note: {plain(text)}"


def _times(profile: dict[str, Any]) -> list[str]:
    return [decimal(profile.get(key), 2) for key in ("ttft_p50_ms", "tpot_p50_ms", "tpot_p95_ms", "tpot_p99_ms")]

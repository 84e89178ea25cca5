"""What a person sees: live progress on standard error, the commands' tables on standard output.

A stream that is no terminal gets plain lines: one an event, no control characters, nothing cut.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TextIO

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dashboards import comparison
from dashboards.format import (
    MISSING,
    count,
    decimal,
    duration,
    latency_name,
    metric_name,
    plain,
    with_interval,
    wrapped,
)
from dashboards.words import export_command, front_table, latency_meaning, outcome, reasons, recommendation, state
from objectives.placement import Placement
from search.console import layout, open_console, say, show

P = ParamSpec("P")


def _never_raises(method: Callable[Concatenate[Progress, P], None]) -> Callable[Concatenate[Progress, P], None]:
    """A closed terminal or a full disk behind the stream must not end a search: report nothing from then on."""

    @functools.wraps(method)
    def guarded(self: Progress, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self._enabled:
            try:
                method(self, *args, **kwargs)
            except (Exception, SystemExit):  # Rich turns a broken pipe into SystemExit.
                self._enabled = False

    return guarded


class Progress:
    """Context manager that reports a search. Its methods never raise, whatever happens to the stream.

    `total` trials are in the budget and `done` of them were finished before (a resumed search).
    """

    def __init__(
        self,
        total: int,
        console_stream: TextIO | None = None,
        enabled: bool = True,
        *,
        done: int = 0,
        metric: str = "accuracy",
        latency_axis: str = "tpot",
    ) -> None:
        self._stream = console_stream or sys.stderr
        self._enabled = enabled
        self._total, self._done, self._done_before = total, done, done
        self._metric, self._latency = metric_name(metric), latency_name(latency_axis)
        self._phase = "starting"
        self._running: dict[int, str] = {}
        self._front: list[tuple[str, float, float]] = []
        self._started = time.monotonic()
        self._first_trial: float | None = None
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @_never_raises
    def phase(self, text: str) -> None:
        self._phase = plain(text)
        if self._live is None:
            self._line(self._phase)

    @_never_raises
    def trial_started(self, number: int, label: str) -> None:
        self._first_trial = self._first_trial or time.monotonic()
        # A new dictionary, not a changed one: the display's thread may be reading the old one.
        self._running = {**self._running, number: plain(label)}
        if self._live is None:
            self._line(f"{self._counter}{plain(label)}  started")

    @_never_raises
    def trial_finished(
        self,
        number: int,
        label: str,
        status: str,
        accuracy: float | None,
        ratio: float | None,
        reason: str | None,
        front: list[tuple[str, float, float]],
    ) -> None:
        """`front` holds (label, accuracy, ratio) of the front so far."""
        self._done += 1
        self._running = {trial: name for trial, name in self._running.items() if trial != number}
        self._front = [(plain(name), accuracy, ratio) for name, accuracy, ratio in front]
        if self._live is None or status != "complete":
            self._line(self._finished(plain(label), status, accuracy, ratio, reason))

    @_never_raises
    def note(self, text: str) -> None:
        self._line(f"note: {plain(text)}")

    @_never_raises
    def _open(self) -> None:
        console = open_console(self._stream)
        if console.is_terminal and not console.is_dumb_terminal:
            # Standard output is left alone: it belongs to the result.
            self._live = Live(
                get_renderable=self._view,
                console=console,
                transient=True,
                redirect_stdout=False,
                refresh_per_second=4,
            )
            self._live.start()

    @_never_raises
    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
        if self._done > self._done_before:
            took = duration(time.monotonic() - self._started)
            self._line(f"{self._counter}trials done in {took}, {_points(self._front)} on the front")

    def _line(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text)
        else:
            print(text, file=self._stream, flush=True)

    @property
    def _counter(self) -> str:
        return f"[{self._done:>{len(str(self._total))}}/{self._total}] "

    def _left(self) -> float | None:
        """Seconds, from the rate at which this process saw trials end, which has the number of workers in it."""
        finished = self._done - self._done_before
        if self._first_trial is None or not finished:
            return None
        return (time.monotonic() - self._first_trial) / finished * max(0, self._total - self._done)

    def _finished(
        self, label: str, status: str, accuracy: float | None, ratio: float | None, reason: str | None
    ) -> str:
        parts = [label]
        if status != "complete":
            parts.append(f"{status}: {plain(reason)}" if reason else status)
        if accuracy is not None:
            parts.append(f"{self._metric} {decimal(accuracy)}")
        if ratio is not None:
            parts.append(f"{self._latency} x{decimal(ratio, 2)}")
        parts += [f"front {_points(self._front)}", f"left ~{duration(self._left())}"]
        return self._counter + "  ".join(parts)

    def _view(self) -> Group:
        """The live display: one bar, the running trials, the front so far."""
        bar = Table.grid(padding=(0, 1))
        elapsed, left = duration(time.monotonic() - self._started), duration(self._left())
        bar.add_row(
            f"{self._done}/{self._total}",
            ProgressBar(self._total, self._done, width=24),
            f"elapsed {elapsed}" + ("" if left == MISSING else f"  left ~{left}"),
        )
        shown = sorted(self._front, key=lambda point: point[2])
        rows = [
            ["\n".join(wrapped(name, 40)), decimal(accuracy), decimal(ratio)] for name, accuracy, ratio in shown[:10]
        ]
        if len(shown) > 10:
            rows.append([f"{len(shown) - 10} more", "", ""])
        front = layout(("front so far", self._metric, f"{self._latency} ratio"), rows, left=1)
        doing = f"running {', '.join(self._running.values())}" if self._running else self._phase
        return Group(bar, Text(doing, style="dim", overflow="ellipsis", no_wrap=True), *([front] if shown else []))


def print_result(document: dict[str, Any], stream: TextIO) -> None:
    """The end of `run`, and `show`: the front, what is recommended and why, and whatever went wrong."""
    console = open_console(stream)
    say(console, f"{plain(document['search'])}: {state(document)}", style="bold")
    if document["front"]:
        header, rows = front_table(document)
        styles = ["bold green" if "recommended" in row[-1] else "dim" if row[0] == MISSING else "" for row in rows]
        show(console, header, rows, left=2, styles=styles)
        say(console, recommendation(document))
        if champion := document.get("champion"):
            say(console, plain(f"{champion['why'][0].upper()}{champion['why'][1:]}."))
    else:
        say(console, outcome(document))
    if document.get("hypervolume") is not None:
        say(console, f"Hypervolume {decimal(document['hypervolume'])}.")
    if document["front"]:
        say(console, f"Export it: {export_command(document)}")
        say(console, latency_meaning(document), style="dim")
    for text in [*reasons(document), *map(_note, document["notes"])]:
        say(console, text, style="yellow")


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
        say(console, "No search yet: python -m search run starts one.")


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
    if references := [[plain(row["name"]), plain("+".join(row["targets"]))] for row in document["references"]]:
        show(console, ("reference placement", "targets"), references, left=2)


def print_latency(document: dict[str, Any], stream: TextIO) -> None:
    """The document of `latency --json`: what was measured; of what was predicted only the number."""
    console = open_console(stream)
    heading = f"{plain(document['model'])}: adapters unmerged, {document['engine']}, {plain(document['device'])}"
    say(console, heading, style="bold")
    rows, predicted = document["profiles"], [row for row in document["profiles"] if row["source"] == "predicted"]
    several = len({row.get("concurrency") for row in rows}) > 1
    shown = [row for row in rows if row["source"] != "predicted"]
    table = [["base model", "", *_times(document["base"]), decimal(1.0), ""]]
    for profile in shown:
        label = Placement.of(profile["targets"], profile["rank"]).label
        own_class = plain(profile.get("class") or "")
        own_class = MISSING if own_class == label else own_class
        label += f", {profile['concurrency']} at once" if several else ""
        source = plain(profile["source"]) + (", kept from before" if profile.get("cached") else "")
        source += "" if profile.get("settled", True) else ", out of time"
        ratio = with_interval(profile.get("ratio"), profile.get("ratio_ci"))
        table.append([plain(label), own_class, *_times(profile), ratio, source])
    header = ("placement", "class", "TTFT p50 ms", "TPOT p50 ms", "TPOT p95 ms", "TPOT p99 ms", "ratio", "source")
    show(console, header, table, left=2)
    for drift in document.get("drifts") or [document["drift"]]:
        of = f" with {drift['concurrency']} at once" if several else ""
        say(console, f"The base model against itself{of}: {with_interval(drift['ratio'], drift['ratio_ci'])}.")
    if predicted:
        low, high = min(row["ratio"] for row in predicted), max(row["ratio"] for row in predicted)
        ratios = f"of ratios {decimal(low)} to {decimal(high)}"
        say(console, f"Predicted: {len(predicted)} more placements, {ratios}; --json has them.")
    for check in (document.get("predictions") or {}).get("checks", []):
        guess = with_interval(check["predicted"], check["predicted_ci"])
        measured = f"measured {decimal(check['measured'])}, {check['error']:.1%} off"
        say(console, f"Check of {plain(check['class'])}: predicted {guess}, {measured}.")
    for mode in document.get("modes", []):
        of = f", {mode['concurrency']} at once" if several else ""
        adapters = f"{mode['adapters']} adapters" if mode["adapters"] > 1 else "one adapter"
        ratio = with_interval(mode["ratio"], mode["ratio_ci"])
        say(console, f"All groups, {adapters} {plain(mode['mode'])}{of}: {ratio}.")
    if document.get("unmerged"):
        say(console, f"Unmerged, on this engine: {plain(document['unmerged'])}.", style="dim")
    say(console, "A merged adapter costs the base model's latency, whatever it targets.", style="dim")


def _note(text: str) -> str:
    return f"note: {plain(text)}"


def _times(profile: dict[str, Any]) -> list[str]:
    return [decimal(profile.get(key), 2) for key in ("ttft_p50_ms", "tpot_p50_ms", "tpot_p95_ms", "tpot_p99_ms")]


def _points(front: Sequence[object]) -> str:
    return f"{len(front)} point{'' if len(front) == 1 else 's'}"

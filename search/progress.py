"""How a search goes, live on standard error.

A stream that is no terminal gets plain lines: one an event, no control characters, nothing cut.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Concatenate, ParamSpec, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from dashboards.format import count, decimal, duration, latency_name, metric_name, plain, wrapped
from objectives.errors import counted
from search.console import NAME_WIDTH, layout, open_console
from search.pace import Pace, per_time
from search.plot import BESIDE_ROWS, NARROWEST, PLOTTED_FROM, WIDEST, Plot, front_layers
from search.watcher import Standing, Watcher

P = ParamSpec("P")

#: Columns from which names have room beside the plot.
_WIDE, _WIDE_NAME = 110, 40
_MEMBERS = 10


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

    `total` trials are in the budget, `deadline` is when no more of them begin, on the `clock` in seconds.
    """

    def __init__(
        self,
        total: int,
        console_stream: TextIO | None = None,
        *,
        metric: str = "accuracy",
        latency_axis: str = "tpot",
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = console_stream or sys.stderr
        self._enabled = True  # until the stream fails
        self._total = total
        self._metric, self._latency = metric_name(metric), latency_name(latency_axis)
        self._deadline = deadline
        self._clock = clock
        self._phase = "starting"
        self._share: float | None = None
        self._running: dict[int, str] = {}
        self._workers = self._ends = 0  # trials seen side by side, and ends of trials
        self._stopped: set[int] = set()
        self._last = ""  # which trial stopped last, and why; other failures are lines above the display
        self._standing = Standing()
        self._before: int | None = None  # trials that earlier processes had done
        self._started = clock()
        self._pace = Pace()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @_never_raises
    def phase(self, text: str, share: float | None = None) -> None:
        """What is being done, and, where there are no trials, which `share` of everything is done at least."""
        self._phase, self._share = plain(text), share
        if self._live is None:
            self._line(self._phase)

    @_never_raises
    def stands(self, standing: Standing) -> None:
        self._standing = standing
        self._before = standing.done if self._before is None else self._before

    @_never_raises
    def trial_started(self, number: int, label: str) -> None:
        # A new dictionary, not a changed one: the display's thread may be reading the old one.
        self._running = {**self._running, number: plain(label)}
        self._workers = max(self._workers, len(self._running))
        if self._live is None:
            self._line(f"{self._counter}{plain(label)}  {'goes on' if number in self._stopped else 'started'}")

    @_never_raises
    def trial_stopped(self, number: int, label: str, reason: str) -> None:
        self._ended(number)
        self._stopped.add(number)
        self._last = f"{plain(label)} stopped {plain(reason)}, and may go on"
        if self._live is None:
            self._line(f"{self._counter}{plain(label)}  stopped {plain(reason)}, may go on{self._left()}")

    @_never_raises
    def trial_finished(
        self, number: int, label: str, status: str, accuracy: float | None, ratio: float | None, reason: str | None
    ) -> None:
        self._ended(number)
        why = f"{status}: {plain(reason)}" if reason else status
        if status == "stopped":
            self._last = f"{plain(label)} {why}"
        # Those that never went on are many, at the end, and the result counts them.
        if self._live is None or status not in ("complete", "stopped"):
            parts = [plain(label), *([why] if status != "complete" else [])]
            parts += [f"{self._metric} {decimal(accuracy)}"] if accuracy is not None else []
            parts += [f"{self._latency} x{decimal(ratio, 2)}"] if ratio is not None else []
            parts.append(f"front {counted(len(self._standing.front), 'point')}")
            self._line(self._counter + "  ".join(parts) + self._left())

    @_never_raises
    def note(self, text: str) -> None:
        self._line(f"note: {plain(text)}")

    @_never_raises
    def _open(self) -> None:
        console = open_console(self._stream)
        if console.is_terminal and not console.is_dumb_terminal:
            # Standard output is left alone: it belongs to the result.
            self._live = Live(
                get_renderable=lambda: self._view(console),
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
        if self._before is not None and self._standing.done > self._before:
            standing = self._standing
            done = "done"
            if standing.stops_early and standing.done < standing.begun:  # it was interrupted: the others may go on
                done = f"begun, {standing.done} of them done,"
            took = duration(self._clock() - self._started)
            self._line(f"{self._counter}trials {done} in {took}, {counted(len(standing.front), 'point')} on the front")

    def _line(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text)
        else:
            print(text, file=self._stream, flush=True)

    @property
    def _counter(self) -> str:
        """Trials that are done; where they stop on the way, most are not until the end, so those that were begun."""
        shown = self._standing.begun if self._standing.stops_early else self._standing.done
        return f"[{shown:>{len(str(self._total))}}/{self._total}] "

    def _ended(self, number: int) -> None:
        """A worker is free again: measure the pace, in steps where trials may stop on the way, else in trials."""
        self._running = {trial: name for trial, name in self._running.items() if trial != number}
        self._phase = "choosing what to try next"
        standing = self._standing
        if standing.stops_early:
            done, left = float(standing.steps), float(standing.steps_left)
        else:
            done = standing.done + len(self._running) / 2  # what runs is half done on average
            left = self._total - done
        self._ends += 1
        if self._ends <= self._workers:
            self._pace.begin(self._clock(), done)  # the first trial of a worker waits for it to load the model
        else:
            self._pace.mark(self._clock(), done, left)

    def _left(self) -> str:
        """Nothing where it cannot be known. Which trials will stop for good is not, so all may go on to their end."""
        now = self._clock()
        left = self._pace.left(now) if self._standing.steps_left else None
        if left is not None and self._deadline is not None:
            left = min(left, self._deadline - now)
        if left is None or left <= 0:
            return ""
        return f"  left {'at most ' if self._standing.stops_early else ''}~{duration(left)}"

    def _view(self, console: Console) -> Group:
        """The live display: one bar, the running trials, what stopped, the front so far."""
        standing = self._standing
        running = f"running {', '.join(self._running.values())}" if self._running else self._phase
        lines = [self._bar(console.width)]
        lines.append(Text(running, style="dim", overflow="crop", no_wrap=True))
        if standing.stopped or standing.ended.keys() - {"complete"}:
            lines.append(Text(self._tally(standing), overflow="crop", no_wrap=True))
        if self._last:
            lines.append(Text(f"last: {self._last}", style="dim", overflow="crop", no_wrap=True))
        return Group(*lines, *([self._front(console, len(lines))] if standing.front else []))

    def _bar(self, width: int) -> RenderableType:
        standing, parts = self._standing, [f"elapsed {duration(self._clock() - self._started)}"]
        done, total, of = float(standing.done), float(self._total), f"{standing.done}/{self._total}"
        if self._share is not None:
            done, total, of = self._share, 1.0, f"{self._share:.0%}"
        elif standing.stops_early:
            done, total = standing.steps, standing.steps + standing.steps_left
            of = f"{count(done)}/{count(total)} steps"
        if (rate := self._pace.rate) is not None:
            parts.append(per_time(rate, "steps" if standing.stops_early else "trials"))
        about = "  ".join(parts) + self._left()
        bar = Table.grid(*(Column(no_wrap=True, overflow="crop") for _ in range(3)), padding=(0, 1))
        bar.add_row(of, ProgressBar(total, done, width=max(4, min(24, width - len(of + about) - 3))), about)
        return bar

    def _tally(self, standing: Standing) -> str:
        """``18 of 24 trials begun: 5 complete, 9 stopped early, 1 failed``."""
        counts = dict(standing.ended)
        counts["stopped early"] = counts.pop("stopped", 0) + standing.stopped
        told = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
        return f"{standing.begun} of {self._total} trials begun: {told}"

    def _front(self, console: Console, above: int) -> RenderableType:
        """The table of the front, with the plot beside it where both have room."""
        standing, wide = self._standing, console.width >= _WIDE
        width, shown = _WIDE_NAME if wide else NAME_WIDTH, sorted(standing.front, key=lambda member: member[2])
        members = [("\n".join(wrapped(plain(name), width)), accuracy, ratio) for name, accuracy, ratio in shown]
        # The display ends at the edge of the terminal; three lines are for the header, and one for how many more.
        room, fitting = console.height - above - 5, 0
        for name, *_ in members[:_MEMBERS]:
            room -= name.count("\n") + 1
            fitting += room >= 0 or not fitting
        rows = [[name, decimal(accuracy), decimal(ratio)] for name, accuracy, ratio in members[:fitting]]
        if len(members) > fitting:
            rows.append([f"{len(members) - fitting} more", "", ""])
        titles = ("front", self._metric, f"{self._latency} ratio")
        table = layout(titles if wide else [title.replace(" ", "\n") for title in titles], rows, left=1)
        beside = console.width - Measurement.get(console, console.options, table).maximum - 3
        tall = min(10, console.height - above - BESIDE_ROWS - 1)
        if console.width < PLOTTED_FROM or beside < NARROWEST or tall < 5:
            return table
        points = [(accuracy, ratio) for _, accuracy, ratio in standing.front]
        layers = front_layers(standing.dominated, standing.base, points)
        both = Table.grid(padding=(0, 3))
        both.add_column(width=min(WIDEST, beside))
        both.add_row(Plot(layers, f"{self._metric} against {self._latency} ratio", tall), table)
        return both


_: type[Watcher] = Progress

from __future__ import annotations

import io
import os
import pty
import re

import pytest

from search.pace import Pace, per_time
from search.progress import Progress
from search.terminal import print_result
from search.watcher import Standing
from tests.dashboards import documents
from tests.search.pseudo_terminal import terminal, without_codes

pytestmark = pytest.mark.usefixtures("plain_environment")

FRONT = [("o_proj r8", 0.612, 1.12)]


class Clock:
    """Stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def report(progress: Progress, clock: Clock | None = None) -> None:
    clock = clock or Clock()
    with progress:
        progress.phase("loading model")
        progress.stands(Standing(base=0.3))
        progress.trial_started(0, "o_proj r8")
        progress.stands(Standing(base=0.3, front=FRONT, begun=1, ended={"complete": 1}))
        progress.trial_finished(0, "o_proj r8", "complete", 0.612, 1.12, None)
        clock.now += 10
        progress.stands(Standing(base=0.3, front=FRONT, begun=2, ended={"complete": 1, "failed": 1}, steps_left=1))
        progress.trial_finished(1, "k_proj r4", "failed", None, None, "NaN\nat step 3")
        progress.note("one text was cut")


def report_stops(progress: Progress, clock: Clock) -> None:
    """Three trials of 200 steps on one worker, of a budget of four; one of them goes on to its end."""

    def standing(begun: int, steps: int, paused: int, **ended: int) -> Standing:
        left = (4 - sum(ended.values())) * 200 - steps + ended.get("complete", 0) * 200
        return Standing(0.3, FRONT, [], ended, begun, paused, True, steps, left)

    with progress:
        for number, (label, steps) in enumerate((("o_proj r8", 20), ("k_proj r8", 40), ("q_proj r8", 60))):
            progress.stands(standing(number + 1, steps - 20, number))
            progress.trial_started(number, label)
            clock.now += 10
            progress.stands(standing(number + 1, steps, number + 1))
            progress.trial_stopped(number, label, "at 20 of 200 steps")
        progress.trial_started(0, "o_proj r8")
        clock.now += 90
        progress.stands(standing(3, 240, 2, complete=1))
        progress.trial_finished(0, "o_proj r8", "complete", 0.612, 1.12, None)


def test_without_a_terminal_each_event_is_one_plain_line() -> None:
    clock, stream = Clock(), io.StringIO()
    report(Progress(24, stream, clock=clock), clock)
    assert stream.getvalue().splitlines() == [
        "loading model",
        "[ 0/24] o_proj r8  started",
        "[ 1/24] o_proj r8  accuracy 0.612  TPOT x1.12  front 1 point",
        "[ 2/24] k_proj r4  failed: NaN at step 3  front 1 point  left ~3m40s",
        "note: one text was cut",
        "[ 2/24] trials done in 10s, 1 point on the front",
    ]


def test_the_time_left_is_counted_in_steps_where_trials_stop_on_the_way() -> None:
    clock, stream = Clock(), io.StringIO()
    report_stops(Progress(4, stream, clock=clock), clock)
    assert stream.getvalue().splitlines() == [
        "[1/4] o_proj r8  started",
        "[1/4] o_proj r8  stopped at 20 of 200 steps, may go on",
        "[2/4] k_proj r8  started",
        "[2/4] k_proj r8  stopped at 20 of 200 steps, may go on  left at most ~6m20s",
        "[3/4] q_proj r8  started",
        "[3/4] q_proj r8  stopped at 20 of 200 steps, may go on  left at most ~6m10s",
        "[3/4] o_proj r8  goes on",
        "[3/4] o_proj r8  accuracy 0.612  TPOT x1.12  front 1 point  left at most ~4m40s",
        "[3/4] trials begun, 1 of them done, in 2m00s, 1 point on the front",
    ]


def finish(progress: Progress, number: int, begun: int) -> None:
    progress.stands(Standing(ended={"complete": number + 1}, begun=begun, steps_left=1))
    progress.trial_finished(number, "o_proj r8", "complete", 0.6, 1.1, None)


def test_the_pace_is_taken_once_every_worker_has_begun_and_what_runs_counts_half() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(8, stream, clock=clock) as progress:
        progress.trial_started(0, "o_proj r8")
        progress.trial_started(1, "q_proj r8")
        for number, now in enumerate((100, 120, 150)):
            clock.now = now
            finish(progress, number, number + 2)
            progress.trial_started(number + 2, "v_proj r8")
    lines = [line for line in stream.getvalue().splitlines() if "accuracy" in line]
    assert ["left" in line for line in lines] == [False, False, True]
    assert lines[-1].endswith("left ~2m15s"), "4.5 trials at one in 30 s"


def test_nothing_is_said_of_the_time_left_once_it_is_over() -> None:
    pace = Pace()
    assert (pace.rate, pace.left(5.0)) == (None, None)
    pace.begin(3.0, done=7.0)
    assert (pace.rate, pace.left(5.0)) == (None, None)
    pace.mark(13.0, done=9.0, left=1.0)
    assert (pace.rate, pace.left(15.0), pace.left(18.0), pace.left(19.0)) == (0.2, 3.0, None, None)
    pace.mark(18.0, done=10.0, left=0.0)
    assert pace.left(18.0) is None


def test_no_more_time_is_left_than_trials_may_begin_in() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(100, stream, clock=clock, deadline=60.0) as progress:
        for number in range(2):
            progress.trial_started(number, "o_proj r8")
            clock.now += 10
            finish(progress, number, number + 1)
        assert "left ~40s" in stream.getvalue()
        progress.trial_started(2, "o_proj r8")
        clock.now = 60
        finish(progress, 2, 3)
        assert stream.getvalue().endswith("front 0 points\n")
        clock.now = 50
        progress.stands(Standing(ended={"complete": 3}, begun=3))
        progress.trial_finished(2, "o_proj r8", "complete", 0.6, 1.1, None)
        assert stream.getvalue().endswith("front 0 points\n"), "no trial begins any more"


@pytest.mark.parametrize(
    ("rate", "text"), [(5.2, "312 trials/min"), (0.05, "3.0 trials/min"), (1 / 600, "6.0 trials/hour")]
)
def test_a_rate_has_the_unit_that_suits_it(rate: float, text: str) -> None:
    assert per_time(rate, "trials") == text


def test_a_resumed_search_counts_on_and_names_its_own_metric() -> None:
    stream = io.StringIO()
    with Progress(24, stream, metric="rouge_l", latency_axis="ttft") as progress:
        progress.stands(Standing(ended={"complete": 11}, begun=11))
        progress.trial_started(12, "o_proj r8")
        progress.stands(Standing(ended={"complete": 12}, begun=12))
        progress.trial_finished(12, "o_proj r8", "complete", 0.5, 1.1, None)
    _, first, last = stream.getvalue().splitlines()
    assert first == "[12/24] o_proj r8  ROUGE-L 0.500  request time x1.10  front 0 points"
    assert last == "[12/24] trials done in 0s, 0 points on the front"


def test_a_name_cannot_move_the_cursor_or_start_a_line() -> None:
    stream = io.StringIO()
    with Progress(2, stream) as progress:
        progress.trial_started(0, "a\x1b[2J\nb [red]c[/red]")
        progress.note("x\r\x9b2Jy")
    assert stream.getvalue().splitlines() == ["[0/2] a [2J b [red]c[/red]  started", "note: x 2Jy"]


def test_a_terminal_shows_bar_plot_front_and_failures() -> None:
    clock = Clock()
    with terminal() as tty:
        report(Progress(24, tty.stream, clock=clock), clock)
        seen = tty.seen
    text = without_codes(seen)
    assert "\x1b[" in seen
    assert "choosing what to try next" in text
    assert re.search(r"2/24 ━.* elapsed 10s  6.0 trials/min  left ~3m40s", text)
    assert "2 of 24 trials begun: 1 complete, 1 failed" in text
    assert re.search(r"front +accuracy +ratio", text)
    assert re.search(r"0\.612 │ +●", text)
    assert re.search(r"│ +o_proj r8 +0\.612 +1\.120", text), "the plot beside the table"
    assert "0.300 │◆" in text
    assert "failed: NaN at step 3" in text
    assert "o_proj r8  accuracy" not in text


def test_a_terminal_says_what_stopped_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    clock = Clock()
    with terminal() as tty:
        report_stops(Progress(4, tty.stream, clock=clock), clock)
        text = without_codes(tty.seen)
    assert re.search(r"240/800 steps ━.* elapsed 2m00s  120 steps/min  left at most ~4m40s", text)
    assert "3 of 4 trials begun: 1 complete, 2 stopped early" in text
    assert "last: q_proj r8 stopped at 20 of 200 steps, and may go on" in text


def test_what_was_given_up_is_counted_in_a_terminal_and_listed_elsewhere() -> None:
    stream, why = io.StringIO(), "at 20 of 200 steps, since it was not worth it"
    with terminal() as tty:
        for progress in (Progress(4, stream), Progress(4, tty.stream)):
            with progress:
                progress.stands(Standing(ended={"stopped": 1}, begun=4, stops_early=True))
                progress.trial_finished(1, "k_proj r8", "stopped", None, 1.2, why)
        text = without_codes(tty.seen)
    assert stream.getvalue().startswith(f"[4/4] k_proj r8  stopped: {why}  TPOT x1.20  front 0 points\n")
    assert "[4/4] k_proj" not in text
    assert f"4 of 4 trials begun: 1 stopped early\nlast: k_proj r8 stopped: {why}"[:80] in text


def test_a_share_moves_the_bar_where_there_are_no_trials() -> None:
    with terminal() as tty:
        with Progress(0, tty.stream) as progress:
            progress.phase("round 1: o_proj r8", 0.34)
        text = without_codes(tty.seen)
    assert re.search(r"34% ━+[╸╺]?━* elapsed", text)
    assert "round 1: o_proj r8" in text
    assert "trials" not in text


@pytest.mark.parametrize(("columns", "lines"), [(40, 50), (79, 50), (80, 12), (80, 24), (300, 50)])
def test_the_display_fits_the_terminal(columns: int, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    names = "+".join(f"{name}_proj" for name in ("down", "gate", "k", "o", "q", "up", "v"))
    members = [(f"{names} r{n}", 0.5 + n / 100, 1 + n / 50) for n in range(1, 25)]
    with terminal() as tty:
        with Progress(24, tty.stream) as progress:
            progress.stands(Standing(0.3, members, [(0.5, 1.5)], {"failed": 1}, 25, 3, True, 50, 100))
            progress.trial_started(30, names)
        text = without_codes(tty.seen)
    *_, last = text.split("50/150 steps")  # the last of the frames
    shown = ("50/150 steps" + last).splitlines()
    assert max(map(len, shown)) <= columns
    assert len(shown) <= lines
    assert ("against" in text) == (columns >= 80 and lines >= 24)
    assert columns < 79 or re.search(r"\d+ more", text)


def test_a_terminal_without_utf_8_gets_ascii() -> None:
    with terminal("ascii") as tty:
        report(Progress(24, tty.stream))
        print_result(documents.document(), tty.stream)
        seen = tty.seen
    assert seen.isascii()
    assert "accuracy against TPOT ratio" in seen


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal() as tty:
        report(Progress(24, tty.stream))
        print_result(documents.document(), tty.stream)
        seen = tty.seen
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38|9[0-7])[;m]", seen)


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with terminal() as tty:
        report(Progress(24, tty.stream))
        assert "\x1b" not in tty.seen


class FullDisk(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_stream_that_fails_never_reaches_the_search() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (FullDisk(), closed):
        report(Progress(24, stream))


def test_a_terminal_that_goes_away_never_reaches_the_search() -> None:
    master, slave = pty.openpty()
    stream = os.fdopen(slave, "w")
    progress = Progress(24, stream)
    os.close(master)
    report(progress)


def test_an_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt), Progress(24, io.StringIO()):
        raise KeyboardInterrupt

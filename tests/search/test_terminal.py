from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import pytest

from search.terminal import Progress, print_latency, print_list, print_modules, print_result
from tests.dashboards import documents

LONG = "down_proj+gate_proj+k_proj+o_proj+q_proj+up_proj+v_proj r16"


class Terminal:
    """A real pseudo-terminal; `seen` is what was written to it, once it is closed."""

    def __init__(self) -> None:
        self.master, slave = pty.openpty()
        self.stream: TextIO = os.fdopen(slave, "w", encoding="utf-8")
        self._bytes = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while part := os.read(self.master, 65536):
                self._bytes += part
        except OSError:  # Linux reports the closed other side as an error.
            return

    @property
    def seen(self) -> str:
        self.stream.close()
        self._reader.join()
        return self._bytes.decode()


@contextmanager
def terminal() -> Iterator[Terminal]:
    opened = Terminal()
    try:
        yield opened
    finally:
        _ = opened.seen
        os.close(opened.master)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")


def report(progress: Progress) -> None:
    with progress:
        progress.phase("loading model")
        progress.trial_started(0, "o_proj r8")
        progress.trial_finished(0, "o_proj r8", "complete", 0.612, 1.12, None, [("o_proj r8", 0.612, 1.12)])
        progress.trial_finished(1, "k_proj r4", "failed", None, None, "NaN\nat step 3", [("o_proj r8", 0.612, 1.12)])
        progress.note("one text was cut")


def test_without_a_terminal_each_event_is_one_plain_line() -> None:
    stream = io.StringIO()
    report(Progress(24, stream))
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["loading model", "[ 0/24] o_proj r8  started"]
    assert re.fullmatch(r"\[ 1/24\] o_proj r8  accuracy 0\.612  TPOT x1\.12  front 1 point  left ~\d+s", lines[2])
    assert re.fullmatch(r"\[ 2/24\] k_proj r4  failed: NaN at step 3  front 1 point  left ~\d+s", lines[3])
    assert lines[4] == "note: one text was cut"
    assert re.fullmatch(r"\[ 2/24\] trials done in \d+s, 1 point on the front", lines[5])
    assert len(lines) == 6


def test_a_resumed_search_counts_on_and_names_its_own_metric() -> None:
    stream = io.StringIO()
    with Progress(24, stream, done=11, metric="rouge_l", latency_axis="ttft") as progress:
        progress.trial_finished(12, "o_proj r8", "complete", 0.5, 1.1, None, [])
    first = stream.getvalue().splitlines()[0]
    assert first == "[12/24] o_proj r8  ROUGE-L 0.500  request time x1.10  front 0 points  left ~-"


def test_a_name_cannot_move_the_cursor_or_start_a_line() -> None:
    stream = io.StringIO()
    with Progress(2, stream) as progress:
        progress.trial_started(0, "a\x1b[2J\nb [red]c[/red]")
        progress.note("x\r\x9b2Jy")
    assert stream.getvalue().splitlines() == ["[0/2] a [2J b [red]c[/red]  started", "note: x 2Jy"]


def test_disabled_is_silent() -> None:
    stream = io.StringIO()
    report(Progress(24, stream, enabled=False))
    assert stream.getvalue() == ""


def test_a_terminal_shows_bar_front_and_failures() -> None:
    with terminal() as tty:
        report(Progress(24, tty.stream))
        seen = tty.seen
    text = without_codes(seen)
    assert "\x1b[" in seen
    assert "loading model" in text
    assert re.search(r"2/24 .*elapsed 0s  left ~\d+s", text)
    assert re.search(r"front so far +accuracy +TPOT ratio", text)
    assert "failed: NaN at step 3" in text
    assert "o_proj r8  accuracy" not in text


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


def printed(document: dict[str, Any]) -> str:
    stream = io.StringIO()
    print_result(document, stream)
    assert "\x1b" not in stream.getvalue()
    return stream.getvalue()


def test_the_result_in_a_pipe() -> None:
    text = printed(documents.document())
    lines = [re.sub(r" {2,}", "  ", line.strip()) for line in text.splitlines()]
    assert lines[0] == "demo: complete, 6 of 6 trials (4 complete, 1 failed, 1 infeasible) in 2m11s"
    assert lines[1] == "trial  placement  test accuracy  validation  TPOT ratio  TPOT p95 ms  parameters"
    assert lines[3] == "-  base model  0.210 [0.180, 0.250]  0.200  1.000  4.10  0"
    assert (
        lines[5]
        == "2  down_proj+o_proj r8  0.640 [0.610, 0.670]  0.660  1.200 [1.180, 1.220]  4.60  12,800  recommended"
    )
    assert lines[7].startswith("Recommended: down_proj+o_proj r8 (trial 2): the cheapest within one standard error")
    assert "Hypervolume 0.530." in lines
    assert "1 failed: the loss is NaN at step 3" in lines
    assert lines[-1] == "note: 3 texts were cut at 128 tokens."


@pytest.mark.parametrize("case", documents.ALL)
def test_every_document_prints(case: str) -> None:
    full = documents.ALL[case]()
    text = printed(full)
    assert all(row["label"] in text for row in full["front"])


def test_no_placement_is_cut_in_a_pipe() -> None:
    full = documents.document()
    full["front"][0]["label"] = "+".join(f"layer_{number}_projection" for number in range(12)) + " r8"
    assert full["front"][0]["label"] in printed(full)


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_nothing_is_cut_in_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    full = documents.document()
    full["front"][0]["label"] = LONG
    with terminal() as tty:
        print_result(full, tty.stream)
        text = without_codes(tty.seen)
    assert max(len(line) for line in text.splitlines()) <= columns
    assert "…" not in text
    letters = re.sub(r"\s", "", text)
    assert all(f"{name}_proj" in letters for name in ("down", "gate", "k", "o", "q", "up", "v"))
    if columns >= 80:
        assert "[0.580, 0.640]" in text
        assert "gate_proj+" in text


def test_list() -> None:
    stream = io.StringIO()
    row = {"search": "demo", "status": "complete", "trials": {"complete": 5, "failed": 1}, "budget": 24, "front": 3}
    print_list([{**row, "metric": "rouge_l", "best": 0.61}, {"search": "new"}], stream)
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert lines[2] == ["demo", "complete", "6/24", "3", "ROUGE-L", "0.610", "-", "-", "-"]
    assert lines[3] == ["new", "-", "0/-", "-", "-", "-", "-", "-"]


def test_list_of_nothing_says_how_to_start() -> None:
    stream = io.StringIO()
    print_list([], stream)
    assert stream.getvalue() == "No search yet: python -m search run starts one.\n"


def test_modules() -> None:
    stream = io.StringIO()
    group = {
        "name": "o_proj",
        "layers": 5,
        "parameters_per_rank": 640,
        "role": "output",
        "kind": "Linear",
        "share": 0.123,
    }
    print_modules(
        {
            "model": "models/tiny",
            "type": "llama",
            "groups": [group],
            "left_out": [{"name": "lm_head", "why": "output head"}],
            "references": [{"name": "o+down", "targets": ["down_proj", "o_proj"]}],
        },
        stream,
    )
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert ["o_proj", "output", "Linear", "5", "640", "12.3%"] in lines
    assert ["lm_head", "output", "head"] in lines
    assert ["o+down", "down_proj+o_proj"] in lines


def latency_document() -> dict[str, Any]:
    times = {"ttft_p50_ms": 9.6, "tpot_p50_ms": 4.3, "tpot_p95_ms": 4.6, "tpot_p99_ms": 4.8}
    figures = {**times, "ratio": 1.1, "ratio_ci": [1.08, 1.12], "concurrency": 1, "rank": 8}
    guess = {"ratio": 1.2, "ratio_ci": [1.1, 1.3], "concurrency": 1, "rank": 8, "source": "predicted"}
    drift = {"ratio": 1.0, "ratio_ci": [0.99, 1.01], "settled": True, "concurrency": 1}
    check = {"class": "down_proj+o_proj r8", "predicted": 1.2, "predicted_ci": [1.1, 1.3], "measured": 1.25}
    return {
        "model": "models/tiny",
        "engine": "vllm",
        "device": "cpu",
        "unmerged": "it costs",
        "base": {"ttft_p50_ms": 9.0, "tpot_p50_ms": 3.9, "tpot_p95_ms": 4.1, "tpot_p99_ms": 4.2},
        "drift": drift,
        "drifts": [drift],
        "modes": [{"mode": "mixed", "adapters": 4, "ratio": 1.5, "ratio_ci": [1.4, 1.6], "concurrency": 1}],
        "predictions": {"median_error": 0.04, "checks": [{**check, "error": 0.04}]},
        "profiles": [
            {**figures, "targets": ["q_proj"], "class": "qkv r8", "source": "measured", "settled": False},
            {**figures, "targets": ["o_proj"], "class": "o_proj r8", "source": "measured", "cached": True},
            {**guess, "targets": ["down_proj", "o_proj"], "class": "down_proj+o_proj r8"},
        ],
    }


def test_latency() -> None:
    stream = io.StringIO()
    print_latency(latency_document(), stream)
    text = stream.getvalue()
    lines = [line.split() for line in text.splitlines()]
    assert ["base", "model", "9.00", "3.90", "4.10", "4.20", "1.000"] in lines
    figures = ["9.60", "4.30", "4.60", "4.80", "1.100", "[1.080,", "1.120]"]
    assert ["q_proj", "r8", "qkv", "r8", *figures, "measured,", "out", "of", "time"] in lines
    assert ["o_proj", "r8", "-", *figures, "measured,", "kept", "from", "before"] in lines
    assert "The base model against itself: 1.000 [0.990, 1.010]." in text
    assert "Predicted: 1 more placements, of ratios 1.200 to 1.200; --json has them." in text
    assert "Check of down_proj+o_proj r8: predicted 1.200 [1.100, 1.300], measured 1.250, 4.0% off." in text
    assert "All groups, 4 adapters mixed: 1.500 [1.400, 1.600]." in text
    assert "Unmerged, on this engine: it costs." in text


def test_latency_of_several_concurrencies_names_them() -> None:
    document = latency_document()
    document["profiles"].append({**document["profiles"][0], "concurrency": 8})
    stream = io.StringIO()
    print_latency(document, stream)
    assert "q_proj r8, 1 at once" in stream.getvalue()
    assert "q_proj r8, 8 at once" in stream.getvalue()
    assert "The base model against itself with 1 at once: 1.000 [0.990, 1.010]." in stream.getvalue()


def test_a_search_is_imported_without_torch_so_that_ray_can_start_beside_it() -> None:
    code = "import sys, search.run, search.several; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_importing_it_stays_light() -> None:
    code = "import sys, search.terminal; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "pandas", "numpy", "mlflow", "plotly", "jinja2", "ray", "optuna"} & set(loaded)

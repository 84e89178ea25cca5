from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards import format as written


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (80, "1m20s"),
        (3599.7, "1h00m"),
        (7500, "2h05m"),
        (None, "-"),
        (-1, "0s"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert written.duration(seconds) == text


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_missing_values_are_a_dash(missing: float | None) -> None:
    assert written.decimal(missing) == "-"
    assert written.with_interval(missing, [0.1, 0.2]) == "-"
    assert written.with_interval(0.15, [0.1, missing]) == "0.150"


def test_with_interval() -> None:
    assert written.with_interval(0.61, [0.57, 0.65], 2) == "0.61 [0.57, 0.65]"


@pytest.mark.parametrize(
    ("metric", "name"), [("rouge_l", "ROUGE-L"), ("accuracy", "accuracy"), ("own_metric", "own metric")]
)
def test_metric_name(metric: str, name: str) -> None:
    assert written.metric_name(metric) == name


@given(st.lists(st.text("abc_", min_size=1), min_size=1), st.integers(0, 30))
def test_wrapped_keeps_every_name_whole(names: list[str], width: int) -> None:
    label = "+".join(names) + " r8"
    lines = written.wrapped(label, width)
    assert "".join(lines) == label
    assert all(line.endswith("+") for line in lines[:-1])
    assert all(len(line) <= width or line.count("+") <= 1 for line in lines)


@given(st.text())
def test_plain_is_one_printable_line(text: str) -> None:
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028]", written.plain(text))
    assert written.plain(written.plain(text)) == written.plain(text)


def test_between_what_values_are() -> None:
    assert written.between([0.68, 0.612]) == "0.612 to 0.680"
    assert written.between([0.6120, 0.6123]) == "0.612"

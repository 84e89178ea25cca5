"""What a user's script must print, and what is said where it fails."""

from __future__ import annotations

import sys

import pytest

from benchmarks.side_by_side import answer, best_in
from objectives.errors import RequestError


def test_the_last_line_that_has_what_is_asked_counts() -> None:
    printed = 'trial 1\n{"best": 0.5}\n{"wall_s": 3.5, "best": 0.71}\n[1]\n{"note": "done"}\n{broken\n'
    assert best_in(printed) == 0.71
    with pytest.raises(RequestError, match='the script printed no JSON line with "best", a number: '):
        best_in('{"wall_s": 3.5, "best": null}\n')


def test_a_script_that_fails_is_heard() -> None:
    with pytest.raises(SystemExit) as ended:
        answer([sys.executable, "-c", "raise ValueError('no such column')"])
    assert "ended with 1:\n" in str(ended.value)
    assert "ValueError: no such column" in str(ended.value)

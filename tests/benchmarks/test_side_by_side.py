"""What a user's script must print, and what is said where it fails."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.side_by_side import answer, best_in, profile
from objectives.errors import RequestError
from search.catalog import Catalog
from tests.search.recorded import begin, end_trial


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


def test_a_trial_that_failed_is_no_end_of_the_profile(tmp_path: Path) -> None:
    """It came after all the searches had run, and took their figures along."""
    with closing(Catalog(f"sqlite:///{tmp_path}/search.db")) as catalog:
        search = begin(catalog, "side")
        for number in (0, 1, 2):
            end_trial(catalog, search, number)
        end_trial(catalog, search, 4, "failed", measurement=None, reason="the training loss became nan by step 30")
    rows = dict(profile(tmp_path, 1, 40.0))
    assert rows["training"].startswith("10.5 s, ")
    assert rows["driver overhead per trial, after each worker's first"].endswith(" s")

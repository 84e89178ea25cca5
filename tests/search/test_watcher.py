from __future__ import annotations

from typing import Any

import pytest

from benchmarks import replay
from objectives.tabular import Table
from search.watcher import Standing
from tests.benchmarks.conftest import table  # noqa: F401

STEPS = 200


class Recorder(replay.Silent):
    def __init__(self) -> None:
        self.standings: list[Standing] = []
        self.stops: list[tuple[str, str]] = []

    def stands(self, *standing: Any) -> None:
        self.standings += standing

    def trial_stopped(self, number: int, label: str, reason: str) -> None:
        self.stops.append((label, reason))


def test_what_is_left_is_never_less_than_what_is_yet_spent(
    table: Table,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(replay, "Silent", lambda: recorder)
    run = replay.replay(table, "additive", seed=0, budget=12, workers=2, as_live=True)
    standings, last = recorder.standings, recorder.standings[-1]
    assert last.steps == run.spent
    assert all(each.steps + each.steps_left >= last.steps for each in standings)
    assert [each.steps for each in standings] == sorted(each.steps for each in standings)
    running = [each.begun - each.done - each.stopped for each in standings]
    assert set(running) <= {0, 1, 2}
    assert last.done == last.begun
    assert last.steps_left == 0
    assert 0 < last.ended["stopped"] < last.done
    assert all(len(each.front) + len(each.dominated) == each.ended.get("complete", 0) for each in standings)
    assert last.stops_early
    assert {reason for _, reason in recorder.stops} <= {f"at {steps} of {STEPS} steps" for steps in (20, 50, 100)}

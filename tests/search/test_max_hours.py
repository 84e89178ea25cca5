"""What is still tried, and told, once --max-hours is over."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from search.mlflow_agreement import is_over
from tests.search.searched import Searched, outcome


def test_where_the_base_model_takes_all_the_time_there_is_one_trial_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no more of them, also where it fails."""
    for fails, ended in ((False, "complete"), (True, "failed")):
        (folder := tmp_path / ended).mkdir()
        with closing(Searched(folder, "additive", pack=1)) as searched:
            searched.fails = fails
            monkeypatch.setattr(searched.plan, "_deadline", 0.0)
            searched.run(2)
            assert [trial.status for trial in searched.trials()] == [ended]
            assert searched.plan.ended_by == "--max-hours is over after 1 of 24 trials"
            assert searched.plan.done()


@pytest.mark.parametrize(("begun", "ended_by"), [(3, "--max-hours is over after 3 of 4 trials"), (4, None)])
def test_time_that_is_over_when_the_last_trial_ends_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: int, ended_by: str | None
) -> None:
    with closing(Searched(tmp_path, "tpe", pack=1, budget=4)) as searched:
        searched.run(1, until=1 + begun)
        monkeypatch.setattr(searched.plan, "_deadline", 0.0)
        searched.run(1)
        assert [trial.status for trial in searched.trials()] == ["complete"] * begun
        assert searched.plan.ended_by == ended_by
        assert searched.plan.done()


def test_a_trial_that_its_workers_died_of_is_not_waited_for_when_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Searched(tmp_path, "additive", pack=1)) as searched:
        searched.run(1, until=4)
        job = searched.plan.next()
        assert job is not None
        searched.plan.failed(job, "the worker process died: 3 times")
        monkeypatch.setattr(searched.plan, "_deadline", 0.0)
        searched.run(1)
        ended = Counter(trial.status for trial in searched.trials())
        assert ended == {"failed": 1, "complete": 1, "stopped": 2}, "else there would be no result"


def test_what_was_open_when_time_was_over_goes_on_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Searched(tmp_path, "additive", pack=1)) as searched:
        searched.run(1, until=9)
        monkeypatch.setattr(searched.plan, "_deadline", 0.0)
        searched.run(1)
        stopped = [trial for trial in searched.trials() if trial.status == "stopped"]
        assert len(stopped) >= 6
        (one,) = (trial for trial in searched.trials() if trial.status == "complete")
        losses = [(trial.measurement or {})["losses"][1][1] for trial in [one, *stopped]]
        assert losses[0] == min(losses), "where none had come to its end, the best one did"
        assert {trial.reason for trial in stopped} == {"at 20 of 200 steps, when --max-hours was over"}
        assert all(map(is_over, stopped)), "they are in MLflow"
        searched.resume("additive", budget=24)
        assert not any(is_over(trial) for trial in searched.trials() if trial.status == "stopped")
        searched.run(1)
        trials = searched.trials()
        assert len(trials) == 24
        went_on = [trial for trial in trials if trial.number in {t.number for t in stopped} and trial.steps > 20]
        assert went_on
        assert all(trial.reason is None for trial in trials if trial.status == "complete")
        assert all(trial.reason.endswith("add more to the front") for trial in trials if trial.status == "stopped")
        assert searched.study.unfinished() == []


def test_of_those_that_stopped_on_the_way_the_one_that_is_nearest_to_its_end_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its loss: time is over."""
    with closing(Searched(tmp_path, "additive", pack=1)) as searched:
        plan = searched.plan
        base, *jobs = (plan.next() for _ in range(4))
        assert base is not None
        plan.finished(base, {"latency_context": "none"})
        for job, steps in zip(jobs, (20, 100, 20), strict=True):
            assert job is not None
            assert job.placement is not None
            stopped = outcome(job.placement, steps)
            stopped["measurement"]["losses"][-1][1] = steps
            plan.finished(job, stopped)
        monkeypatch.setattr(plan, "_deadline", 0.0)
        again = plan.next()
        assert again is not None
        assert (again.number, again.until) == (1, 200)

"""What Tune reports of a job reaches the plan, of a pack for each of its trials."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from ray.tune.experiment import Trial

from cluster.jobs import Job
from cluster.searcher import KeptWorkers, PlanSearcher
from objectives.errors import StoreError
from objectives.placement import Placement

TRIALS = tuple(Job("trial", number, Placement.of(["q_proj"], 2**number)) for number in range(3))
PACK = Job("pack", trials=TRIALS)


class OnePlan:
    """Gives out one job, and writes down what it is told."""

    def __init__(self, job: Job) -> None:
        self._jobs = [job]
        self.told: list[tuple[str, int | None, Any]] = []

    def next(self) -> Job | None:
        return self._jobs.pop() if self._jobs else None

    def done(self) -> bool:
        return not self._jobs

    def finished(self, job: Job, outcome: Mapping[str, Any]) -> None:
        self.told.append(("finished", job.number, outcome["steps"]))

    def failed(self, job: Job, reason: str) -> None:
        self.told.append(("failed", job.number, reason))

    def lost(self, job: Job, reason: str) -> None:
        self.told.append(("lost", job.number, reason))


def told(job: Job, result: dict[str, Any] | None, *, error: bool = False) -> tuple[list[Any], BaseException | None]:
    plan = OnePlan(job)
    searcher = PlanSearcher(plan, 1)
    assert searcher.suggest("a") == {"job": job}
    searcher.on_trial_complete("a", result, error)
    return plan.told, searcher.error


def test_each_trial_of_a_pack_has_its_own_outcome() -> None:
    outcomes = json.dumps([{"steps": 10 * number} for number in range(3)])
    assert told(PACK, {"outcomes": outcomes}) == ([("finished", number, 10 * number) for number in range(3)], None)
    assert told(TRIALS[2], {"outcomes": json.dumps([{"steps": 5}])}) == ([("finished", 2, 5)], None)


def test_a_pack_that_raised_has_failed_as_a_whole() -> None:
    assert told(PACK, {"failed": "IndexError: no"}) == ([("failed", None, "IndexError: no")], None)
    assert told(TRIALS[1], {"failed": "IndexError: no"}) == ([("failed", 1, "IndexError: no")], None)


@pytest.mark.parametrize("job", [PACK, TRIALS[0]])
def test_of_a_worker_that_died_every_trial_is_lost(job: Job) -> None:
    reason = "the worker died: it was killed, or ran out of memory"
    assert told(job, None, error=True) == ([("lost", part.number, reason) for part in job.parts], None)


def test_no_trial_is_lost_with_a_ray_that_ended_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers die with it, and one death more would be held against each trial."""
    monkeypatch.setattr("cluster.searcher.has_ended", lambda: True)
    assert told(PACK, None, error=True) == ([], None)


def test_no_job_waits_for_a_worker_and_the_search_ends_with_the_last() -> None:
    """What is asked for later is proposed with more known. Tune asks again and again."""
    plan = OnePlan(TRIALS[1])
    plan._jobs.append(TRIALS[0])
    searcher = PlanSearcher(plan, 1)
    for trial_id, job in (("a", TRIALS[0]), ("b", TRIALS[1])):
        assert searcher.suggest(trial_id) == {"job": job}
        assert [searcher.suggest("next") for _ in range(2)] == [None, None]
        searcher.on_trial_complete(trial_id, {"failed": "no"})
    assert searcher.suggest("next") == PlanSearcher.FINISHED


def test_the_search_does_not_end_while_a_job_runs() -> None:
    """It may be lost, and given out again; unless an error ends the search."""
    searcher = PlanSearcher(OnePlan(TRIALS[0]), 2)
    assert searcher.suggest("a") == {"job": TRIALS[0]}
    assert searcher.suggest("b") is None
    searcher.error = StoreError("the disk is full")
    assert searcher.suggest("b") == PlanSearcher.FINISHED


def test_of_results_that_were_told_tune_keeps_no_outcomes() -> None:
    """It keeps all trials for good, and writes them down: a day's ten thousand took hundreds of megabytes."""
    workers = KeptWorkers(1)
    trials = [Trial("job", stub=True) for _ in range(3)]
    for trial in trials:
        trial.update_last_result({"outcomes": "[...]", "done": True})
        workers.on_trial_complete(None, trial, {})
        assert trial.last_result["outcomes"] == "[...]", "which the searcher is about to be told"
    assert [trial.last_result.get("outcomes") for trial in trials] == [None, None, "[...]"]
    assert all(trial.last_result["done"] for trial in trials)


def test_what_is_refused_ends_the_search() -> None:
    calls, error = told(PACK, {"refused": "the disk is full", "refused_type": "StoreError"})
    assert calls == []
    assert isinstance(error, StoreError)
    assert str(error) == "the disk is full"

"""Ray Tune asks here for what to run next, and reports here what came back."""

from __future__ import annotations

import json
from typing import Any

from ray.tune.search import Searcher

import objectives.errors
from cluster.jobs import Job, Plan
from objectives.errors import SearchError


class PlanSearcher(Searcher):  # type: ignore[misc]  # Ray publishes no types
    """Hands a :class:`~cluster.jobs.Plan` to Tune, at most ``workers`` jobs at a time.

    Ray's own OptunaSearch pickles the study, downgrades a failed ``tell`` to a warning and tells early-stopped trials
    as complete; here the plan holds the truth, and an error in it ends the run.
    """

    def __init__(self, plan: Plan, workers: int) -> None:
        super().__init__()
        self._plan = plan
        self._workers = workers
        self._jobs: dict[str, Job] = {}
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> Any:
        if self.error is not None:
            return Searcher.FINISHED
        if len(self._jobs) >= self._workers:
            return None
        job = self._guarded(self._plan.next, len(self._jobs))
        if job is not None:
            self._jobs[trial_id] = job
            return {"job": job}
        finished = self.error is not None or (not self._jobs and self._guarded(self._plan.done))
        return Searcher.FINISHED if finished else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        job = self._jobs.pop(trial_id, None)
        if job is None:
            return
        if result and "failed" in result:
            self._guarded(self._plan.lost, job, result["failed"])
        elif error or not result or ("outcome" not in result and "refused" not in result):
            self._guarded(self._plan.lost, job, "the worker died: it was killed, or ran out of memory")
        elif "refused" in result:
            # The same for every trial (a model that cannot be loaded, a full disk): the run ends, nothing is lost.
            self.error = self.error or getattr(objectives.errors, result["refused_type"])(result["refused"])
        else:
            self._guarded(self._plan.finished, job, json.loads(result["outcome"]))

    def _guarded(self, call: Any, *args: Any) -> Any:
        """Tune logs and swallows what a searcher raises; it is kept instead, and raised when Tune has stopped."""
        try:
            return call(*args)
        except (SearchError, Exception) as error:
            self.error = self.error or error
            return None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher to restore an experiment; ours is resumed from the database, so this is empty."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the plan's state is in the database."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

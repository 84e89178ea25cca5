"""Ray Tune asks here for what to run next, and reports here what came back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

import objectives.errors
from cluster.jobs import Job, Plan
from cluster.session import has_ended

_KILLED = "the worker died: it was killed, or ran out of memory"
#: What Ray's reports of a dead actor say of the cause.
_CAUSES = {
    "running low on memory": "the worker was killed, since its machine ran out of memory",
    "node has died": "the machine of the worker died or could not be reached",
    "node was terminated": "the machine of the worker died or could not be reached",
    "AcceleratorError": "the worker was ended, since its GPU met an error that lasts as long as the process",
}


class KeptWorkers(FIFOScheduler):  # type: ignore[misc]  # Ray publishes no types
    """Tune's view of the workers: keeps them from job to job, and knows why one died.

    Tune tells its scheduler where that is written, and then its searcher only that they died.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self._kept = False
        self._told: Any = None  # the trial that the searcher was told of last
        self.causes: dict[str, str] = {}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        # Else Tune ends all but one of those that wait, as all do for the last trial, and starts others for what comes
        # next: seconds of imports each, and the base model loaded again. It has no setting for this.
        if not self._kept:
            tune_controller._actor_cache.increase_max(trial.placement_group_factory, by=self._number)
            self._kept = True

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # Tune keeps the results of all trials. This one's goes to the searcher next, and then nobody asks for it.
        if self._told is not None:
            kept = {key: value for key, value in self._told.last_result.items() if key != "outcomes"}
            self._told.run_metadata.last_result = kept
        self._told = trial

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        report = Path(trial.error_file).read_text(encoding="utf-8", errors="replace") if trial.error_file else ""
        self.causes[trial.trial_id] = next((cause for words, cause in _CAUSES.items() if words in report), _KILLED)


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
        self.scheduler = KeptWorkers(workers)
        self.error: BaseException | None = None

    def suggest(self, trial_id: str) -> Any:
        if len(self._jobs) >= self._workers:
            return None
        job = self._guarded(self._plan.next)
        if job is not None:
            self._jobs[trial_id] = job
            return {"job": job}
        finished = self.error is not None or (not self._jobs and self._guarded(self._plan.done))
        return Searcher.FINISHED if finished else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        job = self._jobs.pop(trial_id, None)
        if job is None:
            return
        if error and has_ended():
            return  # and with Ray the run: no worker's death is held against its job
        answer = {} if error else result or {}
        if "failed" in answer:
            self._guarded(self._plan.failed, job, answer["failed"])
        elif "refused" in answer:
            # The same for every trial (a model that cannot be loaded, a full disk): the run ends, nothing is lost.
            self.error = self.error or getattr(objectives.errors, answer["refused_type"])(answer["refused"])
        elif "outcomes" in answer:
            for part, outcome in zip(job.parts, json.loads(answer["outcomes"]), strict=True):
                self._guarded(self._plan.finished, part, outcome)
        else:
            cause = self.scheduler.causes.pop(trial_id, _KILLED)
            for part in job.parts:
                self._guarded(self._plan.lost, part, cause)

    def _guarded(self, call: Any, *args: Any) -> Any:
        """Tune logs and swallows what a searcher raises; it is kept instead, and ends the run."""
        try:
            return call(*args)
        except Exception as error:
            self.error = self.error or error
            return None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher to restore an experiment; ours is resumed from the database, so this is empty."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the plan's state is in the database."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

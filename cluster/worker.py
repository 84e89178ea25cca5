"""The Ray Tune Trainable: an actor that loads the base model once and then takes job after job."""

from __future__ import annotations

import json
from typing import Any

from ray.tune import Trainable

from cluster.jobs import Job
from objectives.device_errors import is_broken_for_good, is_out_of_memory
from objectives.errors import SearchError, in_a_line
from objectives.workbench import Assignment, Request, Workbench


def _request(job: Job) -> Request:
    assert job.placement is not None
    return Request(job.placement, f"{job.number:04d}-{job.placement.digest}", job.profile)


class Worker(Trainable):  # type: ignore[misc]  # Ray publishes no types
    """One call of :meth:`step` is one whole job. The base model survives from job to job (``reset_config``)."""

    def setup(self, config: dict[str, Any], assignment: Assignment) -> None:
        self._job: Job = config["job"]
        self._assignment = assignment
        self._bench: Workbench | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._job = new_config["job"]
        return True

    def step(self) -> dict[str, Any]:
        try:
            # Text, since Tune flattens nested results on their way to the searcher.
            return {"outcomes": json.dumps(self._work()), "done": True}
        except SearchError as error:
            # Sent back as words: an exception would end the actor and reach the driver as a traceback.
            return {"refused": str(error), "refused_type": type(error).__name__, "done": True}
        except Exception as error:
            if is_broken_for_good(error):
                raise  # which ends the process: the job is done again in another
            # What is to blame is known here alone; for Tune, a worker that raises is a worker that died.
            return self._failed(error) | {"done": True}

    def _work(self) -> list[dict[str, Any]]:
        """An outcome for each part of the job."""
        if self._bench is None:
            self._assignment.adapters.check()
            self._bench = Workbench(self._assignment)
        job = self._job
        if job.kind == "base":
            return [self._bench.measure_base(job.profile)]
        if job.kind == "test":
            return [self._bench.test(job.adapter)]
        return self._bench.measure([_request(part) for part in job.parts], job.parts[0].until)

    def _failed(self, error: Exception) -> dict[str, Any]:
        """A trial fails alone; without the base model or a reading of the test split there is no search."""
        reason = in_a_line(error)
        job, doing = self._job, "loaded" if self._bench is None else "measured"
        if job.kind in ("trial", "pack") and doing == "measured":
            return {"failed": reason}
        what = f"base model {self._assignment.model}"
        if job.adapter and doing == "measured":
            what = f"adapter {job.adapter}"
        if is_out_of_memory(error):
            reads = job.kind == "test" and doing == "measured"
            when = f"the test split was read with {what}" if reads else f"{what} was {doing}"
            remedy = "free memory, then resume, with fewer --workers if there are several"
            return {"refused": f"memory ran out when {when}: {remedy}", "refused_type": "SearchError"}
        sentence = f"{what} cannot be {doing} ({reason}): check that its files are whole and fit the task, then resume"
        return {"refused": sentence, "refused_type": "RequestError"}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: adapters and the catalog are the state, Tune keeps none of its own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing, as above."""

"""A program: one job on Ray, whose first process meets an error of CUDA that stays.

Prints what the plan is told as JSON, and leaves the processes that took the job in ``FOLDER/processes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cluster.jobs import Job
from cluster.session import ray_session
from cluster.tune import run_plan
from tests.faults.jobs import Entrance, Jobs, assignment


class Cursed(Entrance):
    """Where a worker asks for its folder of adapters, the first one finds its device broken."""

    def entered(self, processes: Path) -> None:
        if len(processes.read_text().split()) == 1:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore lines")


class Once(Jobs):
    """A plan of one job, which is given out again where its worker died."""

    def __init__(self) -> None:
        super().__init__(Job("base"))
        self.told: list[str] = []

    def finished(self, job: Job, outcome: Mapping[str, Any]) -> None:
        self.told.append(f"finished: {outcome['device']}")

    def failed(self, job: Job, reason: str) -> None:
        self.told.append(f"failed: {reason}")

    def lost(self, job: Job, reason: str) -> None:
        self.told.append(f"lost: {reason}")
        self._jobs.append(job)


def main(folder: Path) -> None:
    plan, given = Once(), assignment(folder, Cursed(folder / "adapters"))
    with ray_session(1, None) as ready:
        ready()
        run_plan(plan, given, workers=1, gpus_per_worker=0.0)
    print(json.dumps(plan.told))

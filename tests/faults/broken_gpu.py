"""A program: one job on Ray, whose first process meets an error of CUDA that stays.

Prints what the plan is told as JSON, and leaves the processes that took the job in ``FOLDER/processes``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cluster.jobs import Job
from cluster.session import ray_session
from cluster.tune import run_plan
from objectives.latency import LatencySettings
from objectives.storage import Folder
from objectives.training import TrainingSettings
from objectives.workbench import Assignment
from tests.objectives.tiny import Zoo, make_task


@dataclass(frozen=True)
class Cursed(Folder):
    """Where a worker asks for its folder of adapters, the first one finds its device broken."""

    def check(self, *, create: bool = False) -> None:
        super().check(create=create)
        if create:
            return
        processes = self.path.parent / "processes"
        with processes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(processes.read_text().split()) == 1:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore lines")


class Once:
    """A plan of one job, which is given out again where its worker died."""

    def __init__(self) -> None:
        self._jobs = [Job("base")]
        self.told: list[str] = []

    def next(self) -> Job | None:
        return self._jobs.pop() if self._jobs else None

    def done(self) -> bool:
        return not self._jobs

    def finished(self, job: Job, outcome: Mapping[str, Any]) -> None:
        self.told.append(f"finished: {outcome['device']}")

    def failed(self, job: Job, reason: str) -> None:
        self.told.append(f"failed: {reason}")

    def lost(self, job: Job, reason: str) -> None:
        self.told.append(f"lost: {reason}")
        self._jobs.append(job)


def assignment(folder: Path, adapters: Folder) -> Assignment:
    """A model that is loaded in no time."""
    zoo = Zoo(folder / "models")
    return Assignment(
        model=zoo.folder("llama"),
        space=zoo.space("llama"),
        task=make_task(zoo, "llama"),
        metric="accuracy",
        training=TrainingSettings(steps=1),
        latency=LatencySettings(prompt_tokens=8, output_tokens=3, min_requests=2, max_requests=2),
        adapters=adapters,
        threads=1,
        uses_gpu=False,
    )


def main(folder: Path) -> None:
    plan, given = Once(), assignment(folder, Cursed(folder / "adapters"))
    with ray_session(1, None) as ready:
        ready()
        run_plan(plan, given, workers=1, gpus_per_worker=0.0)
    print(json.dumps(plan.told))

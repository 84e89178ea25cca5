"""Jobs on Ray without a search: a plan of some, a model that is loaded in no time, and who has come to work."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.jobs import Job
from cluster.session import ray_session
from cluster.tune import run_plan
from objectives.latency import LatencySettings
from objectives.storage import Folder
from objectives.training import TrainingSettings
from objectives.workbench import Assignment
from tests.objectives.tiny import Zoo, make_task


@dataclass(frozen=True)
class Entrance(Folder, ABC):
    """A folder of adapters; workers that ask for it are written down in ``processes`` beside it, one a line."""

    def check(self, *, create: bool = False) -> None:
        super().check(create=create)
        if create:
            return
        processes = self.path.parent / "processes"
        with processes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        self.entered(processes)

    @abstractmethod
    def entered(self, processes: Path) -> None:
        """What this worker meets."""


class Jobs:
    """The part of a plan that gives jobs out, the last one first."""

    def __init__(self, *jobs: Job) -> None:
        self._jobs = [*jobs]

    def next(self) -> Job | None:
        return self._jobs.pop() if self._jobs else None

    def done(self) -> bool:
        return not self._jobs


class Once(Jobs):
    """One job, which is given out again where its worker died."""

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


def assignment(folder: Path, adapters: Folder) -> Assignment:
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


def done(plan: Once, given: Assignment) -> list[str]:
    """What the plan is told by one worker of a Ray of its own."""
    with ray_session(1, None) as ready:
        ready()
        run_plan(plan, given, workers=1, gpus_per_worker=0.0)
    return plan.told

"""Jobs on Ray without a search: a plan of some, a model that is loaded in no time, and who has come to work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cluster.jobs import Job
from objectives.latency import LatencySettings
from objectives.storage import Folder
from objectives.training import TrainingSettings
from objectives.workbench import Assignment
from tests.objectives.tiny import Zoo, make_task


@dataclass(frozen=True)
class Entrance(Folder):
    """A folder of adapters; workers that ask for it are written down in ``processes`` beside it, one a line."""

    def check(self, *, create: bool = False) -> None:
        super().check(create=create)
        if create:
            return
        processes = self.path.parent / "processes"
        with processes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        self.entered(processes)

    def entered(self, processes: Path) -> None:
        """What this worker meets."""
        raise NotImplementedError


class Jobs:
    """The part of a plan that gives jobs out, the last one first."""

    def __init__(self, *jobs: Job) -> None:
        self._jobs = [*jobs]

    def next(self) -> Job | None:
        return self._jobs.pop() if self._jobs else None

    def done(self) -> bool:
        return not self._jobs


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

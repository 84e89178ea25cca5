"""A program: one job on Ray, whose first worker is killed, as Ray tells of one that it killed for want of memory.

Whether the driver hears of the worker's death or of its reason depends on which comes first; here it is the reason.
Prints what the plan is told as JSON.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from tests.faults.jobs import Entrance, Once, assignment, done


class Deadly(Entrance):
    """Where a worker asks for its folder of adapters, the first one dies."""

    def entered(self, processes: Path) -> None:
        if len(processes.read_text().split()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path) -> None:
    real = ray.get

    def get(*args: Any, **named: Any) -> Any:
        try:
            return real(*args, **named)
        except RayActorError as error:
            raise OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.") from error

    ray.get = get
    print(json.dumps(done(Once(), assignment(folder, Deadly(folder / "adapters")))))

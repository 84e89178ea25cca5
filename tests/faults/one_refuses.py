"""A program: two jobs on Ray, of which one is refused while the other would take ten minutes. Prints what is raised."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.jobs import Job
from cluster.session import ray_session
from cluster.tune import run_plan
from objectives.errors import StoreError
from tests.faults.jobs import Entrance, Jobs, assignment
from tests.waiting import wait_for


class Divided(Entrance):
    """The first worker that asks for its folder of adapters is refused it, once the second one is at its job."""

    def entered(self, processes: Path) -> None:
        if int(processes.read_text().split()[0]) != os.getpid():
            time.sleep(600)
        wait_for(lambda: len(processes.read_text().split()) == 2, 60)
        raise StoreError("the disk is full")


class Two(Jobs):
    """A plan of two jobs that never come back."""

    def finished(self, job: Job, outcome: Mapping[str, Any]) -> None:
        raise AssertionError(outcome)

    def failed(self, job: Job, reason: str) -> None:
        raise AssertionError(reason)

    def lost(self, job: Job, reason: str) -> None:
        raise AssertionError(reason)


def main(folder: Path) -> None:
    given, said = assignment(folder, Divided(folder / "adapters")), ""
    with ray_session(2, None) as ready:  # within which standard output is nobody's
        ready()
        try:
            run_plan(Two(Job("base"), Job("test")), given, workers=2, gpus_per_worker=0.0)
        except StoreError as error:
            said = str(error)
    print(said)

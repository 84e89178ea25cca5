"""A program: one job on Ray, whose first process meets an error of CUDA that stays.

Prints what the plan is told as JSON, and leaves the processes that took the job in ``FOLDER/processes``.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.faults.jobs import Entrance, Once, assignment, done


class Cursed(Entrance):
    """Where a worker asks for its folder of adapters, the first one finds its device broken."""

    def entered(self, processes: Path) -> None:
        if len(processes.read_text().split()) == 1:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore lines")


def main(folder: Path) -> None:
    print(json.dumps(done(Once(), assignment(folder, Cursed(folder / "adapters")))))

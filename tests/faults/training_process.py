"""A program: one trial, for tests that kill its process. Writes what the trial gave to FOLDER/outcome.json."""

from __future__ import annotations

import json
from pathlib import Path

from objectives.latency import LatencySettings
from objectives.placement import Placement
from objectives.storage import Folder
from objectives.training import TrainingSettings
from objectives.workbench import Assignment, Request, Workbench
from tests.objectives.tiny import Zoo, make_task

NAME = "0003-trial"
STEPS = 240


def main(folder: Path, checkpoint_seconds: float) -> None:
    zoo = Zoo(folder / "zoo")
    given = Assignment(
        model=zoo.folder("llama"),
        space=zoo.space("llama"),
        task=make_task(zoo, "llama"),
        metric="accuracy",
        training=TrainingSettings(steps=STEPS, batch_size=8, learning_rate=1e-2),
        latency=LatencySettings(prompt_tokens=8, output_tokens=3, min_requests=2, max_requests=2),
        adapters=Folder(folder / "adapters"),
        threads=1,
        checkpoint_seconds=checkpoint_seconds,
    )
    outcome = Workbench(given).measure([Request(Placement.of(["o_proj", "q_proj"], 4), NAME)])[0]
    (folder / "outcome.json").write_text(json.dumps(outcome))

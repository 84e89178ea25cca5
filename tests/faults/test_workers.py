"""Processes that are killed in the middle of a trial: its training goes on where its last checkpoint was."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from objectives.checkpoint import SUFFIX
from tests.commands import environment
from tests.faults.training_process import NAME, STEPS


def steps_of(checkpoint: Path) -> int:
    """Of a checkpoint that a process may be replacing; 0 where there is none."""
    try:
        with safe_open(checkpoint, "pt") as stored:
            return int(json.loads(stored.metadata()["training"])["steps"])
    except (OSError, SafetensorError):
        return 0


def train(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    args = [sys.executable, "-m", "tests.faults.training_process", str(folder), str(seconds)]
    return subprocess.Popen(args, env=environment())


def outcome(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return document


def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Killed twice, the second time after it had gone on; no checkpoint is written where training is short."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    undisturbed = train(whole, 3600)
    checkpoint, reached = cut / "adapters" / f"{NAME}{SUFFIX}", 0
    for _ in range(2):
        process, before = train(cut, 1e-3), reached
        deadline = time.monotonic() + 60
        while (reached := steps_of(checkpoint)) < before + 20:
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.kill()
        process.wait()
        reached = steps_of(checkpoint)
        assert before < reached < STEPS
    assert train(cut, 1e-3).wait(60) == 0
    assert undisturbed.wait(60) == 0
    resumed, expected = outcome(cut), outcome(whole)
    assert resumed["measurement"]["continued_from"] == reached
    assert "continued_from" not in expected["measurement"]
    assert resumed["steps"] == expected["steps"] == STEPS
    assert resumed["measurement"]["losses"] == expected["measurement"]["losses"]
    assert resumed["measurement"]["validation"] == expected["measurement"]["validation"]
    assert resumed["adapter_sha256"] == expected["adapter_sha256"]
    assert [path.name for path in whole.glob("adapters/*")] == [NAME]
    assert [path.name for path in cut.glob("adapters/*") if not path.name.startswith(".")] == [NAME]

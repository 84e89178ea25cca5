"""Processes that are killed in the middle of a trial: its training goes on where its last checkpoint was."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError, safe_open

from objectives.checkpoint import SUFFIX
from tests.commands import QUICK, assert_whole, command, environment
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


def workers_of(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    """The actors of a search that runs on a Ray of its own."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if (child.cmdline() or [""])[0].startswith("ray::ResourceTrainable")]


def kill_in_the_middle(home: Path, search: subprocess.Popen[Any], past: int = 0) -> int:
    """Kill the one worker once its training has a checkpoint beyond step ``past``; returns the step."""
    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline
        assert search.poll() is None
        reached = max((steps_of(file) for file in home.glob(f"adapters/*/0*{SUFFIX}")), default=0)
        if reached > past:
            break
        time.sleep(0.005)
    (worker,) = workers_of(search)
    worker.kill()
    worker.wait(10)
    return max((steps_of(file) for file in home.glob(f"adapters/*/0*{SUFFIX}")), default=0)


def test_a_search_survives_the_death_of_its_workers(tmp_path: Path) -> None:
    """The first trial's worker is killed in the middle, twice; the trial ends under its number, from its checkpoint."""
    flags = [*QUICK, "--steps", "300", "--workers", "1", "--budget", "2", "--checkpoint-seconds", "0.05"]
    args = command("run", *flags, "--home", str(tmp_path), "--name", "struck", "--json")
    with (tmp_path / "stderr").open("w") as error:
        search = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=error, text=True, env=environment())
        first = kill_in_the_middle(tmp_path, search)
        second = kill_in_the_middle(tmp_path, search, past=first)
        output, _ = search.communicate(timeout=240)
    said = (tmp_path / "stderr").read_text()
    assert search.returncode == 0, said
    assert json.loads(output)["trials"]["complete"] == 2
    assert said.count("note: the worker died: it was killed, or ran out of memory, while") == 2
    struck, other = assert_whole(tmp_path, "struck", 2)["trials"]
    assert (struck.attempts, other.attempts) == (3, 1)
    assert struck.measurement["continued_from"] == second > first
    assert "continued_from" not in other.measurement
    assert [step for step, _ in struck.measurement["losses"]] == list(range(10, 301, 10))
    assert not list(tmp_path.rglob(f"*{SUFFIX}*"))

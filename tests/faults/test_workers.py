"""Processes that are killed in the middle of a trial: its training goes on where its last checkpoint was."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import SafetensorError, safe_open

from objectives.checkpoint import SUFFIX
from tests import forked
from tests.commands import QUICK, assert_whole, call, environment, environment_within
from tests.faults import broken_gpu, killed_for_memory, one_refuses, training_process
from tests.faults.training_process import NAME, STEPS
from tests.waiting import wait_for

#: Of a trial in a live search: enough to be killed twice on the way.
LIVE_STEPS = 100


def steps_of(checkpoint: Path) -> int:
    """Of a checkpoint that a process may be replacing; 0 where there is none."""
    try:
        with safe_open(checkpoint, "pt") as stored:
            return int(json.loads(stored.metadata()["training"])["steps"])
    except (OSError, SafetensorError):
        return 0


def train(folder: Path, seconds: float) -> AbstractContextManager[BaseProcess]:
    folder.mkdir(exist_ok=True)
    return forked.started(training_process.main, folder, seconds, environment=environment())


def outcome(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return document


@pytest.mark.slow
def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Killed twice, the second time after it had gone on; no checkpoint is written where training is short."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    checkpoint, reached = cut / "adapters" / f"{NAME}{SUFFIX}", 0
    with train(whole, 3600) as undisturbed:
        for _ in range(2):
            before = reached
            with train(cut, 1e-3) as process:
                wait_for(lambda: steps_of(checkpoint) >= before + 20, 60, alive=process.is_alive, pause=0.005)  # noqa: B023
                process.kill()
                process.join()
            assert process.exitcode == -signal.SIGKILL
            reached = steps_of(checkpoint)
            assert before < reached < STEPS
        with train(cut, 1e-3) as last:
            for each in (last, undisturbed):
                each.join(60)
                assert each.exitcode == 0
    resumed, expected = outcome(cut), outcome(whole)
    assert resumed["measurement"]["continued_from"] == reached
    assert "continued_from" not in expected["measurement"]
    assert resumed["steps"] == expected["steps"] == STEPS
    assert resumed["measurement"]["losses"] == expected["measurement"]["losses"]
    assert resumed["measurement"]["validation"] == expected["measurement"]["validation"]
    assert resumed["adapter_sha256"] == expected["adapter_sha256"]
    assert [path.name for path in whole.glob("adapters/*")] == [NAME]
    assert [path.name for path in cut.glob("adapters/*") if not path.name.startswith(".")] == [NAME]


def workers_of(process: BaseProcess) -> list[psutil.Process]:
    """The actors of a search that runs on a Ray of its own, by whose logs they are known."""
    return [found for found in psutil.process_iter() if is_worker(found, f"_{process.pid}/logs/")]


def is_worker(process: psutil.Process, logs: str) -> bool:
    try:
        named = (process.cmdline() or [""])[0].startswith("ray::ResourceTrainable")
        return named and any(logs in file.path for file in process.open_files())
    except psutil.Error:  # it has ended
        return False


def wait_while_it_runs(search: BaseProcess, is_so: Callable[[], bool]) -> None:
    wait_for(is_so, 120, alive=search.is_alive, pause=0.005)


def kill_in_the_middle(home: Path, search: BaseProcess, past: int) -> int:
    """Kill the one worker once the first trial has a checkpoint beyond step ``past``; returns the step."""
    wait_while_it_runs(search, lambda: reached(home) > past)
    (worker,) = workers_of(search)
    worker.kill()
    worker.wait(10)
    return reached(home)


def reached(home: Path) -> int:
    """The step of the first trial's checkpoint."""
    return max(map(steps_of, home.glob(f"adapters/*/0000*{SUFFIX}")), default=0)


def wait_for_checkpoints(home: Path, search: BaseProcess, numbers: range) -> None:
    """Until each of these trials has one."""
    files = [f"adapters/*/{number:04d}*{SUFFIX}" for number in numbers]
    wait_while_it_runs(search, lambda: all(any(map(steps_of, home.glob(file))) for file in files))


@pytest.mark.slow
def test_a_pack_survives_the_death_of_its_worker_and_of_its_driver(tmp_path: Path, migrated_mlflow: Path) -> None:
    """Its trials go on one by one from the checkpoints of the pack, and after a resume in a pack again.

    The first one's worker is killed once more while it goes on alone.
    """
    shutil.copyfile(migrated_mlflow, tmp_path / "mlflow.db")
    flags = [*QUICK, "--steps", str(LIVE_STEPS), "--budget", "6", "--pack", "3", "--strategy", "tpe"]
    flags += ["--checkpoint-seconds", "0.05", "--home", str(tmp_path), "--name", "packed"]
    with (
        (tmp_path / "stderr").open("w") as error,
        forked.started(forked.search, "run", *flags, environment=environment_within(tmp_path), stderr=error) as search,
    ):
        wait_for_checkpoints(tmp_path, search, range(3))
        first = kill_in_the_middle(tmp_path, search, past=0)
        second = kill_in_the_middle(tmp_path, search, past=first)
        wait_for_checkpoints(tmp_path, search, range(3, 6))
        mourners = workers_of(search)
        for worker in mourners:  # which else may come to the end of its pack before it ends with its driver
            worker.suspend()
        search.kill()
        search.join(10)
        for worker in mourners:
            worker.kill()
        psutil.wait_procs(mourners, timeout=30)
    said = (tmp_path / "stderr").read_text()
    assert said.count("note: the worker died: it was killed, or ran out of memory, while") == 3 + 1
    call("resume", "packed", "--home", str(tmp_path))
    trials = assert_whole(tmp_path, "packed", 6)["trials"]
    assert [trial.attempts for trial in trials] == [3] + [2] * 5
    assert trials[0].measurement["continued_from"] == second > first
    for trial in trials:
        assert trial.measurement["continued_from"] > 0
        assert [step for step, _ in trial.measurement["losses"]] == list(range(10, LIVE_STEPS + 1, 10))
    # Those of the first pack alone; of the second, the kill may have come between two of its checkpoints.
    packed = [trial.measurement.get("packed") for trial in trials]
    assert packed[:3] == [None] * 3
    assert max(each or 0 for each in packed[3:]) >= 2
    assert not list(tmp_path.rglob(f"*{SUFFIX}*"))


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["raylet", "gcs_server"])
def test_a_search_outlives_the_end_of_its_ray(killed: str, tmp_path: Path, migrated_mlflow: Path) -> None:
    """Ray's node process takes its workers along, and took the search's own process, which said nothing; so does the
    GCS, without which it hears of no worker's end, after a minute."""
    shutil.copyfile(migrated_mlflow, tmp_path / "mlflow.db")
    flags = [*QUICK, "--steps", str(LIVE_STEPS), "--budget", "2", "--strategy", "tpe", "--checkpoint-seconds", "0.05"]
    flags += ["--home", str(tmp_path)]
    with (
        (tmp_path / "stderr").open("w") as error,
        forked.started(forked.search, "run", *flags, environment=environment_within(tmp_path), stderr=error) as search,
    ):
        wait_while_it_runs(search, lambda: reached(tmp_path) > 0)
        (process,) = (each for each in psutil.Process(search.pid).children() if each.name() == killed)
        process.kill()
        search.join(50)
        assert search.exitcode == 1
    assert (tmp_path / "stderr").read_text().splitlines()[-1] == (
        "error: Ray on this machine has ended: a process of it was killed, or memory ran out; nothing is lost: resume "
        "the search"
    )
    call("resume", "demo", "--home", str(tmp_path))
    first, second = assert_whole(tmp_path, "demo", 2)["trials"]
    if killed == "raylet":  # else the worker lives on for some seconds, and may come to the trial's end
        assert first.measurement["continued_from"] > 0
    assert first.attempts == second.attempts == 1, "no death is held against a trial"


@pytest.mark.slow
def test_memory_that_runs_out_again_and_again_is_said(tmp_path: Path) -> None:
    """Ray's own monitor kills the worker here, which is told that one percent of the memory is all there is."""
    low = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    search = forked.run(["run", *QUICK, "--retries", "1", "--home", str(tmp_path)], environment() | low, 180)
    assert search.returncode == 1
    cause = "the worker was killed, since its machine ran out of memory"
    assert f"note: {cause}, while the base model was measured: it is done again" in search.stderr
    assert search.stderr.splitlines()[-1] == (
        f"error: {cause}: 2 times, while the base model was measured: free memory, then resume the search"
    )


def printed(main: Callable[[Path], None], folder: Path) -> str:
    """What a program of one folder says, which ends well."""
    with (
        (folder / "stdout").open("w") as output,
        forked.started(main, folder, environment=environment(), stdout=output) as job,
    ):
        job.join(180)
        assert job.exitcode == 0
    return (folder / "stdout").read_text()


@pytest.mark.slow
def test_a_worker_whose_gpu_is_broken_for_good_gives_way_to_another(tmp_path: Path) -> None:
    assert json.loads(printed(broken_gpu.main, tmp_path)) == [
        "lost: the worker was ended, since its GPU met an error that lasts as long as the process",
        "finished: cpu, 1 thread",
    ]
    first, second = (tmp_path / "processes").read_text().split()
    assert first != second


@pytest.mark.slow
def test_a_worker_that_was_killed_for_memory_has_died_however_ray_says_it(tmp_path: Path) -> None:
    """Tune took the one of two reports for a fault of its own, and ended the search."""
    assert json.loads(printed(killed_for_memory.main, tmp_path)) == [
        "lost: the worker was killed, since its machine ran out of memory",
        "finished: cpu, 1 thread",
    ]


@pytest.mark.slow
def test_what_one_worker_is_refused_ends_the_search_though_another_is_at_work(tmp_path: Path) -> None:
    """It was said when the other's trial had come to its end, on a large model after hours."""
    assert printed(one_refuses.main, tmp_path) == "the disk is full\n"

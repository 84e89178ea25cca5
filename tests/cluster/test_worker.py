"""What a worker says when something goes wrong that nobody foresaw."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cluster.jobs import Job
from cluster.worker import Worker
from objectives import workbench
from objectives.encoding import EncodedRow
from objectives.latency import LatencySettings
from objectives.placement import Placement
from objectives.storage import Folder
from objectives.training import TrainingSettings
from objectives.workbench import Assignment, Workbench
from tests.objectives.tiny import VOCABULARY, Zoo, make_task


@pytest.fixture
def broken(tmp_path: Path) -> Assignment:
    """A token that the model has no embedding for makes torch raise an IndexError, which no layer below expects."""
    zoo = Zoo(tmp_path)
    (tmp_path / "adapters").mkdir()
    task = make_task(zoo, "llama")
    label = task.splits["train"][0].label
    rows = [EncodedRow([VOCABULARY], list(task.label_ids[label]), label)]
    return Assignment(
        model=zoo.folder("llama"),
        space=zoo.space("llama"),
        task=replace(task, splits=dict.fromkeys(task.splits, rows)),
        metric="accuracy",
        training=TrainingSettings(steps=1, batch_size=1, learning_rate=1e-3),
        latency=LatencySettings(prompt_tokens=8, output_tokens=3, min_requests=2, max_requests=2),
        adapters=Folder(tmp_path / "adapters"),
        threads=1,
    )


def step(job: Job, assignment: Assignment) -> dict[str, object]:
    worker = object.__new__(Worker)  # without Ray
    worker.setup({"job": job}, assignment)
    return worker.step()


def test_a_base_model_that_cannot_be_measured(broken: Assignment) -> None:
    assert step(Job("base"), broken) == {
        "refused": f"base model {broken.model} cannot be measured (IndexError: index out of range in self): check that "
        "its files are whole and fit the task, then resume",
        "refused_type": "RequestError",
        "done": True,
    }


@pytest.mark.parametrize(
    ("job", "what"),
    [
        (Job("base"), "base model {} was measured"),
        (Job("test"), "the test split was read with base model {}"),
        (Job("test", 3, adapter="a/3"), "the test split was read with adapter a/3"),
    ],
)
def test_memory_that_is_short_is_no_fault_of_files(
    broken: Assignment, monkeypatch: pytest.MonkeyPatch, job: Job, what: str
) -> None:
    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Workbench, "measure_base", short)
    monkeypatch.setattr(Workbench, "test", short)
    assert step(job, broken) == {
        "refused": f"memory ran out when {what.format(broken.model)}: free memory, then resume, with fewer --workers "
        "if there are several",
        "refused_type": "SearchError",
        "done": True,
    }


@pytest.mark.parametrize("job", [Job("base"), Job("trial", 0, Placement.of(["o_proj"], 4))])
def test_a_device_that_is_broken_for_good_ends_the_process(
    broken: Assignment, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    """Every later call on it would raise too: the job, and all after it, need another process."""

    def illegal(*_: object, **__: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(workbench, "measure", illegal)
    with pytest.raises(torch.AcceleratorError):
        step(job, broken)


def test_a_trial_that_raises(broken: Assignment) -> None:
    job = Job("trial", 0, Placement.of(["o_proj"], 4))
    assert step(job, broken) == {"failed": "IndexError: index out of range in self", "done": True}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "memory ran out when base model {} was loaded: free memory"),
        (KeyError("layers"), "base model {} cannot be loaded (KeyError: 'layers'): check that its files are whole"),
    ],
)
def test_a_base_model_that_cannot_be_loaded_is_no_fault_of_the_first_trial(
    broken: Assignment, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """All workers but one load it for a trial, which failed for good."""

    def probe(*_: object) -> bool:
        raise error

    monkeypatch.setattr(workbench, "check_causal", probe)
    for job in (Job("trial", 0, Placement.of(["o_proj"], 4)), Job("test", 3, adapter="a/3"), Job("base")):
        assert str(step(job, broken).get("refused")).startswith(said.format(broken.model))


def test_a_machine_without_the_shared_folder(broken: Assignment, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    folder.rmdir()
    assert step(Job("base"), broken) == {
        "refused": f"the folder of adapters {folder} cannot be written on {socket.gethostname()} (No such file or "
        "directory): give as --adapters or --home a folder that all machines of the search share under the same path",
        "refused_type": "StoreError",
        "done": True,
    }

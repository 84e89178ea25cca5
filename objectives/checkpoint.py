"""A training on its way, stopped or to be kept from harm: adapter, optimiser and losses in one safetensors file."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from objectives.adapter import refused
from objectives.training import TrainingResult

#: Beside the adapters' folders: the checkpoint of adapter NAME is NAME + SUFFIX.
SUFFIX = ".checkpoint.safetensors"
_WEIGHT = "weight"


def save_checkpoint(file: Path, model: Any, training: TrainingResult) -> None:
    """Write the trained parameters of ``model`` and where their ``training`` is, whole or not at all.

    Raises StoreError where the disk refuses.
    """
    tensors = {f"{name}|{_WEIGHT}": p for name, p in model.named_parameters() if p.requires_grad}
    for name, moments in training.moments.items():
        tensors |= {f"{name}|{kind}": value for kind, value in moments.items()}
    state = json.dumps({"steps": training.steps, "losses": training.losses})
    partial = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial, {"training": state})
        partial.replace(file)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise refused("checkpoint", file, error) from error


def load_checkpoint(file: Path, model: Any) -> TrainingResult | None:
    """Put the parameters of the file into ``model``; None if there is no file, or none of this model's that is whole.

    The training then begins anew, which gives the same result at the cost of its steps.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        with safe_open(file, "pt") as stored:
            state = json.loads(stored.metadata()["training"])
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  # not a mapping
        moments: dict[str, dict[str, torch.Tensor]] = {name: {} for name in named}
        for key, value in tensors.items():
            name, kind = key.rsplit("|", 1)
            if kind != _WEIGHT:
                # The count of steps stays where fused optimisers keep it, with the parameter.
                moments[name][kind] = value.to(named[name].device)
        weights = {name: tensors[f"{name}|{_WEIGHT}"] for name in named}
        losses = [(int(step), float(loss)) for step, loss in state["losses"]]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(weights[name])
    return TrainingResult(int(state["steps"]), losses, moments)


class Keeper:
    """Writes a checkpoint of ``model`` to ``file`` whenever ``seconds`` of training have passed since the last one."""

    def __init__(self, file: Path, model: Any, seconds: float) -> None:
        self._file = file
        self._model = model
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self, training: TrainingResult) -> None:
        """Raises StoreError where the disk refuses."""
        if time.monotonic() - self._last >= self._seconds:
            save_checkpoint(self._file, self._model, training)
            self._last = time.monotonic()


def drop_checkpoints(folder: Path) -> None:
    """Of trainings that will not go on; ``folder`` is the adapters' own, and need not exist."""
    for file in folder.glob(f"*{SUFFIX}*"):  # also what a process wrote when it was killed
        file.unlink()

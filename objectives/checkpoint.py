"""A training on its way, stopped or to be kept from harm: adapter, optimiser and losses in one safetensors file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from objectives.adapter import unwritable
from objectives.errors import StoreError
from objectives.storage import Storage
from objectives.training import TrainingResult

#: Beside the adapters: the checkpoint of adapter NAME is NAME + SUFFIX.
SUFFIX = ".checkpoint.safetensors"
_WEIGHT = "weight"


def save_checkpoint(storage: Storage, name: str, model: Any, training: TrainingResult) -> None:
    """Write the trained parameters of ``model`` and where their ``training`` is, whole or not at all.

    Raises StoreError where disk or server refuse.
    """
    tensors = {f"{key}|{_WEIGHT}": p for key, p in model.named_parameters() if p.requires_grad}
    for parameter, moments in training.moments.items():
        tensors |= {f"{parameter}|{kind}": value for kind, value in moments.items()}
    state = json.dumps({"steps": training.steps, "losses": training.losses})
    try:
        with storage.writing(name) as file:
            save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, file, {"training": state})
    except StoreError:
        raise
    except (OSError, SafetensorError) as error:
        raise unwritable("checkpoint", storage.at(name), error) from error


def load_checkpoint(storage: Storage, name: str, model: Any) -> TrainingResult | None:
    """Put the parameters of the file into ``model``; None if there is no file, or none of this model's that is whole.

    The training then begins anew, which gives the same result at the cost of its steps. Raises StoreError for a server
    that refuses.
    """
    with storage.reading(name) as file:
        return _load(file, model)


def _load(file: Path, model: Any) -> TrainingResult | None:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        with safe_open(file, "pt") as stored:
            state = json.loads(stored.metadata()["training"])
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  # not a mapping
        training = TrainingResult(
            int(state["steps"]),
            [(int(step), float(loss)) for step, loss in state["losses"]],
            {name: {} for name in named},
        )
        weights: dict[str, torch.Tensor] = {}
        for key, value in tensors.items():
            name, kind = key.rsplit("|", 1)
            parameter = named[name]
            if value.dim() and (value.shape, value.dtype) != (parameter.shape, parameter.dtype):
                return None
            if kind == _WEIGHT:
                weights[name] = value
            else:
                # The count of steps, which has no dimension, stays where fused optimisers keep it: with the parameter.
                training.moments[name][kind] = value.to(parameter.device)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    if weights.keys() != named.keys():
        return None
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(weights[name])
    return training


class Keeper:
    """Writes a checkpoint of ``model`` whenever ``seconds`` of training have passed since the last one."""

    def __init__(self, storage: Storage, name: str, model: Any, seconds: float) -> None:
        self._storage = storage
        self._name = name
        self._model = model
        self._seconds = seconds
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._last >= self._seconds

    def __call__(self, training: TrainingResult) -> None:
        """Raises StoreError where disk or server refuse."""
        if self.is_due:
            save_checkpoint(self._storage, self._name, self._model, training)
            self._last = time.monotonic()


def drop_checkpoints(storage: Storage) -> None:
    """Of trainings that will not go on, also what a process was writing when it was killed. Raises StoreError."""
    for name in storage.names():
        if SUFFIX in name:
            storage.delete(name)

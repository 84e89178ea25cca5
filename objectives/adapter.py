"""Adapter folders: written whole or not at all, safetensors and JSON only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from objectives.errors import RequestError, StoreError
from objectives.pickles import refuse_pickles
from objectives.storage import Storage, fetched

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_FULL = os.strerror(errno.ENOSPC)


def save_adapter(model: Any, storage: Storage, name: str) -> str:
    """Write a PEFT model's adapter as a folder of ``storage`` and return the SHA-256 of its weights.

    Raises StoreError where disk or server refuse; nothing half-written passes for an adapter.
    """
    try:
        with storage.writing(name) as folder:
            folder.mkdir()
            model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
            # safetensors writes files that only their owner may read, whatever the user's umask lets others do.
            (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)
            digest = weights_digest(folder)
    except StoreError:
        raise
    except Exception as error:
        # safetensors reports a full disk as its own error type, with the system's message inside.
        if isinstance(error, OSError) or _FULL in str(error) or "I/O error" in str(error):
            raise unwritable("adapter", storage.at(name), error) from error
        raise
    return digest


@contextmanager
def adapter_at(location: str, digest: str | None) -> Iterator[Path]:
    """The folder of an adapter, fetched from where it lies. Raises as :func:`check_adapter`, and StoreError."""
    with fetched(location) as folder:
        check_adapter(folder, digest, location)
        yield folder


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights file, in hexadecimal."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def check_adapter(folder: Path, digest: str | None, location: str | None = None) -> None:
    """``location`` is what the user knows it by, if ``folder`` is a copy.

    Raises RequestError if the adapter is gone, is not what was measured, or has a pickle beside it.
    """
    called = location or folder
    if not (folder / WEIGHTS).is_file():
        raise RequestError(
            f"adapter {called} has no {WEIGHTS}: it was moved or deleted; take it from where it is still kept (MLflow "
            "has a copy), or train it again"
        )
    try:
        has_changed = digest is not None and weights_digest(folder) != digest
    except OSError as error:
        raise RequestError(
            f"adapter {called}/{WEIGHTS} cannot be read ({error.strerror}): let its owner give you the right to, or "
            "check its disk"
        ) from error
    if has_changed:
        raise RequestError(
            f"adapter {called}/{WEIGHTS} has changed since it was measured (its SHA-256 differs): restore it from "
            "MLflow, where the same adapter is stored"
        )
    refuse_pickles(folder)


def adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration, as PEFT wrote it. Raises RequestError if it cannot be read."""
    file = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"adapter {file} cannot be read ({error}): train it again") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise RequestError(f"{file} is no configuration of PEFT (it has no peft_type): restore the file")
    return config


def adapted_layers(folder: Path) -> list[str]:
    """Paths in the base model of the layers that have LoRA weights: what a list of targets, which PEFT may shorten to
    the ends of paths, only lets guess. Raises RequestError if the weights cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError) as error:
        raise RequestError(f"adapter {folder / WEIGHTS} cannot be read ({error}): train it again") from error
    end = ".lora_A.weight"
    return sorted(name.removeprefix("base_model.model.").removesuffix(end) for name in names if name.endswith(end))


def unwritable(what: str, location: str, error: Exception) -> StoreError:
    reason = _FULL if _FULL in str(error) else getattr(error, "strerror", None) or str(error)
    return StoreError(f"{what} {location} could not be written ({reason}): free space or check the folder, then resume")

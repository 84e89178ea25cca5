"""Adapter folders: written whole or not at all, safetensors and JSON only."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from objectives.errors import RequestError, StoreError
from objectives.pickles import refuse_pickles

WEIGHTS = "adapter_model.safetensors"
_FULL = os.strerror(errno.ENOSPC)


def save_adapter(model: Any, folder: Path) -> str:
    """Write a PEFT model's adapter to ``folder`` in one step and return the SHA-256 of its weights.

    Raises StoreError where the disk refuses; nothing half-written stays behind.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise refused("adapter", folder, error) from error
    try:
        model.save_pretrained(str(partial), safe_serialization=True, save_embedding_layers=False)
        partial.chmod(0o755)
        digest = weights_digest(partial)
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        # safetensors reports a full disk as its own error type, with the system's message inside.
        if isinstance(error, OSError) or _FULL in str(error) or "I/O error" in str(error):
            raise refused("adapter", folder, error) from error
        raise
    return digest


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights file, in hexadecimal."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def check_adapter(folder: Path, digest: str | None) -> None:
    """Raises RequestError if the adapter is gone, is not what was measured, or has a pickle beside it."""
    if not (folder / WEIGHTS).is_file():
        raise RequestError(f"adapter {folder} has no {WEIGHTS}: it was moved or deleted, so it must be trained again")
    if digest is not None and weights_digest(folder) != digest:
        raise RequestError(
            f"adapter {folder / WEIGHTS} has changed since it was measured (its SHA-256 differs): restore it from "
            "MLflow, where the same adapter is stored"
        )
    refuse_pickles(folder)


def adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration, as PEFT wrote it. Raises RequestError if it cannot be read."""
    file = folder / "adapter_config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"adapter {file} cannot be read ({error}): train it again") from error
    return config


def refused(what: str, path: Path, error: Exception) -> StoreError:
    reason = _FULL if _FULL in str(error) else getattr(error, "strerror", None) or str(error)
    return StoreError(f"{what} {path} could not be written ({reason}): free space or check the folder, then resume")

"""How much of an encoder is new, and trained and kept with every adapter: its head, and a pooler that it lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from objectives.model import body_of, head_of, shards


def head_parameters(model: Any) -> int:
    """Of a model that :func:`~objectives.model.load_model` has loaded; 0 for a causal one."""
    return sum(p.numel() for path in model.new_modules for p in model.get_submodule(path).parameters())


def head_parameters_of(structure: Any, folder: Path) -> int:
    """What :func:`head_parameters` will be of the encoder in ``folder``, by its structure and the names of its weights.

    Raises ModelError if the folder holds no weights that can be read safely.
    """
    from safetensors import safe_open

    body = body_of(structure)
    stored: set[str] = set()
    for shard in shards(folder):
        with safe_open(shard, framework="pt") as weights:
            stored.update(weights.keys())
    has_pooler = any("pooler" in key for key in stored)
    named = dict(structure.named_parameters())
    if not any(name.startswith(body) for name in named):
        return 0  # of code of its own, whose body is no part of its own: not known before it is loaded
    return sum(
        parameter.numel()
        for name, parameter in named.items()
        if head_of(name, body) or ("pooler" in name and not has_pooler)
    )

"""What PEFT has to be told so that it adapts a set of layers exactly, and no other layer of the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

from torch import nn


class Targets:
    """The names of one model as PEFT matches them: a target matches a path that equals it or ends in "." + it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = _by_suffix(path for path, _ in model.named_modules())
        self.parameters = _by_suffix(
            f"{path}.{name}"
            for path, module in model.named_modules()
            for name, _ in module.named_parameters(recurse=False)
        )

    def is_distinct(self, path: str) -> bool:
        """Whether even the full path is no suffix of another, as ``layers.0.fc1`` is of ``encoder.layers.0.fc1``."""
        return self.modules.get(path, {path}) | self.parameters.get(path, {path}) == {path}

    def shortest(self, name: str, paths: tuple[str, ...], kind: Literal["linear", "parameter"]) -> tuple[str, ...]:
        """``name`` itself if it matches exactly ``paths`` in the whole model, otherwise the full paths."""
        suffixes = self.modules if kind == "linear" else self.parameters
        return (name,) if suffixes.get(name) == set(paths) else paths

    def reaches(self, path: str) -> bool:
        """Whether PEFT attaches to the linear layer when ``target_modules`` names it.

        For models whose experts transformers 5 has fused, PEFT rewrites some names (``down_proj``), even in full
        paths, to the fused experts, so that the shared expert beside them cannot be named.
        """
        from peft import LoraConfig
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

        config = LoraConfig(target_modules=[path])
        try:
            convert_peft_config_for_transformers(config, self.model, conversions=None)
        except ValueError:
            return False
        return path in config.target_modules


def _by_suffix(paths: Iterable[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        parts = path.split(".")
        for start in range(len(parts)):
            found[".".join(parts[start:])].add(path)
    return found

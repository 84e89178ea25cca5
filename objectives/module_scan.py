"""Builds the module space of a model from its structure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from torch import nn
from transformers import PreTrainedConfig

from objectives.errors import ModelError
from objectives.fingerprint import computation_digest
from objectives.model import Kind
from objectives.module_exclusions import Exclusions, Reason
from objectives.module_layers import Layer, linear_maps
from objectives.module_naming import name_groups, split_bands
from objectives.module_roles import role_of
from objectives.module_targets import Targets
from objectives.modules import LeftOut, ModuleGroup, ModuleSpace, Role


def scan(model: nn.Module, config: PreTrainedConfig, kind: Kind, bands: int) -> ModuleSpace:
    if bands < 1:
        raise ModelError(f"{bands} bands are not possible: give 1 or more.")
    targets = Targets(model)
    layers, left_out = _sort(model, config, kind, targets)
    layers = [_as_peft_reaches(layer, targets) for layer in layers]
    blocks = len({layer.block for layer in layers})
    if bands > max(1, blocks):
        raise ModelError(f"--bands {bands} is more than this model has layers ({blocks}): give {blocks} or less")
    groups = [
        _group(name + band, name, part, whole, targets)
        for name, whole in name_groups(layers).items()
        for band, part in split_bands(whole, bands)
    ]
    if not groups:
        left_out.append(LeftOut("all blocks", "no linear layer in repeated blocks was found"))
    return ModuleSpace(
        model_type=config.model_type,
        kind=kind,
        hidden_size=_hidden_size(config, layers),
        layers=blocks,
        groups=tuple(groups),
        left_out=tuple(left_out),
        full_rank=max((min(layer.inputs, layer.outputs) for layer in layers), default=0),
        structure=_digest(model.named_parameters()),
        body=_digest(_body(model, kind)),
        computation=computation_digest(config),
    )


def _sort(
    model: nn.Module, config: PreTrainedConfig, kind: Kind, targets: Targets
) -> tuple[list[Layer], list[LeftOut]]:
    """The layers to offer, and the others with their reasons, each name once."""
    exclusions = Exclusions(model, kind)
    offered: list[Layer] = []
    left_out: dict[Reason, None] = {}
    for layer in linear_maps(model, config):
        reason = exclusions.reason(layer)
        if reason is None and not targets.is_distinct(layer.path):
            reason = layer.path, "its full path ends another one, so that PEFT cannot target it alone"
        if reason is None:
            offered.append(layer)
        else:
            left_out[reason] = None
    return offered, [LeftOut(name, why) for name, why in left_out]


def _as_peft_reaches(layer: Layer, targets: Targets) -> Layer:
    """A linear layer whose name PEFT would rewrite is reached through its weight parameter instead."""
    if layer.kind == "linear" and not targets.reaches(layer.path):
        return replace(layer, kind="parameter", path=f"{layer.path}.weight")
    return layer


def _group(name: str, suffix: str, layers: list[Layer], whole: list[Layer], targets: Targets) -> ModuleGroup:
    """``layers`` are those of a band of the ``whole``."""
    paths, all_paths = (tuple(layer.path for layer in some) for some in (layers, whole))
    kind: Literal["linear", "parameter"] = "linear" if layers[0].kind == "linear" else "parameter"
    if kind == "parameter" and paths[0].endswith(".weight"):
        suffix += ".weight"
    return ModuleGroup(
        name=name,
        role=_role(layers),
        paths=paths,
        kind=kind,
        layers=len({layer.block for layer in layers}),
        parameters_per_rank=sum(layer.experts * (layer.inputs + layer.outputs) for layer in layers),
        products=sum(layer.products for layer in layers),
        targets=targets.shortest(suffix, paths, kind),
        whole=targets.shortest(suffix, all_paths, kind),
    )


def _role(layers: list[Layer]) -> Role:
    """The role of most of the layers, among those whose role is known."""
    known = Counter(role for layer in layers if (role := role_of(layer.inside)) != "other")
    return known.most_common(1)[0][0] if known else "other"


def _hidden_size(config: PreTrainedConfig, layers: list[Layer]) -> int:
    """As configured; of a model of parts with a width each, as BLT is, what most layers read. 0 without any."""
    text = config.get_text_config(decoder=True)
    stated = getattr(text, "hidden_size", 0) or getattr(text, "d_model", 0)
    widths = Counter(layer.inputs for layer in layers).most_common(1)
    return int(stated or (widths[0][0] if widths else 0))


def _body(model: nn.Module, kind: Kind) -> list[tuple[str, nn.Parameter]]:
    """All of a causal model, and of an encoder whose body has another name than transformers gives it."""
    named = list(model.named_parameters())
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    inside = [(path, weight) for path, weight in named if path.startswith(prefix)]
    return inside if kind == "encoder" and inside else named


def _digest(weights: Iterable[tuple[str, nn.Parameter]]) -> str:
    lines = sorted(f"{path} {tuple(weight.shape)}" for path, weight in weights)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

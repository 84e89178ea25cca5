"""Which adapters can be trained in one pass of their base: :func:`objectives.packed.train_packed`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from objectives.backbone import twin
from objectives.cut import logits_at
from objectives.encoding import EncodedTask
from objectives.probing import same_but_for_rounding


def why_not_packed(base: Any, models: Sequence[Any], task: EncodedTask) -> str | None:
    """Why ``models``, adapted twins of ``base``, must be trained one by one on ``task``; None if they can be packed.

    Whether ``base`` treats each row alone is measured, not assumed. No random number is drawn.
    """
    if task.kind == "encoder":
        return "an encoder trains a head beside its adapter"
    paths: set[str] = set()
    for model in models:
        layers = plain_layers(model)
        ours = {id(weight) for layer in layers.values() for weight in lora_weights(layer)}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and id(parameter) not in ours:
                return f"{name} is trained, and is no weight of a plain LoRA layer without dropout"
        paths |= layers.keys()
    if (path := _mixing_layer(base, paths)) is not None:
        return f"{path}: its numbers for a row depend on the other rows of a pass (dropout, routed tokens, or layout)"
    return None


def plain_layers(model: Any) -> dict[str, Any]:
    """By path, the LoRA layers of ``model`` that compute x W^T + s (x A^T) B^T on a linear layer or Conv1D."""
    return {path: layer for path, layer in model.named_modules() if _is_plain(layer)}


def lora_weights(layer: Any) -> tuple[Tensor, Tensor]:
    """A (rank, inputs) and B (outputs, rank) of a LoRA layer with one adapter."""
    name = layer.active_adapters[0]
    return layer.lora_A[name].weight, layer.lora_B[name].weight


def _is_plain(layer: nn.Module) -> bool:
    from peft.tuners.lora import Linear
    from transformers.pytorch_utils import Conv1D

    if not isinstance(layer, Linear) or layer.lora_variant or len(layer.active_adapters) != 1:
        return False
    base: Any = layer.get_base_layer()
    without_dropout = isinstance(layer.lora_dropout[layer.active_adapters[0]], nn.Identity)
    return without_dropout and type(base).forward in (nn.Linear.forward, Conv1D.forward)


@torch.inference_mode()
def _mixing_layer(base: Any, paths: Collection[str]) -> str | None:
    """A layer of ``paths`` whose input, or the "output head" if its output, is not that of two passes put together.

    Dropout, tokens sent to experts, and inputs in which rows are not the leading size all show here.
    """
    model: Any = twin(base).train()
    seen: list[tuple[str, Tensor]] = []
    for path in paths:
        model.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: seen.append((path, args[0])))
    ids = torch.arange(24, device=model.device).reshape(6, 4) % model.config.get_text_config().vocab_size
    passes: list[list[tuple[str, Tensor]]] = []
    with torch.random.fork_rng():  # dropout must not draw from the numbers of the training to come
        for some in (ids, *ids.chunk(2)):
            positions = torch.arange(some.numel(), device=ids.device)
            seen.append(("output head", logits_at(model, some, positions, cut="none")))
            passes.append([(path, numbers.float().flatten(0, -2)) for path, numbers in seen])
            seen.clear()
    both, one, other = passes
    for (path, together), (_, first), (_, second) in zip(both, one, other, strict=False):
        if not same_but_for_rounding(together, torch.cat((first, second)), model.dtype):
            return path
    return None

"""Every linear map of a model, and the repeated block that holds it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedConfig
from transformers.pytorch_utils import Conv1D

#: How the configurations of transformers name the number of experts that a token visits.
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_top_k", "moe_k")

#: Their weights have several dimensions, but they are no linear maps.
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Layer:
    """A linear module, a stack of experts (one parameter of three dimensions), or something that looks like one.

    ``inside`` is the path inside the block without the indices of lists, as "mlp.experts.down_proj"; outside of all
    blocks, ``block`` is empty and ``inside`` is the whole path. ``products`` are multiply-adds per token.
    """

    path: str
    block: str
    inside: str
    kind: Literal["linear", "parameter", "embedding"]
    inputs: int
    outputs: int
    experts: int
    products: int

    @property
    def is_stack(self) -> bool:
        return self.kind == "parameter" and self.experts > 1


def linear_maps(model: nn.Module, config: PreTrainedConfig) -> Iterator[Layer]:
    """Linear modules and embeddings anywhere; inside blocks also the bare parameters of two or more dimensions."""
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            inputs, outputs = shape = _in_out(module)
            block, inside = split_at_block(path)
            passes = uses[id(module)] if _is_visited(path, block, model, config) else 0
            yield Layer(path, block, inside, "linear", *shape, 1, inputs * outputs * passes)
        elif isinstance(module, nn.Embedding):
            block, inside = split_at_block(path)
            yield Layer(path, block, inside, "embedding", module.num_embeddings, module.embedding_dim, 1, 0)
        elif not isinstance(module, CONVOLUTIONS):
            for name, parameter in module.named_parameters(recurse=False):
                block, inside = split_at_block(f"{path}.{name}")
                if parameter.ndim >= 2 and block:
                    yield _parameter(f"{path}.{name}", block, inside, module, parameter, config)


def _parameter(
    path: str, block: str, inside: str, owner: nn.Module, parameter: nn.Parameter, config: PreTrainedConfig
) -> Layer:
    *stacked, rows, columns = parameter.shape
    is_stack = len(stacked) == 1 and stacked[0] > 1 and "expert" in f"{path} {type(owner).__name__}".lower()
    if not is_stack:
        return Layer(path, block, inside, "parameter", columns, rows, 1, 0)
    experts = stacked[0]
    inside = inside.removesuffix(".weight")
    visited = experts if "shared" in inside else min(experts, _experts_per_token(config, block, experts))
    # PEFT stores a stack as (experts, out, in) unless the module says otherwise; the sum in + out is the same.
    return Layer(path, block, inside, "parameter", columns, rows, experts, visited * rows * columns)


def _is_visited(path: str, block: str, model: nn.Module, config: PreTrainedConfig) -> bool:
    """Whether a token passes here. Of a list of experts, a module each, the first stand for those that it visits."""
    listed = re.match(r"(.+\.(?!\w*shared)\w*expert\w*)\.(\d+)(\.|$)", path)
    if listed is None:
        return True
    experts = len(list(model.get_submodule(listed[1]).children()))
    return int(listed[2]) < _experts_per_token(config, block, experts)


def _experts_per_token(config: PreTrainedConfig, block: str, default: int) -> int:
    text = config.get_text_config(decoder=True)
    values = (getattr(text, name, None) for name in EXPERTS_PER_TOKEN)
    stated = next((value for value in values if isinstance(value, int | list)), default)
    # Hunyuan-A13B states one number for each layer.
    return stated[int(block.rpartition(".")[2])] if isinstance(stated, list) else stated


def _in_out(module: nn.Linear | Conv1D) -> tuple[int, int]:
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    inputs, outputs = module.weight.shape
    return inputs, outputs


def split_at_block(path: str) -> tuple[str, str]:
    """("model.layers.3", "mlp.experts.down_proj") of "model.layers.3.mlp.experts.7.down_proj".

    The outermost list decides. A layer that is itself the member of that list is in no block. Inside, the index of a
    layer in a Sequential stays, since it is all the name that the layer has.
    """
    parts = path.split(".")
    first = next((i for i, part in enumerate(parts[:-1]) if part.isdigit()), None)
    if first is None:
        return "", path
    kept = [part for part in parts[first + 1 : -1] if not part.isdigit()]
    return ".".join(parts[: first + 1]), ".".join([*kept, parts[-1]])

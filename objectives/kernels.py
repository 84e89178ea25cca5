"""The same arithmetic in fewer passes: what training on a CPU spends its time on, done once.

Two things dominate a step of a small model on a CPU, and both are overhead of form, not of arithmetic:

- A LoRA layer in PEFT makes six thin products a step beside the two of the frozen layer. Where the layer is small, it
  is cheaper to add the update to the weight first, y = x (W + s B A)^T, and to take one product each way.
- PyTorch's fused attention is made for long sequences and wide heads. On short rows plain products are faster.

Both are used in training only, on float32 and CPU; latency and accuracy are measured on PEFT's own unmerged layers.
What they gain is in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Longest row for which :func:`short_attention` was measured to be faster than the fused kernel.
_SHORT = 96
_ATTENTION = "short_causal"


@contextmanager
def lean_training(model: Any) -> Iterator[None]:
    """Within, an adapted causal LM on the CPU trains by the cheaper forms; after, it is as PEFT made it."""
    from peft.tuners.lora import Linear

    if model.device.type != "cpu" or model.dtype != torch.float32:
        yield
        return
    with ExitStack() as after:
        for layer in [m for m in model.modules() if isinstance(m, Linear) and _is_cheaper_merged(m)]:
            layer.forward = partial(_merged_forward, layer)
            after.callback(delattr, layer, "forward")
        if model.config._attn_implementation == "sdpa":
            _register_attention()
            model.set_attn_implementation(_ATTENTION)
            after.callback(model.set_attn_implementation, "sdpa")
        yield


def _is_cheaper_merged(layer: Any) -> bool:
    base = layer.get_base_layer()
    plain = isinstance(base, nn.Linear) and type(base).forward is nn.Linear.forward
    active = layer.active_adapters
    if not plain or len(active) != 1 or layer.lora_variant or layer.fan_in_fan_out or layer.lora_bias[active[0]]:
        return False
    return merging_is_cheaper(base.in_features, base.out_features, layer.r[active[0]])


def merging_is_cheaper(inputs: int, outputs: int, rank: int) -> bool:
    """Merging costs one more product with the whole weight, and saves six thin ones.

    Per row of input that is i*o against 3 r (i + o) multiply-adds; thin products run at about a quarter of the speed,
    and gain nothing from ranks below 8.
    """
    return inputs * outputs <= 12 * max(rank, 8) * (inputs + outputs)


def _merged_forward(layer: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    base, name = layer.get_base_layer(), layer.active_adapters[0]
    weight = torch.addmm(base.weight, layer.lora_B[name].weight, layer.lora_A[name].weight, alpha=layer.scaling[name])
    return functional.linear(x, weight, base.bias)


def _register_attention() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_ATTENTION, short_attention)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal self-attention by plain products; query (rows, heads, tokens, width), key and value may have fewer heads.

    Falls back to transformers' own function for all but the plain case. Returns (rows, tokens, heads, width),
    contiguous as of that function: JetMoe takes a view of it.
    """
    rows, heads, tokens, width = query.shape
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    plain = attention_mask is None and causal and dropout == 0.0 and key.shape[2] == tokens <= _SHORT
    if not plain or any(kwargs.get(name) is not None for name in ("softcap", "position_bias", "s_aux", "cache")):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return out, None
    # The queries of the heads that share a key are stacked: fewer and larger products.
    shared = key.shape[1]
    stacked = query.reshape(rows * shared, heads // shared * tokens, width)
    future = torch.full((tokens, tokens), -torch.inf, dtype=query.dtype).triu_(1).repeat(heads // shared, 1)
    scores = torch.baddbmm(
        future,
        stacked,
        key.reshape(rows * shared, tokens, width).transpose(1, 2),
        alpha=width**-0.5 if scaling is None else scaling,
    )
    out = torch.bmm(scores.softmax(-1), value.reshape(rows * shared, tokens, value.shape[-1]))
    return out.view(rows, heads, tokens, value.shape[-1]).transpose(1, 2).contiguous(), None

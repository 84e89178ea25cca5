"""Logits of few positions: where in a pass the others can be dropped, since nothing after needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from objectives.probing import same_but_for_rounding, tried

#: ``block``: behind the attention of the last block, so that its MLP and all after it see the wanted positions alone;
#: ``head``: in front of the output head; ``none``: the whole pass is made.
Cut = Literal["block", "head", "none"]

#: Of which log-probabilities are taken at once. Those of 64 rows of 255 tokens in a vocabulary of 150,000 would take
#: 10 GB, in each of the forms in which they are held.
LOGITS = 1 << 26


def logits_at(
    model: Any, ids: Tensor, positions: Tensor, *, cut: Cut, found: dict[str, Any] | None = None, **arguments: Any
) -> Tensor:
    """Logits (n, vocabulary) of a causal LM at ``positions`` (n,) of the flattened ``ids`` (rows, tokens).

    Rows are padded on the right. No attention mask is passed: under causal attention no token sees what stands right of
    it, so the padding changes nothing, and attention takes its fast path. Other ``arguments`` go to the model, whose
    whole output is left in ``found``. ``cut`` must be one that :func:`narrowest_cut` found for this architecture.
    """
    with _CUTS[cut](model, positions):
        output = model(input_ids=ids, **({"use_cache": False} | arguments))
    if found is not None:
        found["output"] = output
    flat: Tensor = output.logits.reshape(-1, output.logits.shape[-1])
    return flat.index_select(0, positions) if cut == "none" else flat


@torch.inference_mode()
def narrowest_cut(model: Any) -> Cut:
    """The earliest cut that gives this architecture's own logits; measured, not assumed."""
    if model.get_output_embeddings() is None:
        return "none"
    device = model.get_output_embeddings().weight.device
    ids = torch.arange(8, device=device).reshape(2, 4) % model.config.get_text_config().vocab_size
    positions = torch.tensor([1, 3, 6], device=device)
    full = logits_at(model, ids, positions, cut="none")
    cuts: tuple[Cut, ...] = ("block", "head")
    for cut in cuts:
        few = tried(partial(logits_at, model, ids, positions, cut=cut))
        if few is not None and same_but_for_rounding(few.float(), full.float(), model.dtype):
            return cut
    return "none"


def _select(hidden: Tensor, positions: Tensor) -> Tensor:
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)[None]


@contextmanager
def _at_head(model: Any, positions: Tensor) -> Iterator[None]:
    """A hook in front of the head: what a head is called with differs between architectures, its input does not."""

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_select(args[0], positions), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _at_block(model: Any, positions: Tensor) -> Iterator[None]:
    """The last block in the plain form x + attention(norm(x)), then x + mlp(norm(x)), which most decoders have.

    Raises AttributeError if its parts have other names.
    """
    block = model.get_decoder().layers[-1]
    attention_norm, attention, mlp_norm, mlp = (
        getattr(block, name) for name in ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
    )

    def forward(hidden_states: Tensor, **arguments: Any) -> Tensor:
        attended, *_ = attention(hidden_states=attention_norm(hidden_states), **arguments)
        few = _select(hidden_states + attended, positions)
        out: Tensor = few + mlp(mlp_norm(few))
        return out

    block.forward = forward  # on the instance, in front of the class's own
    try:
        yield
    finally:
        del block.forward


@contextmanager
def _nowhere(model: Any, positions: Tensor) -> Iterator[None]:
    yield


_CUTS: dict[Cut, Callable[[Any, Tensor], Any]] = {"block": _at_block, "head": _at_head, "none": _nowhere}

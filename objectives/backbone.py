"""The frozen base model, and copies of it that carry one adapter each."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from objectives.modules import ModuleSpace
from objectives.placement import Placement


def twin(model: nn.Module) -> Any:
    """A copy of the module tree that shares every parameter and buffer with ``model``.

    An adapter goes onto a twin: the base stays as it was loaded, so it can be timed beside the adapted model, and the
    next trial starts from a clean tree, at no cost in memory.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def attach(base: Any, space: ModuleSpace, placement: Placement, *, seed: int) -> Any:
    """A PEFT model of ``placement`` on a twin of ``base``; LoRA initialised from ``seed``, B at zero.

    What is new in an encoder (see :func:`objectives.model.load_model`) is trained beside, and saved with the adapter.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_CLS if space.kind == "encoder" else TaskType.CAUSAL_LM,
        r=placement.rank,
        lora_alpha=placement.alpha,
        lora_dropout=0.0,
        target_modules=space.target_modules(placement),
        target_parameters=space.target_parameters(placement) or None,
        modules_to_save=list(base.new_modules) or None,
    )
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # Conv1D holds its weight transposed; PEFT sees that by itself, and says so for every layer.
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
        # PEFT 0.21 asks for it by the name that transformers 5.24 replaces.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.* is deprecated", FutureWarning)
        return get_peft_model(twin(base), config)


@contextmanager
def head_at(model: Any, positions: Tensor | None) -> Iterator[None]:
    """Within, the output head sees the hidden states at ``positions`` only.

    ``positions`` (n,) index the flattened (rows x tokens) grid; the logits come out as (1, n, vocabulary). Done by a
    hook in front of the head, since what follows it (soft-capping, scaling) is elementwise in every model of
    transformers, while what it is called with differs. ``None`` changes nothing.
    """
    if positions is None:
        yield
        return

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)[None], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def logits_at(model: Any, ids: Tensor, positions: Tensor, *, by_head: bool) -> Tensor:
    """Logits (n, vocabulary) of a causal LM at ``positions`` of the flattened ``ids`` (rows, tokens).

    Rows are padded on the right. No attention mask is passed: under causal attention no token sees what stands right of
    it, so the padding changes nothing, and attention takes its fast path.
    """
    with head_at(model, positions if by_head else None):
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
    flat = logits.reshape(-1, logits.shape[-1])
    return flat if by_head else flat.index_select(0, positions)


def head_is_separable(model: Any) -> bool:
    """Whether :func:`head_at` gives this architecture's own logits; measured, not assumed."""
    if model.get_output_embeddings() is None:
        return False
    device = model.get_output_embeddings().weight.device
    ids = torch.arange(8, device=device).reshape(2, 4) % model.config.get_text_config().vocab_size
    positions = torch.tensor([1, 3, 6], device=device)
    with torch.inference_mode():
        full = logits_at(model, ids, positions, by_head=False)
        try:
            few = logits_at(model, ids, positions, by_head=True)
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False
    return few.shape == full.shape and torch.allclose(few.float(), full.float(), rtol=1e-3, atol=1e-4)

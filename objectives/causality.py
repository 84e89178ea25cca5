"""Whether a model is causal, which training on completions, their likelihoods and :mod:`objectives.cut` rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectives.errors import ModelError
from objectives.probing import check_numbers

#: Of what a token's own change does to its logits. Rounding, which differs with the rows of an expert, stays far below.
_NOTHING = 0.02


def check_causal(model: Any, folder: Path) -> None:
    """Raises ModelError for a model that sees ahead, or whose weights are none; ``folder`` is where it lies."""
    check_numbers(_logits(model, torch.arange(8, device=model.device)[None]), folder)
    if sees_ahead(model):
        raise ModelError(
            f"{folder} is no causal language model: what it predicts for a token changes with the tokens behind that, "
            "so likelihoods of completions mean nothing; choose a causal one, or set is_decoder in its config.json if "
            "that has it."
        )


@torch.inference_mode()
def sees_ahead(model: Any) -> bool:
    """Whether logits depend on tokens that come later; measured, since what a class is called says nothing of it.

    BERT-like models attend both ways unless their configuration says is_decoder.
    """
    ids = torch.arange(16, device=model.device).reshape(2, 8)
    other = torch.where(torch.arange(8, device=model.device) < 4, ids, ids + 16)
    first, second = (_logits(model, each) for each in (ids, other))
    moved = (first - second).abs().mean(-1)
    return bool(moved[:, :4].mean() > _NOTHING * moved[:, 4:].mean())


@torch.inference_mode()
def _logits(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids % model.config.get_text_config().vocab_size, use_cache=False).logits
    return logits.float()

"""Whether prompts can be generated from together: padded on the left, which a mask covers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from objectives.batches import pad
from objectives.probing import no_decoder, refused, same_but_for_rounding, tried

_STEPS = 3  # the first is of the prompt, the others go on from its state


@torch.inference_mode()
def rows_keep_apart(model: Any, pad_id: int) -> bool:
    """Whether a row's text is the one that it has alone; measured, not assumed.

    The state of RecurrentGemma keeps some of the padding; RWKV reads it as text, and mixes the states of rows.

    Raises ModelError for a model that generates nothing.
    """
    size = model.config.get_text_config().vocab_size
    prompt = [(7 * i + 5) % size for i in range(12)]
    with refused(partial(no_decoder, model.config.model_type)):
        alone = _logits(model, [prompt[:5]], pad_id)
    beside = tried(partial(_logits, model, [prompt, prompt[:5]], pad_id))
    if beside is None:  # Dory's loops do not go with padding
        return False
    for plain, padded in zip(alone, beside, strict=False):
        if not same_but_for_rounding(padded, plain, model.dtype):
            return False
        if padded.argmax() != plain.argmax():  # as good as each other, but what follows is of other tokens
            break
    return True


def _logits(model: Any, prompts: list[list[int]], pad_id: int) -> list[Tensor]:
    """Of the last prompt: those of each token that is generated, (vocabulary,)."""
    ids, mask = (tensor.to(model.device) for tensor in pad(prompts, pad_id, left=True))
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=_STEPS,
        do_sample=False,
        pad_token_id=pad_id,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return [step[-1].float() for step in out.logits]

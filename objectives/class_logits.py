"""What the head of an encoder says of rows, in passes whose rows do not change one another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectives.batches import pad
from objectives.encoding import EncodedRow, EncodedTask
from objectives.errors import ModelError
from objectives.probing import check_numbers, in_float32, refused, same_but_for_rounding, tried


def class_logits(model: Any, rows: Sequence[EncodedRow], pad_id: int, together: bool = True) -> Tensor:
    """Logits (rows, labels). Rows share one pass where they may be ``together``, else those of each length do."""
    if together or len({len(row.prompt) for row in rows}) == 1:
        return _one_pass(model, rows, pad_id)
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row.prompt), []).append(i)
    logits = torch.cat([_one_pass(model, [rows[i] for i in alike], pad_id) for alike in by_length.values()])
    order = [i for alike in by_length.values() for i in alike]
    return logits[torch.tensor(order, device=logits.device).argsort()]


def _one_pass(model: Any, rows: Sequence[EncodedRow], pad_id: int) -> Tensor:
    ids, mask = (tensor.to(model.device) for tensor in pad([row.prompt for row in rows], pad_id))
    logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits


def padding_is_masked(model: Any, folder: Path, task: EncodedTask) -> bool:
    """Whether the longest row changes nothing about what ``model`` says of the shortest; measured, not assumed, and in
    float32: what some take in (CANINE, YOSO) is no more than bfloat16 rounds.

    Fourier transforms (FNet), convolutions (ConvBERT, CANINE), pooled or hashed attention (Funnel, Nystromformer, YOSO)
    take in what the mask leaves out, and XLNet classifies by the last token, which may be padding.

    Raises ModelError for a model that cannot classify a row, or whose weights are none; ``folder`` is where it lies.
    """
    rows = [row for split in task.splits.values() for row in split]
    shortest, longest = (some(rows, key=lambda row: len(row.prompt)) for some in (min, max))
    with torch.inference_mode():
        with refused(partial(_no_classifier, model.config.model_type)):
            logits = class_logits(model, [shortest], task.pad_id)
        check_numbers(logits, folder)
    with in_float32(model), torch.inference_mode():
        alone = class_logits(model, [shortest], task.pad_id)
        beside = tried(lambda: class_logits(model, [shortest, longest], task.pad_id)[:1])
    return beside is not None and same_but_for_rounding(beside, alone, torch.float32)


def _no_classifier(model_type: str, reason: str) -> ModelError:
    return ModelError(
        f"model type {model_type!r} does not classify a text in this version of transformers ({reason}): choose "
        "another model"
    )

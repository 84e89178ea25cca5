"""An encoded task as the model of a configuration takes it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from objectives.encoding import EncodedRow, EncodedTask
from objectives.errors import ModelError


def within_vocabulary(task: EncodedTask, config: Any, folder: Path) -> EncodedTask:
    """The task, padded with a token that the model of ``config`` has an embedding for.

    Causal models never see their padding, so any token will do for a pad that was added without resizing the model.
    Raises ModelError if the tokenizer gives other ids that the model does not have.
    """
    rows = (row for split in task.splits.values() for row in split)
    largest = max(itertools.chain.from_iterable(itertools.chain(row.prompt, row.completion) for row in rows))
    if task.kind == "encoder":
        largest = max(largest, task.pad_id)
    known = getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(known, int) and largest >= known:
        raise ModelError(
            f"{folder}: its tokenizer gives token {largest} where the model has {known}: restore the tokenizer files "
            "that belong to this model"
        )
    return replace(task, pad_id=0) if isinstance(known, int) and task.pad_id >= known else task


def with_position_doubt(task: EncodedTask, config: Any) -> EncodedTask:
    """With a doubt where positions depend on how long the rows of a pass are, as LongRoPE's do (Phi-3, Phi-4-mini).

    transformers goes by the longest row of a pass; vLLM by ``--max-model-len``, for all rows, so that it answers short
    ones otherwise than transformers does unless it is told.
    """
    most = _short_positions(config)
    if most is None:
        return task
    rows = (row for split in task.splits.values() for row in split)
    longest = max(len(row.prompt) + max(len(row.completion), task.max_new_tokens) for row in rows)
    doubt = f"the model has other positions for rows of more than {most} tokens (LongRoPE), "
    if longest > most:
        doubt += (
            f"and gives them to all rows of a batch with such a row: --max-tokens {most} has all rows read alike, and "
            f"vLLM reads them so with --max-model-len {most}"
        )
    else:
        doubt += (
            f"which none has here, and vLLM gives them to all rows: start it with --max-model-len {most} to serve what "
            "was measured"
        )
    return replace(task, doubts=(*task.doubts, doubt))


def _short_positions(config: Any) -> int | None:
    """Of LongRoPE, the longest row that has the positions of short rows."""
    rotary = getattr(config.get_text_config(), "rope_parameters", None) or {}
    if rotary.get("rope_type") != "longrope":
        return None
    return int(rotary["original_max_position_embeddings"])


def ended_once(task: EncodedTask, config: Any) -> EncodedTask:
    """With the last end of sequence alone where a model classifies by it: texts may hold more, as HTML does ``</s>``.

    Encoder-decoders do so, and refuse rows that have different numbers of it; one that has several ends, or none, such
    as T5Gemma, does not. Not all tokenizers put one behind a text; mBART's has the language behind that.
    """
    end = getattr(config, "eos_token_id", None)
    if task.kind == "causal" or not getattr(config, "is_encoder_decoder", False) or not isinstance(end, int):
        return task

    def once(row: EncodedRow) -> EncodedRow:
        ids = row.prompt if end in row.prompt else [*row.prompt[: task.max_tokens - 1], end]
        last = len(ids) - 1 - ids[::-1].index(end)
        return replace(row, prompt=[token for i, token in enumerate(ids) if token != end or i == last])

    return replace(task, splits={split: list(map(once, rows)) for split, rows in task.splits.items()})

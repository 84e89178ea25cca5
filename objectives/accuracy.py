"""How well a model does a task: one score a row, and the loss."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from objectives.backbone import decoding_state
from objectives.batches import evaluation_order, in_parts, pad
from objectives.class_logits import class_logits
from objectives.cut import LOGITS, Cut, logits_at
from objectives.encoding import EncodedRow, EncodedTask, decoded
from objectives.label_scoring import LabelTrie, likeliest, shared_prompt_scorer, whole_pass_scorer
from objectives.metrics import mean_interval, score, standard_error
from objectives.training import completion_batch

#: Rows of one forward pass. Part of the result: another size may round differently.
_ROWS = 64
#: On a GPU, where a pass of few tokens takes as long as one of many, more rows go together, up to so many tokens: those
#: of 64 rows that have the default of --max-tokens.
_TOKENS = 64 * 512
#: Bytes of keys and values that a pass may leave behind, to which labels add as much again: what ``_TOKENS`` tokens
#: leave in a model of 8 billion parameters with 8 heads for them. One with a head for each query keeps four times that.
_STATE = 4 << 30


def batches_of(lengths: Sequence[int], device: torch.device, state_bytes: int = 0) -> list[list[int]]:
    """Rows of these ``lengths`` that are evaluated in one pass, as indices; each once.

    Of a model that keeps ``state_bytes`` of every token, no more rows than have ``_STATE`` of them, but for one.
    """
    most = _STATE // state_bytes if state_bytes else sys.maxsize
    few: list[list[int]] = []
    for batch in evaluation_order(lengths, _ROWS):  # the last row of a batch is its longest
        rows = max(1, most // max(1, lengths[batch[-1]]))
        few += [batch[start : start + rows] for start in range(0, len(batch), rows)]
    if device.type != "cuda":
        return few
    merged: list[list[int]] = []
    for batch in few:
        together = merged[-1] + batch if merged else batch
        if merged and len(together) * max(1, lengths[batch[-1]]) <= min(_TOKENS, most):
            merged[-1] = together
        else:
            merged.append(batch)
    return merged


def _state_bytes(model: Any) -> int:
    """Of keys and values that the model keeps of each token; 0 for a state that does not grow."""
    output = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    layers = [layer for cache in decoding_state(output).values() for layer in getattr(cache, "layers", ())]
    kept = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in kept if isinstance(tensor, torch.Tensor))


@dataclass(frozen=True)
class Evaluation:
    scores: tuple[float, ...]  # one a row, in the order of the split, in [0, 1]
    loss: float  # nats per target token; per row for an encoder
    predictions: tuple[str, ...]

    def to_json(self, seed: int) -> dict[str, Any]:
        return {
            "accuracy": sum(self.scores) / len(self.scores),
            "accuracy_ci": list(mean_interval(self.scores, seed=seed)),
            "standard_error": standard_error(self.scores),
            "loss": self.loss,
            "rows": len(self.scores),
            # By row, so that placements can be compared on the same rows: a paired difference is far more exact.
            "scores": list(self.scores),
        }


@torch.inference_mode()
def evaluate(
    model: Any,
    task: EncodedTask,
    split: str,
    *,
    metric: str,
    tokenizer: Any = None,
    cut: Cut = "head",
    by_prompt: bool = False,
    together: bool = True,
) -> Evaluation:
    """Score ``split`` with ``model``, a causal LM or a sequence classifier in eval mode.

    Classification by a causal LM takes the label of the largest summed log-likelihood of its tokens behind the prompt.
    Generation is greedy, and needs ``tokenizer`` to turn ids into text. ``cut`` and ``by_prompt`` are shortcuts for
    models of which :func:`~objectives.cut.narrowest_cut` and
    :func:`~objectives.label_scoring.prompt_is_shareable` hold; rows of different lengths go ``together`` where
    :func:`~objectives.batched_generation.rows_keep_apart` holds of generation, and of an encoder
    :func:`~objectives.class_logits.padding_is_masked`.
    """
    rows = task.splits[split]
    if task.kind == "encoder":
        return _classify_with_head(model, task, rows, together)
    if task.task == "classification":
        return _classify_by_likelihood(model, task, rows, cut, by_prompt)
    return _generate(model, task, rows, metric, tokenizer, cut, together)


def _classify_with_head(model: Any, task: EncodedTask, rows: Sequence[EncodedRow], together: bool) -> Evaluation:
    predicted = [0] * len(rows)
    loss = 0.0
    for batch in batches_of([len(row.prompt) for row in rows], model.device):
        logits = class_logits(model, [rows[i] for i in batch], task.pad_id, together).float().cpu()
        truth = torch.tensor([rows[i].label for i in batch])
        loss += torch.nn.functional.cross_entropy(logits, truth, reduction="sum").item()
        for i, label in zip(batch, logits.argmax(-1).tolist(), strict=True):
            predicted[i] = label
    return _labelled(task, rows, predicted, loss / len(rows))


def _labelled(task: EncodedTask, rows: Sequence[EncodedRow], predicted: Sequence[int], loss: float) -> Evaluation:
    scores = tuple(float(label == row.label) for label, row in zip(predicted, rows, strict=True))
    return Evaluation(scores, loss, tuple(task.labels[label] for label in predicted))


def _classify_by_likelihood(
    model: Any, task: EncodedTask, rows: Sequence[EncodedRow], cut: Cut, by_prompt: bool
) -> Evaluation:
    trie = LabelTrie(task.label_ids)
    make_scorer = shared_prompt_scorer if by_prompt else whole_pass_scorer
    predicted = [0] * len(rows)
    total, tokens = 0.0, 0
    state_bytes = _state_bytes(model) if by_prompt else 0
    for batch in batches_of([len(row.prompt) for row in rows], model.device, state_bytes):
        some = [rows[i] for i in batch]
        truth = torch.tensor([row.label for row in some])
        labels, log_likelihood = likeliest(trie, truth, make_scorer(model, some, trie, task.pad_id, cut))
        total -= log_likelihood
        tokens += int(trie.lengths[truth].sum())
        for i, label in zip(batch, labels, strict=True):
            predicted[i] = label
    return _labelled(task, rows, predicted, total / tokens)


def _generate(
    model: Any, task: EncodedTask, rows: Sequence[EncodedRow], metric: str, tokenizer: Any, cut: Cut, together: bool
) -> Evaluation:
    texts = [""] * len(rows)
    total, tokens = 0.0, 0
    lengths = [len(row.prompt) + task.max_new_tokens for row in rows]
    batches = batches_of(lengths, model.device, _state_bytes(model))
    if not together:
        batches = [[i] for batch in batches for i in batch]
    vocabulary = model.config.get_text_config().vocab_size
    for batch in batches:
        some = [rows[i] for i in batch]
        for part in in_parts(some, lambda row: len(row.completion) * vocabulary, LOGITS):
            ids, positions, targets = completion_batch(part, task.pad_id, model.device)
            log_p = logits_at(model, ids, positions, cut=cut).float().log_softmax(-1)
            total -= log_p.gather(1, targets[:, None]).double().sum().item()
            tokens += len(targets)
        prompt, mask = pad([row.prompt for row in some], task.pad_id, left=True)
        out = model.generate(
            input_ids=prompt.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=task.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=task.pad_id,
            eos_token_id=task.ends or None,
        )
        for i, ids_out in zip(batch, out[:, prompt.shape[1] :].tolist(), strict=True):
            texts[i] = decoded(tokenizer, ids_out, task.ends)
    scores = tuple(score(metric, text, row.references) for text, row in zip(texts, rows, strict=True))
    return Evaluation(scores, total / tokens, tuple(texts))

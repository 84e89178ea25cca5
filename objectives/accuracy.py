"""How well a model does a task: one score a row, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from objectives.backbone import logits_at
from objectives.batches import evaluation_order, pad
from objectives.encoding import EncodedRow, EncodedTask
from objectives.metrics import mean_interval, score, standard_error
from objectives.training import completion_batch

#: Rows of one forward pass. Part of the result: another size may round differently.
_ROWS = 64


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
        }


@torch.inference_mode()
def evaluate(
    model: Any, task: EncodedTask, split: str, *, metric: str, tokenizer: Any = None, by_head: bool = True
) -> Evaluation:
    """Score ``split`` with ``model``, a causal LM or a sequence classifier in eval mode.

    Classification by a causal LM takes the label of the largest summed log-likelihood of its tokens behind the prompt.
    Generation is greedy, and needs ``tokenizer`` to turn ids into text.
    """
    rows = task.splits[split]
    if task.kind == "encoder":
        return _classify_with_head(model, task, rows)
    if task.task == "classification":
        return _classify_by_likelihood(model, task, rows, by_head)
    return _generate(model, task, rows, metric, tokenizer, by_head)


def _classify_with_head(model: Any, task: EncodedTask, rows: Sequence[EncodedRow]) -> Evaluation:
    predicted = [0] * len(rows)
    loss = 0.0
    for batch in evaluation_order([len(row.prompt) for row in rows], _ROWS):
        ids, mask = pad([rows[i].prompt for i in batch], task.pad_id)
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits.float().cpu()
        truth = torch.tensor([rows[i].label for i in batch])
        loss += torch.nn.functional.cross_entropy(logits, truth, reduction="sum").item()
        for i, label in zip(batch, logits.argmax(-1).tolist(), strict=True):
            predicted[i] = label
    return _labelled(task, rows, predicted, loss / len(rows))


def _labelled(task: EncodedTask, rows: Sequence[EncodedRow], predicted: Sequence[int], loss: float) -> Evaluation:
    scores = tuple(float(label == row.label) for label, row in zip(predicted, rows, strict=True))
    return Evaluation(scores, loss, tuple(task.labels[label] for label in predicted))


class _LabelTrie:
    """What scoring one label says about the others: they share tokens from the start."""

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        longest = max(len(ids) for ids in labels)
        count = len(labels)
        self.lengths = torch.tensor([len(ids) for ids in labels])
        self.tokens = torch.zeros(count, longest, dtype=torch.long)
        for label, ids in enumerate(labels):
            self.tokens[label, : len(ids)] = torch.tensor(ids)
        inside = torch.arange(longest) < self.lengths[:, None]
        same = (self.tokens[:, None] == self.tokens[None]) & inside[:, None] & inside[None]
        # The common prefix, and one token more: scoring label a gives the distribution that b's next token is drawn
        # from.
        common = same.cumprod(-1).sum(-1)
        known = torch.minimum(common + 1, self.lengths[None].expand(count, count))
        self.is_known = torch.arange(longest) < known[:, :, None]  # (scored, other, position)
        self.is_exact = known == self.lengths[None]  # (scored, other)


def _classify_by_likelihood(model: Any, task: EncodedTask, rows: Sequence[EncodedRow], by_head: bool) -> Evaluation:
    """The exact argmax over all labels, without scoring all labels.

    A label's log-likelihood is a sum of non-positive terms, so what is known of its first tokens bounds it from
    above. The true label is scored first (its loss is wanted anyhow); then, row by row, the label with the highest
    bound, until no bound exceeds the best exact score. With 77 labels a trained model needs one to three passes
    instead of 77.
    """
    trie = _LabelTrie(task.label_ids)
    predicted = [0] * len(rows)
    total, tokens = 0.0, 0
    for batch in evaluation_order([len(row.prompt) for row in rows], _ROWS):
        truth = torch.tensor([rows[i].label for i in batch])
        bound = torch.zeros(len(batch), len(task.labels), dtype=torch.float64)
        exact = torch.zeros_like(bound, dtype=torch.bool)
        asked, label = torch.arange(len(batch)), truth
        while len(asked):
            chosen = label.tolist()
            few = [
                EncodedRow(rows[batch[row]].prompt, list(task.label_ids[c]))
                for row, c in zip(asked.tolist(), chosen, strict=True)
            ]
            known = _bounds(model, task, few, label, trie, by_head)
            bound[asked] = torch.minimum(bound[asked], known)
            exact[asked] |= trie.is_exact[label]
            best = bound.masked_fill(~exact, -torch.inf).max(-1).values
            open_bound, open_label = bound.masked_fill(exact, -torch.inf).max(-1)
            asked = (open_bound > best).nonzero().flatten()
            label = open_label[asked]
        total -= bound.gather(1, truth[:, None]).sum().item()
        tokens += int(trie.lengths[truth].sum())
        for i, best_label in zip(batch, bound.masked_fill(~exact, -torch.inf).argmax(-1).tolist(), strict=True):
            predicted[i] = best_label
    return _labelled(task, rows, predicted, total / tokens)


def _bounds(
    model: Any, task: EncodedTask, rows: list[EncodedRow], scored: Tensor, trie: _LabelTrie, by_head: bool
) -> Tensor:
    """Upper bounds (rows, labels) on log-likelihoods, from passing each row with its ``scored`` label (rows,)."""
    ids, positions, _ = completion_batch(rows, task.pad_id, model.device)
    log_p = logits_at(model, ids, positions, by_head=by_head).float().log_softmax(-1).cpu().double()
    longest = trie.tokens.shape[1]
    steps = torch.zeros(len(rows), longest, log_p.shape[-1], dtype=torch.float64)
    inside = torch.arange(longest) < trie.lengths[scored][:, None]
    steps[inside] = log_p
    # (rows, labels, position): log p of each label's token at each position, along the scored label's path
    each = steps.gather(2, trie.tokens.T[None].expand(len(rows), -1, -1)).transpose(1, 2)
    return each.masked_fill(~trie.is_known[scored], 0.0).sum(-1)


def _generate(
    model: Any, task: EncodedTask, rows: Sequence[EncodedRow], metric: str, tokenizer: Any, by_head: bool
) -> Evaluation:
    texts = [""] * len(rows)
    total, tokens = 0.0, 0
    for batch in evaluation_order([len(row.prompt) for row in rows], _ROWS):
        some = [rows[i] for i in batch]
        ids, positions, targets = completion_batch(some, task.pad_id, model.device)
        log_p = logits_at(model, ids, positions, by_head=by_head).float().log_softmax(-1)
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
            eos_token_id=task.eos_id,
        )
        for i, ids_out in zip(batch, out[:, prompt.shape[1] :].tolist(), strict=True):
            end = ids_out.index(task.eos_id) if task.eos_id in ids_out else len(ids_out)
            texts[i] = tokenizer.decode(ids_out[:end], skip_special_tokens=True).strip()
    scores = tuple(score(metric, text, row.references) for text, row in zip(texts, rows, strict=True))
    return Evaluation(scores, total / tokens, tuple(texts))

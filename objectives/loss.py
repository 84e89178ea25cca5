"""What a causal model is trained on: the likelihood of completions and, of labels, the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from objectives.batches import pad
from objectives.encoding import EncodedRow


@dataclass(frozen=True)
class _Parting:
    """A token of a label before which other labels part from it."""

    at: int  # index into the label's tokens
    candidates: Sequence[int]  # tokens that go on with some label from here
    own: int  # index into the candidates


class CompletionLoss:
    """Of the batches of one task, whose ``label_ids`` are prefix-free and empty if it has no labels.

    Most tokens of a label follow from those before: a model soon knows them, and has then learned nothing of the task.
    So for labels the objective is

        mean over completion tokens of  -log p(token) - label_weight log p(token | some label goes on)

    whose second term is zero but where labels part. Summed over a label it is -log p(label | one of the labels), with
    each choice made as constrained decoding makes it. To add such a term to the likelihood is what Liu et al.,
    "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning" (2022), do for a choice
    between whole answers, each of which costs them a pass; this one costs none.
    """

    def __init__(self, label_ids: Sequence[Sequence[int]], label_weight: float) -> None:
        self._partings = _partings(label_ids) if label_weight else []
        self._weight = label_weight

    def __call__(self, logits: Tensor, targets: Tensor, rows: Sequence[EncodedRow]) -> tuple[Tensor, Tensor]:
        """Objective and cross-entropy, each (slots,), from ``logits`` (slots * n, vocabulary), slot after slot.

        ``targets`` (n,) are the completion tokens of ``rows``, one row after the other. The cross-entropy is the mean
        of -log p(token), which is what validation has as loss.
        """
        logits = logits.float().view(-1, len(targets), logits.shape[-1])
        every = functional.cross_entropy(logits.mT, targets.expand(len(logits), -1), reduction="none")
        cross_entropy = every.mean(1)
        if not self._partings:
            return cross_entropy, cross_entropy
        at, partings, start = [], [], 0
        for row in rows:
            for parting in self._partings[row.label]:
                at.append(start + parting.at)
                partings.append(parting)
            start += len(row.completion)
        candidates, inside = (t.to(logits.device) for t in pad([parting.candidates for parting in partings], 0))
        own = torch.tensor([parting.own for parting in partings], device=logits.device)
        among = logits[:, at].gather(2, candidates.expand(len(logits), -1, -1))
        among = among.masked_fill(inside == 0, -torch.inf)
        choice = functional.cross_entropy(among.mT, own.expand(len(logits), -1), reduction="none")
        return cross_entropy + self._weight * choice.sum(1) / len(targets), cross_entropy


def _partings(labels: Sequence[Sequence[int]]) -> list[list[_Parting]]:
    """For each label the tokens at which there is a choice."""
    following: dict[tuple[int, ...], dict[int, int]] = {}  # behind a label's first tokens, each next token's index
    for ids in labels:
        for at, token in enumerate(ids):
            tokens = following.setdefault(tuple(ids[:at]), {})
            tokens.setdefault(token, len(tokens))
    candidates = {first: tuple(tokens) for first, tokens in following.items()}
    return [
        [
            _Parting(at, candidates[first], following[first][token])
            for at, token in enumerate(ids)
            if len(candidates[first := tuple(ids[:at])]) > 1
        ]
        for ids in labels
    ]

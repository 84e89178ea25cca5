"""The objective of training, against its definition written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectives.backbone import attach
from objectives.encoding import EncodedRow
from objectives.loss import CompletionLoss
from objectives.training import TrainingSettings, train
from tests.objectives.tiny import Zoo, all_groups, make_task

VOCABULARY = 5


@st.composite
def label_sets(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """At least two labels, of which none begins with another."""
    drawn = draw(st.lists(st.lists(st.integers(0, VOCABULARY - 2), max_size=4), min_size=2, unique_by=tuple))
    return [(*ids, VOCABULARY - 1) for ids in drawn]  # an end that occurs nowhere else


def written_out(logits: Tensor, labels: list[tuple[int, ...]], rows: list[EncodedRow]) -> tuple[float, float]:
    """Summed -log p(token), and summed -log p(token | some label goes on), of all rows."""
    likelihood, choice, at = 0.0, 0.0, 0
    for row in rows:
        for i, token in enumerate(row.completion):
            p = logits[at].softmax(0)
            allowed = {ids[i] for ids in labels if list(ids[:i]) == row.completion[:i] and len(ids) > i}
            likelihood -= p[token].log().item()
            choice -= (p[token] / p[sorted(allowed)].sum()).log().item()
            at += 1
    return likelihood, choice


@settings(max_examples=60)
@given(st.data(), label_sets(), st.integers(1, 3), st.floats(0, 9), st.integers(0, 2**31))
def test_it_is_the_likelihood_and_the_choice_among_labels(
    data: st.DataObject, labels: list[tuple[int, ...]], slots: int, weight: float, seed: int
) -> None:
    drawn = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1, max_size=5))
    rows = [EncodedRow([0], list(labels[label]), label) for label in drawn]
    targets = torch.tensor([token for row in rows for token in row.completion])
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(slots * len(targets), VOCABULARY, generator=generator)
    objective, cross_entropy = CompletionLoss(labels, weight)(logits, targets, rows)
    for slot, own in enumerate(logits.view(slots, len(targets), -1)):
        likelihood, choice = written_out(own, labels, rows)
        assert cross_entropy[slot].item() == pytest.approx(likelihood / len(targets), rel=1e-4, abs=1e-5)
        whole = (likelihood + weight * choice) / len(targets)
        assert objective[slot].item() == pytest.approx(whole, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("labels", "weight"), [([], 4.0), ([(1, 4), (2, 4)], 0.0)])
def test_without_labels_or_weight_it_is_the_likelihood_alone(labels: list[tuple[int, ...]], weight: float) -> None:
    rows = [EncodedRow([0], [1, 4], 0)]
    objective, cross_entropy = CompletionLoss(labels, weight)(torch.randn(2, 6), torch.tensor([1, 4]), rows)
    assert torch.equal(objective, cross_entropy)


def test_of_logits_in_half_precision_losses_are_in_single() -> None:
    labels, rows = [(1, 4), (2, 4)], [EncodedRow([0], [1, 4], 0)]
    logits = (3 * torch.randn(2, 6, generator=torch.Generator().manual_seed(0))).bfloat16()
    of_half, of_single = (
        CompletionLoss(labels, 4.0)(some, torch.tensor([1, 4]), rows) for some in (logits, logits.float())
    )
    assert all(torch.equal(half, single) for half, single in zip(of_half, of_single, strict=True))


def test_where_all_labels_go_on_alike_no_gradient_comes_from_the_choice() -> None:
    labels = [(1, 2, 3), (1, 2, 4)]
    logits = torch.randn(3, 6, requires_grad=True)
    rows = [EncodedRow([0], [1, 2, 3], 0)]
    objective, cross_entropy = CompletionLoss(labels, 1.0)(logits, torch.tensor([1, 2, 3]), rows)
    (gradient,) = torch.autograd.grad((objective - cross_entropy).sum(), logits)
    assert gradient[:2].abs().max() == 0
    assert gradient[2].nonzero().flatten().tolist() == [3, 4]


def trained(zoo: Zoo, task: Any, weight: float) -> list[tuple[int, float]]:
    space = zoo.space("llama")
    model = attach(zoo.base("llama"), space, all_groups(space), seed=0).get_base_model()
    return train(model, task, TrainingSettings(steps=20, batch_size=4, learning_rate=1e-2, label_weight=weight)).losses


def test_it_decides_how_labels_are_learned_and_nothing_else(zoo: Zoo) -> None:
    labelled, generated = make_task(zoo, "llama"), make_task(zoo, "llama", "generation")
    assert trained(zoo, labelled, 4.0) != trained(zoo, labelled, 0.0)
    assert trained(zoo, generated, 4.0) == trained(zoo, generated, 0.0)

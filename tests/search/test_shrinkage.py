"""Estimates of accuracy beyond luck, where the truth is known because it was made up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from objectives.latency.paired import Ratio
from objectives.placement import Placement
from search.recommend import Candidate, recommend
from search.shrinkage import estimates

GROUPS = "qkvogud"
ROWS = 400


def made(seed: int, scatter: float = 0.0) -> tuple[list[Placement], np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """40 placements: true and measured accuracy, its standard error, and the loss, of which accuracy is a line."""
    random = np.random.default_rng(seed)
    subsets = [s for n in range(1, 8) for s in itertools.combinations(GROUPS, n)]
    placements = [Placement.of(subsets[i], 8) for i in random.choice(len(subsets), 40, replace=False)]
    weights = dict(zip(GROUPS, random.uniform(0.0, 0.06, 7), strict=True))
    ease = np.array([sum(weights[g] for g in p.groups) for p in placements])
    truth = 0.5 + ease + scatter * random.standard_normal(40)
    measured = random.binomial(ROWS, truth) / ROWS
    loss = 1.5 - 2 * ease + 0.01 * random.standard_normal(40)
    return placements, truth, measured, np.sqrt(measured * (1 - measured) / ROWS), loss


def test_estimates_are_nearer_the_truth_than_counts() -> None:
    gains, within = [], []
    for seed in range(20):
        placements, truth, measured, error, loss = made(seed)
        found = estimates(placements, measured, error, loss)
        assert found is not None
        near = found[0] != measured
        assert near.sum() >= 8
        gains.append(np.square(found[0] - truth)[near].mean() / np.square(measured - truth)[near].mean())
        within.append(np.mean((np.abs(found[0] - truth) < 1.96 * found[1])[near]))
    assert max(gains) < 1.0
    assert np.median(gains) < 0.3
    assert np.mean(within) > 0.9


def test_where_losses_say_little_a_trial_keeps_its_own_figure() -> None:
    """Placements' own accuracies are far off the line: the line must not drag them onto it."""
    for seed in range(5):
        placements, truth, measured, error, loss = made(seed, scatter=0.08)
        found = estimates(placements, measured, error, loss)
        assert found is not None
        assert np.square(found[0] - truth).mean() < 1.3 * np.square(measured - truth).mean()


def test_a_training_that_went_better_than_its_groups_say_is_believed_to_have() -> None:
    """What makes it better makes its loss lower too, so that estimates are nearer the truth than without that loss."""
    ratios = []
    for seed in range(20):
        placements, truth, measured, error, loss = made(seed, scatter=0.03)
        ease = 0.5 - truth  # with the luck of each training
        found = [estimates(placements, measured, error, each) for each in (1.5 + 2 * ease, loss)]
        assert found[0] is not None
        assert found[1] is not None
        with_luck, without = (np.square(each[0] - truth).mean() for each in found if each)
        ratios.append(with_luck / without)
    assert np.median(ratios) < 0.8


def test_figures_too_far_behind_to_be_recommended_stay() -> None:
    placements, _, measured, error, loss = made(0)
    measured[:5] = 0.05
    near = measured > 0.6
    found = estimates(placements, measured, error, loss)
    assert found is not None
    assert (found[0][:5] == 0.05).all()
    assert (found[1][:5] == error[:5]).all()
    assert (found[0][near] != measured[near]).all()


@pytest.mark.parametrize("spoil", ["few", "no loss", "equal losses", "certain"])
def test_there_are_none_where_nothing_can_be_learned(spoil: str) -> None:
    placements, _, measured, error, loss = made(0)
    if spoil == "few":
        placements, measured, error, loss = placements[:7], measured[:7], error[:7], loss[:7]
    elif spoil == "no loss":
        loss[3] = np.nan
    elif spoil == "equal losses":
        loss[:] = 1.0
    else:
        error[:] = 0.0
    assert estimates(placements, measured, error, loss) is None


def test_the_luckiest_is_not_what_others_are_measured_by() -> None:
    """One placement counted far more right answers than its loss and its neighbours explain."""
    placements, _, measured, error, loss = made(3)
    order = np.argsort(-measured)
    lucky = int(order[10])
    measured[lucky] = measured.max() + 0.03
    rows = zip(placements, measured, error, loss, strict=True)
    ratios = [1.0 + 0.1 * len(placement.groups) for placement in placements]
    candidates = [
        Candidate(i, p, float(a), float(e), Ratio.exact(r), float(v))
        for i, ((p, a, e, v), r) in enumerate(zip(rows, ratios, strict=True))
    ]
    chosen = recommend(candidates, 0.1, "accuracy", "tpot")
    assert chosen is not None
    assert "expected accuracy" in chosen.why
    assert f"best expected accuracy: {measured[lucky]:.3f}" not in chosen.why

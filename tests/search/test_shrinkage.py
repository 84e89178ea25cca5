"""Estimates of accuracy beyond luck, where the truth is known because it was made up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from objectives.latency.paired import Ratio
from objectives.placement import Placement
from search.recommend import Candidate, recommend
from search.shrinkage import estimates
from search.strategy.linear import LinearPosterior, features

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


def candidates(
    placements: list[Placement], measured: np.ndarray, error: np.ndarray, loss: np.ndarray, ratios: list[Ratio]
) -> list[Candidate]:
    rows = zip(placements, measured.tolist(), error.tolist(), ratios, loss.tolist(), strict=True)
    return [Candidate(number, *row) for number, row in enumerate(rows)]


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
    ratios = [Ratio.exact(1.0 + 0.1 * len(placement.groups)) for placement in placements]
    chosen = recommend(candidates(placements, measured, error, loss, ratios), 0.1, "accuracy", "tpot")
    assert chosen is not None
    assert "expected accuracy" in chosen.why
    assert f"{measured[lucky]:.3f}" not in chosen.why


def test_the_reason_speaks_of_the_front_alone() -> None:
    """Estimates choose among its members, which measured figures made; the highest estimate may be off the front."""
    placements, _, measured, error, loss = made(3)
    best, lucky = np.argsort(loss)[:2]
    measured[[best, lucky]] = measured.max() + np.array([0.010, 0.015])
    ratios = [Ratio.exact(2.0)] * 40
    found = estimates(placements, measured, error, loss)
    assert found is not None
    assert found[0].argmax() == best
    chosen = recommend(candidates(placements, measured, error, loss, ratios), 0.1, "accuracy", "tpot")
    assert chosen is not None
    assert chosen.why.startswith(
        f"{placements[lucky].label} has the front's highest expected accuracy ({found[0][lucky]:.3f}), and no faster "
        "placement of the front comes"
    )


def test_what_is_slower_than_the_best_by_estimates_is_no_choice() -> None:
    """Luckier, it is on the front; and as vague as its latency is, it may be as fast as the fastest."""
    placements, _, measured, error, loss = made(3)
    best, fast, lucky = np.argsort(loss)[:3]
    measured[[fast, best, lucky]] = measured.max() + np.array([0.010, 0.015, 0.020])
    ratios = [Ratio.exact(2.0)] * 40
    ratios[fast], ratios[best], ratios[lucky] = Ratio.exact(1.2), Ratio.exact(1.3), Ratio(1.4, 0.4, 2.4)
    found = estimates(placements, measured, error, loss)
    assert found is not None
    assert found[0][best] > found[0][lucky] > found[0][fast] > found[0][best] - found[1][best]
    chosen = recommend(candidates(placements, measured, error, loss, ratios), 0.1, "accuracy", "tpot")
    assert chosen is not None
    assert chosen.trial == fast
    assert "whose lower latency" not in chosen.why


def posterior(line: np.ndarray, own: np.ndarray, noise: np.ndarray, own_loss: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of what ``own`` figures are of, with their whole covariance for each scatter."""
    free = 1e3
    found = []
    for scatter in np.append(0.0, np.geomspace(0.1, 10.0, 15)) * np.sqrt(np.median(noise)):
        prior = line @ np.diag([free**2, free**2, own_loss**2]) @ line.T + scatter**2 * np.eye(len(own))
        gain = np.linalg.solve(prior + np.diag(noise), prior).T
        likelihood = -0.5 * (
            np.linalg.slogdet(prior + np.diag(noise))[1] + own @ np.linalg.solve(prior + np.diag(noise), own)
        )
        found.append((likelihood, gain @ own, (prior - gain @ prior).diagonal()))
    likelihoods, means, variances = map(np.array, zip(*found, strict=True))
    chance = np.exp(likelihoods - likelihoods.max())
    chance /= chance.sum()
    mean = chance @ means
    return mean, np.sqrt(chance @ (variances + means**2) - mean**2)


@pytest.mark.parametrize("scatter", [0.0, 0.03])
def test_estimates_are_those_of_the_whole_covariance(scatter: float) -> None:
    """Of the joint normal distribution of line, scatter and counts, which is averaged over how large the scatter is."""
    for seed in range(5):
        placements, _, measured, error, loss = made(seed, scatter)
        found = estimates(placements, measured, error, loss)
        assert found is not None
        near = found[1] != error
        rows = features(placements, sorted(GROUPS))
        explained = LinearPosterior(rows, -1 / loss).expected(rows)
        line = np.column_stack([np.ones(40), explained, -1 / loss - explained])[near]
        line[:, 1:] = (line - line.mean(0))[:, 1:] / line[:, 1].std()
        mean, deviation = posterior(line, measured[near], error[near] ** 2, 0.5 * measured[near].std())
        assert found[0][near] == pytest.approx(mean, abs=1e-5)
        assert found[1][near] == pytest.approx(deviation, rel=1e-3)


def test_at_least_the_best_eight_have_estimates_however_far_behind_they_are() -> None:
    placements, _, measured, error, loss = made(0)
    order = np.argsort(-measured)
    measured[order[1:]] -= 0.3  # over six standard errors behind the best
    found = estimates(placements, measured, error, loss)
    assert found is not None
    assert set(np.flatnonzero(found[1] != error)) == set(np.flatnonzero(measured >= measured[order[7]]))

"""What losses at several levels tell of the last one."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from search.strategy.belief import Observation, believe
from search.strategy.curves import _CORRELATIONS, _DEVIATIONS, _SPREADS, CurvePosterior, _standard
from search.strategy.linear import features
from search.strategy.space import PlacementSpace

GROUPS = tuple("abcdefg")
PLACEMENTS = list(PlacementSpace(GROUPS, (8,)))


@pytest.mark.parametrize("ended", [1, 2, 3])
def test_the_first_trainings_that_end_do_not_drown_what_early_losses_tell(ended: int) -> None:
    """Differences are often ten times as large at the end as at the first level."""
    random = np.random.default_rng(0)
    worth = np.array([0.4, 0.1, 0.8, 0.5, 0.2, 0.6, 0.3])
    true = np.array([worth[[group in placement.groups for group in GROUPS]].sum() for placement in PLACEMENTS])
    begun = random.choice(len(PLACEMENTS), 9, replace=False)
    seen = []
    for place, index in enumerate(begun):
        early = tuple(-1 - scale * (true[index] + 0.1 * random.standard_normal()) for scale in (0.1, 0.3, 0.6))
        course = (*early, -2 - true[index]) if place < ended else early[:1]
        accuracy = 0.5 + 0.1 * true[index] if place < ended else None
        seen.append(Observation(PLACEMENTS[index], 1.0 + 0.1 * len(PLACEMENTS[index].groups), course, accuracy))
    belief = believe(seen, PLACEMENTS, GROUPS, 4, random)
    assert np.corrcoef(belief.accuracy, true)[0, 1] > 0.85


def test_rounding_does_not_choose_what_is_believed() -> None:
    """While no trial went on, the evidence for how much early losses tell is the same whatever they are."""
    rows = features(PLACEMENTS, GROUPS)
    unknown = np.full(len(rows), -1)
    for seed in range(20):
        random = np.random.default_rng(seed)
        begun = random.choice(len(rows), 9, replace=False)
        losses = np.full((9, 4), np.nan)
        losses[:, 0] = rows[begun, 4:] @ random.uniform(0.1, 0.8, 7) + 0.1 * random.standard_normal(9)
        drawn, thrice = (
            CurvePosterior(rows[begun], values).draws(rows, unknown, 20, np.random.default_rng(0))
            for values in (losses, 3 * losses)
        )
        np.testing.assert_allclose(3 * drawn, thrice, rtol=1e-6)


def courses(seed: int, misleading: float, reached: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of all placements, which were begun, and the courses of these, so many of which ``reached`` a level."""
    random = np.random.default_rng(seed)
    rows = features(PLACEMENTS, GROUPS)
    begun = random.choice(len(rows), 24, replace=False)
    final = rows[begun, 4:] @ random.uniform(0.1, 0.8, 7) + 0.2 * random.standard_normal(24)
    gaps = misleading * random.standard_normal((24, 3)).cumsum(axis=1)[:, ::-1]
    early = np.array([0.3, 0.5, 0.8]) * (final[:, None] + gaps)
    losses = np.column_stack([early, final]) + 0.05 * random.standard_normal((24, 4))
    for level, last in enumerate(reached):
        losses[last:, level:] = np.nan
    return rows, begun, losses


@pytest.mark.parametrize(
    ("misleading", "reached"),
    [(0.0, [24, 12, 6, 4]), (0.3, [24, 12, 6, 4]), (2.0, [24, 12, 6, 4]), (0.3, [24, 0, 0, 0])],
    ids=["early losses tell", "tell a little", "mislead", "none went on"],
)
def test_what_is_drawn_is_what_the_whole_covariance_of_losses_says(misleading: float, reached: list[int]) -> None:
    """Of all losses at all levels and the final ones in question at once, by the likeliest of the scales."""
    rows, begun, losses = courses(1, misleading, reached)
    centre, scale = _standard(losses)
    trial, level = np.nonzero(~np.isnan(losses))
    seen = ((losses - centre) / scale)[trial, level]
    about = np.arange(len(rows))
    # A placement's own deviation is its alone; what is asked of is every placement's last level.
    placement, at = np.append(begun[trial], about), np.append(level, np.full(len(about), 3))
    best: Any = (-np.inf,)
    for spread, deviation, correlation in product(_SPREADS, _DEVIATIONS, _CORRELATIONS):
        between = correlation ** np.abs(np.subtract.outer(at, at))
        variances = np.array([100 + spread**2, *[spread**2] * (rows.shape[1] - 1)])
        same = np.equal.outer(placement, placement)
        prior = between * ((rows * variances)[placement] @ rows[placement].T + deviation**2 * same)
        known = prior[: len(seen), : len(seen)] + np.eye(len(seen))
        evidence = stats.multivariate_t.logpdf(seen, np.zeros(len(seen)), 0.05 * known, df=2)
        evidence += np.log(_CORRELATIONS[correlation])
        if evidence > best[0]:
            best = evidence, prior, known
    _, prior, known = best
    noise = (0.05 + seen @ np.linalg.solve(known, seen) / 2) / (1 + len(seen) / 2)
    gain = np.linalg.solve(known, prior[: len(seen), len(seen) :]).T
    mean = centre[-1] + scale[-1] * gain @ seen
    covariance = scale[-1] ** 2 * noise * (prior[len(seen) :, len(seen) :] - gain @ prior[: len(seen), len(seen) :])

    index = np.full(len(rows), -1)
    index[begun] = np.arange(len(begun))
    posterior = CurvePosterior(rows[begun], losses)
    without_luck: Any = SimpleNamespace(standard_normal=np.zeros)
    assert posterior.draws(rows, index, 1, without_luck)[0] == pytest.approx(mean, abs=1e-6)
    drawn = posterior.draws(rows, index, 4000, np.random.default_rng(0))
    assert drawn.std(0) == pytest.approx(np.sqrt(covariance.diagonal()), rel=0.06)
    together = np.abs(np.cov(drawn.T) - covariance).max()
    assert together < 0.08 * covariance.diagonal().max(), "that two were over- or underrated is not independent"


def test_levels_are_related_by_the_trials_that_have_seen_both() -> None:
    """Those that went on are the better ones. One tells nothing of the spread, two as much as what is expected."""
    nan = np.nan
    centre, scale = _standard(np.array([[1.0, 5.0, 7.0, nan], [3.0, 9.0, nan, nan], [5.0, nan, nan, nan]]))
    first = np.std([1.0, 3.0, 5.0])
    ratio = 2.3 * (2.0 / 2.3) ** 0.5
    assert scale == pytest.approx(first * np.array([1.0, ratio, ratio * 2.3, ratio * 2.3**2]))
    second = 7.0 + ratio * (3.0 - 2.0)
    assert centre == pytest.approx([3.0, second, 7.0 + 2.3 * (second - 5.0), 7.0 + 2.3 * (second - 5.0)])

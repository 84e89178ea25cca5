"""Bayesian linear regression against plain fits, and against the distribution of the values themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from objectives.placement import Placement
from search.strategy.linear import SPREADS, Fit, LinearPosterior, features, fit
from search.strategy.space import PlacementSpace

GROUPS = ("down", "gate", "k", "o", "q", "up", "v")
SPACE = PlacementSpace(GROUPS, (4, 8))


def inverse(found: Fit) -> np.ndarray:
    return np.linalg.inv(found.precision_root @ found.precision_root.T)


def test_features_tell_all_placements_apart() -> None:
    rows = features(list(SPACE), GROUPS)
    assert rows.shape == (SPACE.size, 4 + len(GROUPS))
    assert len(np.unique(rows, axis=0)) == SPACE.size
    assert np.all(rows[:, 0] == 1)


def test_features_by_hand() -> None:
    """At rank 8 the rank says nothing, and four groups count as two."""
    rows = features([Placement.of(["k", "o", "q", "v"], 32), Placement.of(["up"], 8)], GROUPS)
    assert rows.tolist() == [[1, 2, 2, 4, 0, 0, 1, 1, 1, 0, 1], [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0]]


@pytest.mark.parametrize("count", [2, 6, 20], ids=["fewer values than weights", "about as many", "more"])
def test_evidence_and_weights_are_those_of_the_values_covariance(count: int) -> None:
    """With the noise integrated out values have a t distribution, whose prior has two degrees of freedom."""
    random = np.random.default_rng(count)
    rows = np.column_stack([np.ones(count), random.normal(size=(count, 5))])
    values = rows @ random.normal(size=6) + random.normal(size=count)
    gaps = []
    for spread in SPREADS:
        found = fit(rows, values, spread)
        prior = np.diag([1e4, *[spread**2] * 5])
        covariance = rows @ prior @ rows.T + np.eye(count)
        gaps.append(found.log_evidence - stats.multivariate_t.logpdf(values, np.zeros(count), 0.05 * covariance, df=2))
        assert found.mean == pytest.approx(prior @ rows.T @ np.linalg.solve(covariance, values), rel=1e-6, abs=1e-6)
        left = prior - prior @ rows.T @ np.linalg.solve(covariance, rows @ prior)
        assert inverse(found) == pytest.approx(left, rel=1e-5, abs=1e-7)
        assert (found.shape, found.rate) == pytest.approx(
            (1 + count / 2, 0.05 + values @ np.linalg.solve(covariance, values) / 2), rel=1e-6
        )
    assert gaps == pytest.approx([gaps[0]] * len(gaps), abs=1e-6), "up to one constant"


def test_the_posterior_is_that_of_the_likeliest_spread_in_the_units_of_the_values() -> None:
    random = np.random.default_rng(0)
    rows = np.column_stack([np.ones(12), random.normal(size=(12, 3))])
    values = 0.7 + 0.01 * (rows[:, 1] - rows[:, 2] + 0.3 * random.normal(size=12))
    found = LinearPosterior(rows, values)
    fits = [fit(rows, (values - values.mean()) / values.std(), spread) for spread in SPREADS]
    best = max(fits, key=lambda each: each.log_evidence)
    assert best is not fits[0] and best is not fits[-1], "neither the smallest nor the largest spread"
    assert found.log_evidence == best.log_evidence
    assert found.expected(rows) == pytest.approx(values.mean() + values.std() * rows @ best.mean)
    assert found.covariance == pytest.approx(inverse(best))
    assert np.abs(found.expected(rows) - values).max() < 0.01


@given(st.integers(0, 1000), st.integers(5, 30))
@settings(max_examples=30)
def test_left_out_predictions_are_those_of_a_fit_without_the_row(seed: int, count: int) -> None:
    """For the scales that the whole fit chose."""
    random = np.random.default_rng(seed)
    rows = np.column_stack([np.ones(count), random.normal(size=(count, 3))])
    values = rows @ random.normal(size=4) + random.normal(size=count)
    fit = LinearPosterior(rows, values)
    precision = np.linalg.inv(fit.covariance)
    scaled = (values - values.mean()) / values.std()
    for i, got in enumerate(fit.left_out(rows, values)):
        without = precision - np.outer(rows[i], rows[i])
        weights = np.linalg.solve(without, rows.T @ scaled - rows[i] * scaled[i])
        assert got == pytest.approx(values.mean() + values.std() * float(rows[i] @ weights), abs=1e-6)

"""Bayesian linear regression against plain fits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.strategy.linear import LinearPosterior, features
from search.strategy.space import PlacementSpace

GROUPS = ("down", "gate", "k", "o", "q", "up", "v")
SPACE = PlacementSpace(GROUPS, (4, 8))


def test_features_tell_all_placements_apart() -> None:
    rows = features(list(SPACE), GROUPS)
    assert rows.shape == (SPACE.size, 4 + len(GROUPS))
    assert len(np.unique(rows, axis=0)) == SPACE.size
    assert np.all(rows[:, 0] == 1)


@given(st.integers(0, 1000), st.integers(5, 30))
@settings(max_examples=30, deadline=None)
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

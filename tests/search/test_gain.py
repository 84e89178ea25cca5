"""The gain of a placement against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.pareto import area, hypervolume
from search.strategy.gain import gains


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_the_gain_is_that_of_the_hypervolume(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 12))
    heights, speeds = random.random((3, count)).round(1), random.random(count).round(1)  # with ties
    held = random.random(count) < 0.5
    gain = gains(heights, speeds, held)
    for drawn, found in zip(heights, gain, strict=True):
        known = area(zip(drawn[held], speeds[held], strict=True))
        for i in range(count):
            with_it = area([*zip(drawn[held], speeds[held], strict=True), (drawn[i], speeds[i])])
            assert found[i] == pytest.approx(0.0 if held[i] else with_it - known, abs=1e-12)
    points = [(float(height), 1 / float(speed)) for height, speed in zip(heights[0], speeds, strict=True) if speed]
    assert area(zip(heights[0], speeds, strict=True)) == pytest.approx(hypervolume(points), abs=1e-12)

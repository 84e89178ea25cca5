"""The gain of a placement against brute force, and the axes that it is a share of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.pareto import area, hypervolume
from search.strategy.gain import Belief, axes, gains


@given(st.integers(0, 10_000))
@settings(max_examples=50)
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


def test_axes_run_from_a_tenth_to_one_and_a_tenth_over_what_is_expected() -> None:
    """So both ends of the front count, and single draws may lie beyond them."""
    heights, speeds = axes(Belief(np.array([[0.4, 0.5, 0.9], [0.6, 0.7, 0.7]]), np.array([1.0, 1.2, 2.0])))
    assert heights == pytest.approx(np.array([[-0.233, 0.1, 1.433], [0.433, 0.767, 0.767]]), abs=1e-3)
    assert heights.mean(0) == pytest.approx([0.1, 0.433, 1.1], abs=1e-3)
    assert speeds == pytest.approx([1.1, 0.9, 0.1])


@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-10, 10))
@settings(max_examples=20)
def test_axes_have_no_units(seed: int, unit: float, level: float) -> None:
    random = np.random.default_rng(seed)
    draws, ratio = random.random((5, 4)), 1 + random.random(4)
    plain, moved = axes(Belief(draws, ratio)), axes(Belief(level + unit * draws, unit * ratio))
    for one, other in zip(plain, moved, strict=True):
        assert other == pytest.approx(one, abs=1e-9)


def test_where_all_are_alike_none_lies_on_the_reference_point() -> None:
    heights, speeds = axes(Belief(np.full((2, 3), 0.5), np.full(3, 1.2)))
    assert heights.tolist() == [[0.1] * 3] * 2
    assert speeds.tolist() == [0.1] * 3


def test_what_is_drawn_below_the_reference_point_adds_nothing() -> None:
    heights, speeds = np.array([[-0.5, -0.2, 0.3], [0.2, -0.2, -0.3]]), np.array([1.0, 0.8, 0.4])
    assert gains(heights, speeds, np.array([True, False, False])) == pytest.approx(np.array([[0, 0, 0.12], [0, 0, 0]]))
    assert gains(heights, speeds, np.zeros(3, bool)) == pytest.approx(np.array([[0, 0, 0.12], [0.2, 0, 0]]))

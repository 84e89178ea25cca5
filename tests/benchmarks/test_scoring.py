"""Scores are shares of the exhaustive front's, on the true figures, and grow with what was tried."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.runs import Run
from benchmarks.scoring import Yardstick, quartiles
from objectives.placement import Placement
from objectives.tabular import Table
from search.pareto import Point, area, front

levels = st.integers(0, 8).map(lambda count: count / 8)
points = st.lists(st.tuples(levels, levels), max_size=8)
#: In steps of 0.0001: accuracies count rows, and between two that a float cannot tell apart there is no area.
truths = st.lists(
    st.tuples(st.integers(1_000, 9_000).map(lambda n: n / 1e4), st.integers(9_000, 25_000).map(lambda n: n / 1e4)),
    min_size=2,
    max_size=10,
    unique_by=(lambda p: p[0], lambda p: p[1]),
)


def yardstick(truth: list[Point]) -> tuple[Yardstick, list[Placement]]:
    placements = [Placement.of([f"group{i}"], 8) for i in range(len(truth))]
    return Yardstick(dict(zip(placements, truth, strict=True)), steps=100, validation_rows=400), placements


@given(points)
def test_the_area_is_that_of_the_cells_below_any_point(given_points: list[Point]) -> None:
    cells = [(i / 8, j / 8) for i in range(8) for j in range(8)]
    below = sum(any(x > i and y > j for x, y in given_points) for i, j in cells)
    assert area(given_points) == pytest.approx(below / 64)


@given(truths, st.data())
def test_a_share_grows_with_what_was_tried_and_the_front_is_the_whole(truth: list[Point], data: st.DataObject) -> None:
    yard, placements = yardstick(truth)
    order = data.draw(st.permutations(placements))
    shares = [yard.share(order[:count]) for count in range(len(order) + 1)]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, pytest.approx(1.0))
    assert yard.front == {placements[i] for i in front(truth)}
    assert yard.share(yard.front) == pytest.approx(1.0)
    assert yard.found(placements) == 1.0


@given(truths)
def test_every_front_member_counts_with_ratios_of_one_or_more(truth: list[Point]) -> None:
    """Also the slowest and the least accurate one, for which the reference point lies beyond them."""
    yard, placements = yardstick([(accuracy, 1 + ratio) for accuracy, ratio in truth])
    for member in yard.front:
        assert yard.share(yard.front - {member}) < 1
    assert yard.share(placements[:1]) > 0


@given(truths, st.floats(0.5, 2), st.floats(0, 0.05))
def test_a_share_does_not_depend_on_the_scale_of_accuracy(truth: list[Point], factor: float, shift: float) -> None:
    one, placements = yardstick(truth)
    other, _ = yardstick([(accuracy * factor / 2 + shift, ratio) for accuracy, ratio in truth])
    assert one.share(placements[:2]) == pytest.approx(other.share(placements[:2]))


def test_the_best_to_recommend_is_the_fastest_within_one_true_standard_error() -> None:
    yard, (cheap, enough, best, beaten) = yardstick([(0.70, 1.1), (0.79, 1.3), (0.80, 1.6), (0.75, 1.7)])
    assert yard.standard_error(best) == pytest.approx(0.02)
    assert yard.best == enough
    score = yard.score(Run(((100, beaten), (250, best), (2600, cheap)), best, 2600))
    assert (score.regret, score.extra_ratio, score.within) == (pytest.approx(-0.01), pytest.approx(0.3), True)
    score = yard.score(Run(((100, beaten), (250, best), (2600, cheap)), cheap, 2600))
    assert (score.regret, score.extra_ratio, score.within) == (pytest.approx(0.09), pytest.approx(-0.2), False)
    assert (score.early_members, score.members) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert score.early_share == score.curve[1][1] == score.share_at(2599) < score.share_at(2600) == score.curve[2][1]
    assert score.share_at(99) == 0.0


def test_steps_to_a_share_are_those_spent_when_it_was_reached() -> None:
    yard, (cheap, best, _) = yardstick([(0.5, 1.1), (0.8, 1.6), (0.4, 1.8)])
    score = yard.score(Run(((40, cheap), (350, best)), best, 350))
    assert (score.steps_to_95, score.steps_to_99) == (350, 350)
    # Over (-0.1, -0.1): 0.975 x 0.35 of the cheap one, 0.35 x 1.1 of the best, and 0.35 x 0.35 in both.
    assert score.curve == ((40, pytest.approx(0.34125 / 0.60375)), (350, pytest.approx(1)))
    score = yard.score(Run(((40, cheap),), cheap, 40))
    assert (score.steps_to_95, score.steps_to_99) == (None, None)


def test_what_is_faster_than_the_base_model_is_as_fast() -> None:
    (one, chosen), (other, _) = (yardstick([(0.5, ratio), (0.8, 1.6), (0.6, 1.3)]) for ratio in (0.95, 1.0))
    assert [one.share([each]) for each in chosen] == pytest.approx([other.share([each]) for each in chosen])


def test_what_ends_with_the_last_early_step_is_early() -> None:
    yard, (cheap, best) = yardstick([(0.5, 1.1), (0.8, 1.6)])
    assert yard.score(Run(((2400, cheap), (2401, best)), best, 2401)).early_members == 0.5


@given(st.lists(st.integers(0, 9) | st.just(math.inf), min_size=1, max_size=30))
def test_quartiles_are_values_with_a_quarter_of_all_on_either_side(values: list[float]) -> None:
    low, middle, high = quartiles(values)
    assert low <= middle <= high
    for share, value in ((0.25, low), (0.5, middle), (0.75, high)):
        assert value in values
        assert sum(other <= value for other in values) >= share * len(values) > sum(other < value for other in values)


def test_a_table_is_judged_by_all_its_seeds_and_splits(table: Table) -> None:
    yard = Yardstick.of(table)
    assert yard.best in yard.front
    top = max(table.placements, key=table.truth)
    error = math.sqrt(table.truth(top) * (1 - table.truth(top)) / 500)
    enough = [placement for placement in table.placements if table.truth(placement) >= table.truth(top) - error]
    assert table.ratio(yard.best) == min(table.ratio(placement) for placement in enough)

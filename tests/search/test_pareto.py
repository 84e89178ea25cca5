"""Fronts, areas and knees against their definitions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pareto import Point, front, hypervolume, knee

#: A coarse grid makes ties and repeats common.
COARSE = st.lists(
    st.tuples(st.integers(0, 8).map(lambda n: n / 8), st.integers(8, 16).map(lambda n: n / 8)), max_size=12
)
FINE = st.lists(st.tuples(st.floats(0, 1), st.floats(0.5, 10)), max_size=30)
POINTS = COARSE | FINE


def beats(a: Point, b: Point) -> bool:
    return a[0] >= b[0] and a[1] <= b[1] and a != b


@given(POINTS)
def test_the_front_is_what_no_other_point_beats(points: list[Point]) -> None:
    members = front(points)
    unbeaten = {p for p in points if not any(beats(q, p) for q in points)}
    assert {points[i] for i in members} == unbeaten
    assert len(members) == len(unbeaten), "of equal points one"
    assert all(points.index(points[i]) == i for i in members), "the first"


@given(POINTS)
def test_the_front_runs_from_cheap_to_accurate(points: list[Point]) -> None:
    members = [points[i] for i in front(points)]
    assert members == sorted(members, key=lambda p: p[1])
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(members))


@given(POINTS, st.randoms())
def test_the_order_of_points_does_not_matter(points: list[Point], random: object) -> None:
    shuffled = list(points)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [points[i] for i in front(points)] == [shuffled[i] for i in front(shuffled)]
    assert hypervolume(points) == hypervolume(shuffled), "to the last digit"
    bend, other = knee(points), knee(shuffled)
    assert (None if bend is None else points[bend]) == (None if other is None else shuffled[other])


@given(POINTS)
def test_front_and_knee_of_the_front_are_those_of_all_points(points: list[Point]) -> None:
    members = [points[i] for i in front(points)]
    assert front(members) == list(range(len(members)))
    assert hypervolume(members) == pytest.approx(hypervolume(points), abs=1e-12)
    bend = knee(points)
    assert (bend is None) == (not points)
    assert bend is None or points[bend] in members


def test_no_points_have_no_front() -> None:
    assert front([]) == []
    assert hypervolume([]) == 0.0
    assert knee([]) is None


def covered(points: list[Point]) -> float:
    """The dominated area as the sum of the cells of the grid that the points' own coordinates make."""
    boxes = [(accuracy, 1 / max(ratio, 1.0)) for accuracy, ratio in points]
    across = sorted({0.0, *(a for a, _ in boxes)})
    along = sorted({0.0, *(s for _, s in boxes)})
    return sum(
        (a2 - a1) * (s2 - s1)
        for a1, a2 in itertools.pairwise(across)
        for s1, s2 in itertools.pairwise(along)
        if any(a >= a2 and s >= s2 for a, s in boxes)
    )


@given(POINTS)
def test_the_hypervolume_is_the_dominated_area(points: list[Point]) -> None:
    area = hypervolume(points)
    assert area == pytest.approx(covered(points), abs=1e-12)
    assert 0 <= area <= 1


@given(POINTS, st.tuples(st.floats(0, 1), st.floats(0.5, 10)))
def test_one_point_more_never_shrinks_the_area_and_grows_it_only_on_the_front(
    points: list[Point], point: Point
) -> None:
    before, after = hypervolume(points), hypervolume([*points, point])
    assert after >= before - 1e-12
    if any(beats(p, point) or p == point for p in points):
        assert after == pytest.approx(before, abs=1e-12)


def test_the_hypervolume_by_hand() -> None:
    assert hypervolume([(1.0, 1.0)]) == 1.0
    assert hypervolume([(0.5, 2.0)]) == 0.25
    assert hypervolume([(0.5, 1.0), (1.0, 2.0)]) == 0.5 * 1.0 + 0.5 * 0.5
    assert hypervolume([(0.8, 0.97)]) == 0.8, "faster than the base model is noise"
    assert hypervolume([(0.0, 1.0)]) == 0.0


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.5, 1.2)], (0.5, 1.2)),
        ([(0.5, 1.1), (0.7, 1.2)], (0.7, 1.2)),  # no inside: the most accurate
        ([(0.2, 1.0), (0.8, 1.1), (0.9, 2.0)], (0.8, 1.1)),  # steep, then flat
        ([(0.2, 1.0), (0.3, 1.1), (0.6, 1.2), (0.85, 1.3), (0.9, 2.0)], (0.85, 1.3)),
        ([(0.2, 1.0), (0.8, 1.1), (0.9, 2.0), (0.1, 3.0), (0.8, 1.5)], (0.8, 1.1)),  # beaten points do not count
        ([(0.0, 1.0), (0.1, 1.9), (1.0, 2.0)], (0.0, 1.0)),  # below its chord throughout: an end is nearest
    ],
)
def test_the_knee_of_known_shapes(points: list[Point], expected: Point) -> None:
    bend = knee(points)
    assert bend is not None
    assert points[bend] == expected


@given(COARSE.filter(lambda points: len(front(points)) > 2), st.sampled_from([0.25, 0.5]), st.sampled_from([0.5, 2, 4]))
def test_the_knee_does_not_depend_on_units(points: list[Point], narrower: float, slower: float) -> None:
    scaled = [(accuracy * narrower + 0.25, ratio * slower + 1) for accuracy, ratio in points]
    assert knee(scaled) == knee(points)


@given(POINTS)
def test_no_member_of_the_front_lies_farther_above_the_chord_than_the_knee(points: list[Point]) -> None:
    members = [points[i] for i in front(points)]
    bend = knee(points)
    if len(members) < 3 or bend is None:
        return
    (a1, r1), (a2, r2) = members[0], members[-1]

    def above(point: Point) -> float:
        """Signed distance, up to a constant factor, to the line through the ends."""
        return (point[0] - a1) * (r2 - r1) - (point[1] - r1) * (a2 - a1)

    scale = (a2 - a1) * (r2 - r1)
    assert all(above(points[bend]) >= above(member) - 1e-9 * scale for member in members)

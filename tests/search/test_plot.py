"""The plot of a front in text: whatever the points, it stays in its frame."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search.plot import BESIDE_ROWS, Layer, Plot, front_layers

FINITE = st.floats(allow_nan=False, allow_infinity=False)
POINTS = st.lists(st.tuples(FINITE, FINITE), max_size=8)


def drawn(layers: list[Layer], width: int = 50, rows: int = 10, *, ascii_only: bool = False) -> list[str]:
    return [
        line.plain for line in Plot(layers, "accuracy against TPOT ratio", rows).lines(width, ascii_only=ascii_only)
    ]


def test_a_front_as_it_is_drawn() -> None:
    layers = front_layers(
        [(0.5, 1.3), (0.62, 1.7)], 0.165, [(0.23, 1.144), (0.52, 1.279), (0.67, 1.453)], [(0.88, 1.772)]
    )
    assert drawn(layers, 44, 7) == [
        "accuracy against TPOT ratio",
        "0.880 │                                    ★",
        "      │",
        "      │                     ●           ·",
        "0.522 │             ●·",
        "      │",
        "      │       ●",
        "0.165 │◆",
        "      └─────────────────────────────────────",
        "       1.000           1.386           1.772",
        "· dominated  ◆ base  ● front  ★ recommended",
    ]


def test_without_points_there_is_nothing() -> None:
    assert drawn(front_layers([], None, [])) == []


def test_differences_below_two_hundredths_do_not_fill_the_axes() -> None:
    lines = drawn(front_layers([], None, [(0.5, 1.1), (0.501, 1.101)]), ascii_only=True)
    assert [lines[row].split(" |")[0].strip() for row in (1, 6, 10)] == ["0.510", "0.500", "0.490"]
    assert lines[5].count("o") + lines[6].count("o") == 2


@given(POINTS, st.none() | FINITE, POINTS, st.integers(1, 120), st.integers(1, 30))
def test_every_point_is_in_the_frame_and_nothing_is_wider_than_asked(
    dominated: list[tuple[float, float]],
    base: float | None,
    front: list[tuple[float, float]],
    width: int,
    rows: int,
) -> None:
    layers = front_layers(dominated, base, front)
    lines = drawn(layers, width, rows, ascii_only=True)
    assert lines == drawn(layers, width, rows, ascii_only=True)
    assert all(len(line) <= width for line in lines)
    assert len(lines) in (0, rows + BESIDE_ROWS)
    assert bool(lines) == bool(dominated or front or base is not None)
    if width >= 30 and front:
        frame = [line.split("|")[1] for line in lines[1 : rows + 1]]
        marks = {(row, at) for row, line in enumerate(frame) for at, mark in enumerate(line) if mark == "o"}
        assert 0 < len(marks) <= len(front)
        best, fastest = max(point[0] for point in front), min(point[1] for point in front)
        others = [*dominated, *([(base, 1.0)] if base is not None else [])]
        if all(best >= accuracy for accuracy, _ in others) and rows > 1 and _spread([*front, *others], 0):
            assert any(row == 0 for row, _ in marks), "the most accurate at the top"
        if all(fastest <= ratio for _, ratio in others) and _spread([*front, *others], 1):
            assert any(at == 0 for _, at in marks), "the fastest on the left"


def _spread(points: list[tuple[float, float]], axis: int) -> bool:
    values = [point[axis] for point in points]
    return max(values) / 2 - min(values) / 2 >= 0.01


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.9, 5)), min_size=1))
def test_ascii_and_utf_8_show_the_same(points: list[tuple[float, float]]) -> None:
    layers = front_layers(points[1:], 0.1, points[:1])
    utf_8, ascii_only = drawn(layers), drawn(layers, ascii_only=True)
    table = str.maketrans("·◆●│└─", ".Bo|+-")
    assert [line.translate(table) for line in utf_8] == ascii_only
    assert all(line.isascii() for line in ascii_only)

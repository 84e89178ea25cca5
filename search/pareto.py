"""Fronts over (accuracy, latency ratio): accuracy is maximised, the ratio minimised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Point = tuple[float, float]


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other point beats, cheapest first.

    A point is beaten if another is at least as accurate and at least as fast, and better in one of the two. Of equal
    points the first stays. O(n log n).
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0], i))
    kept: list[int] = []
    best = float("-inf")
    for i in order:
        if points[i][0] > best:
            kept.append(i)
            best = points[i][0]
    return kept


def hypervolume(points: Sequence[Point]) -> float:
    """Area, in [0, 1], that the points dominate in (accuracy, speed), where speed = base latency / latency = 1 / ratio.

    Both axes are in [0, 1] by nature and the reference point is (0, 0), so the figure needs no normalisation and can be
    compared between searches of one task (Zitzler and Thiele, 1998). A ratio below 1, which is noise, counts as 1.
    """
    return area((accuracy, 1 / max(ratio, 1.0)) for accuracy, ratio in points)


def area(points: Iterable[Point]) -> float:
    """Area over (0, 0) that the points dominate, both axes maximised; a coordinate below 0 counts as 0."""
    total, highest = 0.0, 0.0
    for height, speed in sorted(points, key=lambda p: (-p[1], -p[0])):
        if height > highest:
            total += (height - highest) * max(speed, 0.0)
            highest = height
    return total


def knee(points: Sequence[Point]) -> int | None:
    """Index of the front member farthest above the chord between the front's ends, both axes scaled to [0, 1].

    The largest perpendicular distance to the chord, as in Das (1999), "On characterizing the 'knee' of the Pareto
    curve". With fewer than three members there is no inside: the most accurate one. Where all inside are below the
    chord, since accuracy comes cheaper the more of it there is, the cheapest one.
    """
    members = front(points)
    if not members:
        return None
    if len(members) < 3:
        return members[-1]
    low, high = points[members[0]], points[members[-1]]

    def above(i: int) -> float:
        accuracy = (points[i][0] - low[0]) / (high[0] - low[0])
        latency = (points[i][1] - low[1]) / (high[1] - low[1])
        return accuracy - latency

    return max(members, key=above)

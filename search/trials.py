"""The trials that a search has begun, as far as its plan goes by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from objectives.placement import Placement
from search.pareto import Point, front


@dataclass
class Trial:
    """``point``, accuracy and latency ratio, and ``adapter`` are those of a complete one."""

    placement: Placement
    steps: int = 0  # that it has made
    latency: Mapping[str, Any] | None = None  # as it was measured when it began, on whatever machine
    is_running: bool = False  # given out, and not back
    stopped: dict[str, Any] | None = None  # its measurement, where it stopped on the way and may go on
    ended: str | None = None  # its status, once it will not go on
    point: Point | None = None
    adapter: str | None = None

    def complete(self, measurement: Mapping[str, Any], adapter: str) -> None:
        self.point = measurement["validation"]["accuracy"], measurement["latency"]["ratio"]
        self.adapter = adapter


class Trials(dict[int, Trial]):
    """By number and in that order, not as they end: of two that are equal the result has the first on its front."""

    def running(self) -> set[int]:
        return {number for number, trial in self.items() if trial.is_running}

    def stopped(self) -> dict[int, dict[str, Any]]:
        """The measurements of those that stopped on the way and may go on."""
        return {number: trial.stopped for number, trial in self.items() if trial.stopped is not None}

    def points(self) -> dict[int, Point]:
        """Accuracy and latency ratio of those that are complete."""
        return {number: trial.point for number, trial in self.items() if trial.point is not None}

    def front(self) -> list[int]:
        """Numbers, the cheapest first."""
        points = self.points()
        numbers = list(points)
        return [numbers[i] for i in front(list(points.values()))]

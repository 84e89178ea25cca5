"""Many placements measured together, in rounds, until each is known well enough.

A round visits every placement once with a new adapter, so that what a stretch of time or a place in memory does to one
measurement is seen as a difference between rounds. How much rounds differ is pooled over placements: two rounds of one
placement say little about it, two rounds of fourteen say enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from objectives.latency.engine import Engine
from objectives.latency.paired import (
    Axis,
    PairedRequest,
    Ratio,
    error_of,
    profile_of,
    reach_of,
    student,
    value_of,
)
from objectives.latency.settings import LatencySettings
from objectives.placement import Placement

_FIRST_ROUNDS = 2
#: Requests of one visit; each has the interval of its own that rounds are compared by.
_VISIT = 8


Rounds = Sequence[Sequence[PairedRequest]]  # of one placement


@dataclass
class _Visits:
    """What one placement has gathered."""

    rounds: list[list[PairedRequest]] = field(default_factory=list)
    seconds: float = 0.0
    axis: Axis = "tpot"

    @property
    def requests(self) -> list[PairedRequest]:
        return [request for visit in self.rounds for request in visit]


def measure_in_rounds(
    engine: Engine,
    placements: Sequence[Placement],
    settings: LatencySettings,
    *,
    seed: int,
    visited: Callable[[Placement, int, float], None] = lambda placement, number, share: None,
) -> dict[Placement, dict[str, Any]]:
    """A profile of each placement, as :func:`objectives.latency.engine.measure` gives it.

    After two rounds only placements whose interval is wider than ``half_width`` are visited again, until
    ``max_seconds`` of each are spent; ``settled`` says which of the two it was. ``visited`` is told after each visit:
    of which placement, in which round, and which share of the time is over if all that are not settled use up theirs.
    """
    found = {placement: _Visits() for placement in dict.fromkeys(placements)}
    open_, number = list(found), 0
    ratios: dict[Placement, Ratio] = {}
    while open_:
        for placement in open_:
            _visit(engine, placement, found[placement], settings, seed + number)
            left = sum(max(0.0, settings.max_seconds - found[each].seconds) for each in open_)
            most = len(found) * settings.max_seconds
            visited(placement, number, 1 - left / most if most else 1.0)
        number += 1
        if number >= _FIRST_ROUNDS:
            ratios = dict(zip(found, pooled([each.rounds for each in found.values()], seed), strict=True))
            open_ = [
                placement
                for placement in open_
                if ratios[placement].half_width > settings.half_width
                and found[placement].seconds < settings.max_seconds
            ]
    profiles = {}
    for placement, each in found.items():
        ratio = ratios[placement]
        settled = ratio.half_width <= settings.half_width
        profile = profile_of(each.requests, ratio, each.axis, settings, settled=settled)
        extra = {"rounds": len(each.rounds), "max_seconds": settings.max_seconds}
        profiles[placement] = profile | {"engine": engine.name, "mode": "unmerged", **extra}
    return profiles


def _visit(engine: Engine, placement: Placement, visits: _Visits, settings: LatencySettings, seed: int) -> None:
    pair = engine.open(placement, seed)
    for _ in range(settings.warmup):
        pair.request()
    started = time.perf_counter()
    visit: list[PairedRequest] = []
    # A visit has its share of the time, and at least enough requests to be resampled.
    while len(visit) < _VISIT and (len(visit) < 3 or time.perf_counter() - started < settings.max_seconds / 2):
        visit.append(pair.request())
    visits.rounds.append(visit)
    visits.seconds += time.perf_counter() - started
    visits.axis = pair.axis


def pooled(placements: Sequence[Rounds], seed: int) -> list[Ratio]:
    """The ratio of each placement; its interval is its own, or where that is wider, what all placements let expect.

    A dozen requests can agree by luck, and would then claim what a repetition does not keep. What few requests leave
    unknown of their spread is that of all placements together, which leave less of it unknown.
    """
    requests = [[request for visit in rounds for request in visit] for rounds in placements]
    counts = np.array([len(each) for each in requests])
    reach = np.array([reach_of(each, seed) for each in requests])
    common = np.sqrt(np.mean(reach**2 * counts) / counts)
    widest = np.maximum(reach, common) * disagreement(placements, seed) * student(int((counts - 1).sum()))
    return [Ratio.reaching(value_of(each), float(times)) for each, times in zip(requests, widest, strict=True)]


def disagreement(placements: Sequence[Rounds], seed: int) -> float:
    """How many times more rounds differ than the requests inside them let expect; at least 1.

    The square root of the variance of the rounds' log ratios, pooled over placements, over the mean of the bootstrap
    variances of single rounds.
    """
    squares, freedom, inside = 0.0, 0, []
    for rounds in placements:
        logs = np.log([value_of(visit) for visit in rounds])
        squares += float(((logs - logs.mean()) ** 2).sum())
        freedom += len(rounds) - 1
        inside += [error_of(reach_of(visit, seed, 200)) ** 2 for visit in rounds]
    if not freedom or not np.mean(inside) > 0:
        return 1.0
    return max(1.0, float(np.sqrt(squares / freedom / np.mean(inside))))

"""What a run was worth, measured on the truth of a table, of which the strategy saw one noisy recording.

The truth of a placement is its mean accuracy over the table's seeds, validation and test rows together, and its latency
ratio. Both are scaled by the table: accuracy from 0 at its least accurate placement to 1 at its most accurate one, and
latency from 0 at its slowest placement to 1 at the base model's. Hypervolume is the area dominated over (-0.1, -0.1):
over (0, 0) the slowest and the least accurate placement would count nothing, even as the ends of the front.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.runs import Run
from objectives.latency.paired import Ratio
from objectives.placement import Placement
from objectives.tabular import Table
from search.pareto import Point, area, front
from search.recommend import Candidate, recommend

#: How far the reference point lies beyond the worst of each axis, in lengths of that axis.
MARGIN = 0.1
#: Full trials that a user may wait for; what was found by then is reported beside what was found at the end.
EARLY = 24


@dataclass(frozen=True)
class Score:
    """Of one run. Shares are of the exhaustive front's; steps are None where the share was never reached."""

    curve: tuple[tuple[int, float], ...]  # training steps spent, share of the hypervolume from then on
    steps_to_95: int | None
    steps_to_99: int | None
    early_share: float  # of the hypervolume, after EARLY trials' worth of steps
    early_members: float  # of the true front's members
    members: float
    regret: float  # true accuracy that the recommended placement lacks; negative if it is more accurate
    extra_ratio: float  # latency ratio that it has beyond what is needed; negative if it is faster
    within: bool  # the regret is at most one standard error

    @classmethod
    def from_json(cls, score: dict[str, Any]) -> Score:
        """Of :func:`dataclasses.asdict`, read back from JSON."""
        return cls(**score | {"curve": tuple((steps, share) for steps, share in score["curve"])})

    def share_at(self, steps: float) -> float:
        return max((share for spent, share in self.curve if spent <= steps), default=0.0)


class Yardstick:
    """The whole truth of one table: ``front`` are its true front members, ``best`` is what should be recommended."""

    def __init__(self, truth: Mapping[Placement, Point], *, steps: int, validation_rows: int) -> None:
        """``truth`` has (true accuracy, latency ratio) of each placement; ``steps`` is what one full training takes."""
        self._truth = truth
        self._steps = steps
        self._rows = validation_rows
        self._lowest = min(accuracy for accuracy, _ in truth.values())
        self._highest = max(accuracy for accuracy, _ in truth.values())
        self._slowest = max(ratio for _, ratio in truth.values())
        placements = list(truth)
        self.front = frozenset(placements[i] for i in front(list(truth.values())))
        candidates = [
            Candidate(i, placement, accuracy, self.standard_error(placement), Ratio.exact(ratio))
            for i, (placement, (accuracy, ratio)) in enumerate(truth.items())
        ]
        chosen = recommend(candidates, 0.0, "accuracy", "tpot")
        assert chosen is not None
        self.best = placements[chosen.trial]
        self._whole = self._hypervolume(placements)

    @classmethod
    def of(cls, table: Table) -> Yardstick:
        truth = {placement: (table.truth(placement), table.ratio(placement)) for placement in table.placements}
        return cls(truth, steps=table.steps, validation_rows=table.about["validation_rows"])

    def standard_error(self, placement: Placement) -> float:
        """Of one measurement of the placement's accuracy on the validation split, were it counted right and wrong."""
        accuracy = self._truth[placement][0]
        return math.sqrt(accuracy * (1 - accuracy) / self._rows)

    def share(self, placements: Iterable[Placement]) -> float:
        """True hypervolume of the placements over that of all, in [0, 1]."""
        return self._hypervolume(placements) / self._whole

    def _hypervolume(self, placements: Iterable[Placement]) -> float:
        points = [self._truth[placement] for placement in placements]
        return area(
            [
                (
                    MARGIN + _scaled(max(ratio, 1.0), self._slowest, 1.0),
                    MARGIN + _scaled(accuracy, self._lowest, self._highest),
                )
                for accuracy, ratio in points
            ]
        )

    def found(self, placements: Collection[Placement]) -> float:
        return len(self.front.intersection(placements)) / len(self.front)

    def score(self, run: Run) -> Score:
        curve = tuple(
            (spent, self.share(placement for _, placement in run.trained[:count]))
            for count, (spent, _) in enumerate(run.trained, start=1)
        )
        early = [(spent, placement) for spent, placement in run.trained if spent <= EARLY * self._steps]
        accuracy, ratio = self._truth[run.recommended]
        best_accuracy, best_ratio = self._truth[self.best]
        regret = best_accuracy - accuracy
        return Score(
            curve,
            _first(curve, 0.95),
            _first(curve, 0.99),
            self.share(placement for _, placement in early),
            self.found([placement for _, placement in early]),
            self.found([placement for _, placement in run.trained]),
            regret,
            ratio - best_ratio,
            regret <= self.standard_error(self.best),
        )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile, each one of the values: runs that never got there are infinite.

    The smallest value with at least that share of the values at or below it (the inverse of their distribution).
    """
    ordered = sorted(values)
    low, middle, high = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.25, 0.5, 0.75))
    return low, middle, high


def _scaled(value: float, worst: float, best: float) -> float:
    """0 at the worst and 1 at the best; 1 for all where they are equal."""
    return (value - worst) / (best - worst) if best != worst else 1.0


def _first(curve: Sequence[tuple[int, float]], share: float) -> int | None:
    # Sums in another order may differ in the last digit.
    return next((spent for spent, reached in curve if reached >= share - 1e-12), None)

"""Which placements the trials of a study have, each trial read once."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import optuna

from objectives.placement import Placement
from search.strategy.space import PlacementSpace

#: User attribute of trials of other studies: what they measured is known here, and was not tried.
KNOWN = "known"


class Tried:
    """Of one study, whose trials never change their placement. ``read`` before anything else."""

    def __init__(self, space: PlacementSpace, known: Collection[Placement] = ()) -> None:
        """What is ``known`` needs no trial, but may have one."""
        self._space = space
        self._known = known
        self._numbers: dict[Placement, int] = {}
        self._read: set[int] = set()
        self._walk: Iterator[Placement] = iter(space)
        self._untried: Placement | None = next(self._walk, None)

    def read(self, study: optuna.Study) -> None:
        for trial in study.get_trials(deepcopy=False):
            if trial.number not in self._read and len(params := trial.params) == len(self._space.distributions):
                self._read.add(trial.number)
                if KNOWN not in trial.user_attrs:
                    self._numbers[self._space.placement(params)] = trial.number

    def __contains__(self, placement: Placement) -> bool:
        return placement in self._numbers

    def untried(self) -> Placement | None:
        """The first placement of the space that is neither tried nor known; None if there is none left."""
        while self._untried is not None and (self._untried in self._numbers or self._untried in self._known):
            self._untried = next(self._walk, None)
        return self._untried

"""The placements of a search, and how they look to Optuna."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.distributions import CategoricalDistribution

from objectives.placement import Placement

RANK = "rank"

#: Subsets are listed singles first; beyond so many the list is not walked to its end.
_LISTED = 1 << 20


@dataclass(frozen=True)
class PlacementSpace:
    """Every non-empty subset of ``groups`` with every one of ``ranks``, where ``allowed`` agrees."""

    groups: tuple[str, ...]
    ranks: tuple[int, ...]
    allowed: Callable[[Placement], bool] = lambda _: True

    @property
    def size(self) -> int:
        """Placements before ``allowed`` has its say."""
        return ((1 << len(self.groups)) - 1) * len(self.ranks)

    def count(self, most: int) -> int:
        """How many placements are allowed, counted to ``most``."""
        return sum(1 for _ in itertools.islice(self, most))

    @cached_property
    def distributions(self) -> dict[str, CategoricalDistribution]:
        space = {group: CategoricalDistribution((False, True)) for group in self.groups}
        space[RANK] = CategoricalDistribution(self.ranks)
        return space

    def placement(self, params: Mapping[str, Any]) -> Placement:
        return Placement.of((group for group in self.groups if params[group]), params[RANK])

    def params(self, placement: Placement) -> dict[str, Any]:
        return {group: group in placement.groups for group in self.groups} | {RANK: placement.rank}

    def __iter__(self) -> Iterator[Placement]:
        """Small placements first: the cheap end of the front is what a short grid should know."""
        listed = (
            Placement.of(groups, rank)
            for count in range(1, len(self.groups) + 1)
            for groups in itertools.combinations(self.groups, count)
            for rank in self.ranks
        )
        return (placement for placement in itertools.islice(listed, _LISTED) if self.allowed(placement))

"""A placement: which module groups get an adapter, and of what rank."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

#: LoRA scales its update by alpha / rank. A constant ratio keeps the best learning rate nearly independent of rank
#: (Schulman et al., "LoRA Without Regret", 2025), so rank can be searched without a search over learning rates.
ALPHA_PER_RANK = 2


@dataclass(frozen=True, order=True)
class Placement:
    """Canonical: groups are sorted and unique, so that equal placements compare and hash equal.

    No groups at all is the base model, whatever the rank asked for; its rank is 0.
    """

    groups: tuple[str, ...]
    rank: int

    @classmethod
    def of(cls, groups: Iterable[str], rank: int) -> Placement:
        """Raises ValueError if groups are given with a rank below 1."""
        canonical = tuple(sorted(set(groups)))
        if canonical and rank < 1:
            raise ValueError(f"rank {rank} is below 1")
        return cls(canonical, rank if canonical else 0)

    @property
    def alpha(self) -> int:
        return ALPHA_PER_RANK * self.rank

    @property
    def is_base(self) -> bool:
        return not self.groups

    @property
    def label(self) -> str:
        """Short, readable and unique: ``k_proj+o_proj r8``."""
        return f"{'+'.join(self.groups)} r{self.rank}" if self.groups else "base"

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that are the same on every machine and in every version."""
        return hashlib.sha256(self.label.encode()).hexdigest()[:16]


BASE = Placement((), 0)

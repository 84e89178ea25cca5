"""A placement: which module groups get an adapter, and of what rank."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

#: The bands of layers that a group can be split into, from the first layers to the last; more of them are numbered,
#: ``1of4`` and so on.
BAND_TITLES = {2: ("first", "last"), 3: ("first", "middle", "last")}
#: What :meth:`Alpha.parse` takes.
ALPHA = "[1-9][0-9]{0,5}r?"


@dataclass(frozen=True)
class Alpha:
    """LoRA scales its update by alpha / rank; alpha is ``value``, or with ``per_rank`` so many times the rank.

    Per rank, as is the custom, each unit of rank adds its own share to the update, so that at the same learning rate a
    higher rank also learns faster. One alpha for all ranks makes the best learning rate nearly independent of rank
    (Schulman et al., "LoRA Without Regret", 2025).
    """

    value: int
    per_rank: bool = False

    @classmethod
    def parse(cls, text: str) -> Alpha:
        """``16``, or ``2r``: twice the rank. Raises ValueError for anything else."""
        if re.fullmatch(ALPHA, text) is None:
            raise ValueError(f"{text!r} is no alpha")
        return cls(int(text.removesuffix("r")), text.endswith("r"))

    def at(self, rank: int) -> int:
        return self.value * rank if self.per_rank else self.value


#: Twice the rank: what most tutorials and trainers give.
CUSTOMARY_ALPHA = Alpha(2, per_rank=True)


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
    def is_base(self) -> bool:
        return not self.groups

    @property
    def name(self) -> str:
        """Unique, and the same for ever: ``k_proj@first+k_proj@last r8``. What is kept in a database is found by it."""
        return f"{'+'.join(self.groups)} r{self.rank}" if self.groups else "base"

    @property
    def label(self) -> str:
        """For people; unique within a module space: the name with the bands of a group together, from the first layers
        to the last, and without them where they are known to be all: ``k_proj@first,last+o_proj r8``."""
        bands: dict[str, list[str]] = {}
        for group in self.groups:
            leaf, _, band = group.partition("@")
            bands.setdefault(leaf, []).append(band)
        groups = "+".join(leaf + _together(some) for leaf, some in bands.items())
        return f"{groups} r{self.rank}" if groups else "base"

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that are the same on every machine and in every version."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:16]


def _together(bands: list[str]) -> str:
    """Of one group, what its label says of its bands; ``[""]`` is a group that was not split."""
    ordered = sorted(bands, key=_depth)
    _, _, number = ordered[-1].partition("of")
    # The first and the last are all there are of two bands, but not of three: they are named.
    whole = ordered in ([""], list(BAND_TITLES[3])) or number == str(len(ordered))
    return "" if whole else "@" + ",".join(ordered)


def _depth(band: str) -> tuple[int, str]:
    """In the order of layers; names that are no bands of ours by the alphabet."""
    titles, number = BAND_TITLES[3], band.partition("of")[0]
    return titles.index(band) if band in titles else int(number) if number.isdecimal() else 0, band


BASE = Placement((), 0)

"""What every engine offers, and one measurement with it."""

from __future__ import annotations

from typing import Any, Protocol

from objectives.latency.classes import Kernels
from objectives.latency.paired import Pair, profile_of, ratio_of, sample
from objectives.latency.settings import LatencySettings
from objectives.placement import Placement


class Engine(Kernels, Protocol):
    """Serves the base model and placements of one model. Not thread-safe."""

    name: str
    unmerged: str  # what an unmerged adapter costs there, one clause
    facts: dict[str, str]  # engine, device, dtype, versions: see objectives.latency.context

    def open(self, placement: Placement, seed: int) -> Pair:
        """A new random adapter of the placement beside the base model; the base model beside itself for no groups.

        It replaces the one opened before. Raises RequestError where the engine cannot load it.
        """

    def open_mixed(self, placement: Placement, adapters: int, seed: int) -> Pair:
        """As ``open``, but the requests that run at once go to so many adapters of the placement in turn.

        Raises RequestError where the engine cannot mix them.
        """

    def close(self) -> None:
        """Leave the engine as it was found."""


def measure(pair: Pair, settings: LatencySettings, *, seed: int, engine: str) -> dict[str, Any]:
    """The profile of one pair, plain values ready for JSON: see :func:`objectives.latency.paired.profile_of`."""
    requests, settled = sample(pair, settings, seed)
    profile = profile_of(requests, ratio_of(requests, seed), pair.axis, settings, settled=settled)
    return profile | {"engine": engine, "mode": "unmerged", "max_seconds": settings.max_seconds}

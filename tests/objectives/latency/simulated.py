"""An engine whose truth is known: each part costs so much, and requests scatter around it by a seeded generator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from objectives.latency.paired import Axis, PairedRequest
from objectives.latency.timing import Timing
from objectives.placement import Placement


class SimulatedEngine:
    name = "simulated"
    unmerged = "what the table says"
    fused = False
    fixed_rank = False

    def __init__(
        self, costs: Mapping[str, float], *, start: float = 0.03, noise: float = 0.01, layout: float = 0.0
    ) -> None:
        """``start`` is the cost of any adapter at all; ``layout`` scatters each opening as a whole."""
        self.costs, self.start, self.noise, self.layout = costs, start, noise, layout
        self.opened: list[Placement] = []
        self.closed = False
        self.facts = {"engine": "simulated", "device": "none", "threads": "1", "dtype": "none", "versions": "1"}

    def truth(self, placement: Placement) -> float:
        return 1.0 if placement.is_base else 1 + self.start + sum(self.costs[name] for name in placement.groups)

    def open(self, placement: Placement, seed: int) -> SimulatedPair:
        self.opened.append(placement)
        generator = np.random.default_rng([seed, *placement.label.encode()])
        ratio = self.truth(placement) * float(np.exp(generator.normal(scale=self.layout)))
        return SimulatedPair(ratio, self.noise, generator)

    def close(self) -> None:
        self.closed = True


class SimulatedPair:
    axis: Axis = "tpot"

    def __init__(self, ratio: float, noise: float, generator: np.random.Generator) -> None:
        self._ratio, self._noise, self._generator = ratio, noise, generator

    def request(self) -> PairedRequest:
        ratios = self._ratio * np.exp(self._generator.normal(scale=self._noise, size=8))
        adapted = Timing(0.004, tuple(0.001 * ratios), 9)
        return PairedRequest(ratios, (Timing(0.004, (0.001,) * 8, 9),), (adapted,))

"""Latency from structure: what each part adds, and from that the ratio of placements that were not measured.

    ratio - 1 = any + parts x each + sum of the parts' own deviations (+ interactions)

fitted by weighted Bayesian least squares (Bishop, "Pattern Recognition and Machine Learning", 2006, section 3.3):
a measurement weighs by its interval, and deviations are shrunk towards zero by how different parts were seen to be
(of several prior spreads the one with the highest evidence, section 3.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from objectives.latency.paired import Ratio

Parts = frozenset[str]
#: Residuals this much above what the intervals allow ask for an interaction.
_TOO_MUCH = 2.0
_MOST_INTERACTIONS = 3
#: How much parts may differ, in shares of what one costs; the evidence chooses.
_DEVIATIONS = (0.02, 0.05, 0.1, 0.2, 0.5)


class AdditiveModel:
    """Fitted to the measured ratios of sets of parts, all of one rank."""

    def __init__(self, measured: Mapping[Parts, Ratio]) -> None:
        """Needs one measurement or more; each set holds one part or more."""
        self._sets = list(measured)
        self._names = sorted(frozenset[str]().union(*self._sets))
        self._values = np.array([measured[parts].value - 1 for parts in self._sets])
        errors = np.array([ratio.log_error * ratio.value for ratio in measured.values()])
        # A floor, since a few requests can agree by luck; where an interval is endless the measurement says little.
        self._errors = np.clip(errors, 1e-3, 1.0)
        self._scaled = self._values / self._errors
        self.interactions: list[Parts] = []
        self._fit()
        while self._misfit > _TOO_MUCH and len(self.interactions) < _MOST_INTERACTIONS:
            pairs = [frozenset(pair) for pair in combinations(self._names, 2)]
            # One that a single measurement holds would only repeat that measurement.
            candidates = [p for p in pairs if p not in self.interactions and sum(p <= s for s in self._sets) > 1]
            if not candidates:
                break
            before = self._misfit
            trials = {pair: self._fit([*self.interactions, pair]) for pair in candidates}
            best = min(candidates, key=lambda pair: trials[pair])
            if trials[best] > before / 2:
                self._fit()
                break
            self.interactions.append(best)
            self._fit()

    def predict(self, parts: Parts) -> Ratio:
        """The ratio with the interval in which a direct measurement falls in 95% of cases. No part at all costs 1."""
        if not parts:
            return Ratio.exact(1.0)
        row = self._row(parts, self.interactions)
        value = 1 + float(row @ self._weights)
        # What is not known of the weights, what the model cannot say, and the noise of the measurement to come.
        variance = (
            float(row @ self._covariance @ row) * self._misfit + self._residual**2 + float(np.mean(self._errors**2))
        )
        reach = 1.96 * float(np.sqrt(variance))
        return Ratio(value, value - reach, value + reach)

    def _row(self, parts: Parts, interactions: list[Parts]) -> NDArray[np.float64]:
        own = [float(name in parts) for name in self._names]
        return np.array([1.0, len(parts), *own, *(float(pair <= parts) for pair in interactions)])

    def _spreads(self, each: float, interactions: int) -> list[NDArray[np.float64]]:
        """Prior standard deviations of the weights, by how much parts may differ: shares of what a part costs."""
        return [
            # The two common terms are nearly free.
            np.array([each, 10 * each, *[share * each] * len(self._names), *[each / 2] * interactions])
            for share in _DEVIATIONS
        ]

    def _fit(self, interactions: list[Parts] | None = None) -> float:
        chosen = self.interactions if interactions is None else interactions
        rows = np.stack([self._row(parts, chosen) for parts in self._sets])
        each = max(1e-3, float(np.median(self._values / [len(parts) for parts in self._sets])))
        weighted = rows / self._errors[:, None]
        spread = max(
            self._spreads(each, len(chosen)), key=lambda spread: _log_evidence(weighted * spread, self._scaled)
        )
        precision = weighted.T @ weighted + np.diag(spread**-2.0)
        self._covariance = np.linalg.inv(precision)
        self._weights = self._covariance @ weighted.T @ self._scaled
        residuals = self._values - rows @ self._weights
        self._residual = float(np.sqrt(np.mean(residuals**2)))
        effective = float(np.trace(weighted @ self._covariance @ weighted.T))
        freedom = max(1.0, len(residuals) - effective)
        self._misfit = max(1.0, float(((residuals / self._errors) ** 2).sum()) / freedom)
        return self._misfit


def _log_evidence(rows: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Up to a constant, of ``values`` (n,) with noise of 1 under ``rows`` (n, d) times weights of spread 1."""
    covariance = rows @ rows.T + np.eye(len(values))
    return -0.5 * float(np.linalg.slogdet(covariance)[1] + values @ np.linalg.solve(covariance, values))

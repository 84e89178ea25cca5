"""Bayesian linear regression with every scale chosen by the evidence, and what placements look like to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objectives.placement import Placement

Array = NDArray[np.float64]

#: Prior standard deviations of an effect, in units of the noise; the evidence chooses among them.
SPREADS = np.geomspace(0.1, 30.0, 12)
#: Prior precision of the constant, in the same units: the level is free.
LEVEL = 1e-4


def features(placements: Sequence[Placement], groups: Sequence[str]) -> Array:
    """(placements, 4 + groups): constant, square root of the count, log2 of rank / 8, their product, a flag a group."""
    index = {name: 4 + i for i, name in enumerate(groups)}
    rows = np.zeros((len(placements), 4 + len(groups)))
    count = np.sqrt([len(placement.groups) for placement in placements])
    rank = np.log2([placement.rank for placement in placements]) - 3.0
    rows[:, :4] = np.column_stack([np.ones(len(placements)), count, rank, rank * count])
    flags = [(i, index[name]) for i, placement in enumerate(placements) for name in placement.groups]
    rows[tuple(np.array(flags, dtype=np.intp).reshape(-1, 2).T)] = 1.0
    return rows


class LinearPosterior:
    """Of the weights of a linear model with Gaussian noise, both scales chosen by the evidence."""

    def __init__(self, rows: Array, values: Array) -> None:
        """``rows`` (n, d), the first column constant; ``values`` (n,). Needs n >= 2."""
        self._centre, self._scale = float(values.mean()), float(values.std()) or 1.0
        scaled = (values - self._centre) / self._scale
        self._best = max((fit(rows, scaled, spread) for spread in SPREADS), key=lambda each: each.log_evidence)

    @property
    def log_evidence(self) -> float:
        """Up to a constant: comparable between models of the same values."""
        return self._best.log_evidence

    @property
    def covariance(self) -> Array:
        """(d, d) of the weights for noise of 1: the inverse of prior precision and rows' products together."""
        inverse = np.linalg.inv(self._best.precision_root)
        covariance: Array = inverse.T @ inverse
        return covariance

    def left_out(self, rows: Array, values: Array) -> Array:
        """(n,) what the model would predict for each of the rows that it was fitted to, without that row."""
        leverage = np.einsum("nd,de,ne->n", rows, self.covariance, rows)
        left_out: Array = values - (values - self.expected(rows)) / np.clip(1 - leverage, 1e-3, None)
        return left_out

    def expected(self, rows: Array) -> Array:
        """(n,) posterior means."""
        expected: Array = self._centre + self._scale * rows @ self._best.mean
        return expected


def noise(count: int, unexplained: float) -> tuple[float, float]:
    """Shape and rate of the noise's precision, after ``count`` values whose weighed sum of squares is ``unexplained``.

    Its inverse gamma prior (the normal inverse gamma model) keeps few trials from being believed exactly.
    """
    return 1.0 + count / 2, 0.05 + 0.5 * max(unexplained, 0.0)


@dataclass(frozen=True)
class Fit:
    """Of weights under one prior, and of the noise, whose precision has a gamma distribution of ``shape`` and ``rate``.

    ``mean`` (d,) and ``precision_root`` (d, d), lower triangular, are those of the weights, the latter for noise of 1.
    """

    log_evidence: float
    mean: Array
    precision_root: Array
    shape: float
    rate: float


def fit(rows: Array, values: Array, spread: float) -> Fit:
    """Of weights that are ``spread`` times the noise; ``rows`` (n, d), the first column constant, ``values`` (n,)."""
    prior = np.full(rows.shape[1], spread**-2.0)
    prior[0] = LEVEL
    precision = rows.T @ rows + np.diag(prior)
    root = np.asarray(np.linalg.cholesky(precision), dtype=np.float64)
    mean = np.asarray(np.linalg.solve(precision, rows.T @ values), dtype=np.float64)
    shape, rate = noise(len(values), float(values @ values - mean @ precision @ mean))
    log_evidence = float(0.5 * np.log(prior).sum() - np.log(np.diag(root)).sum() - shape * np.log(rate))
    return Fit(log_evidence, mean, root, shape, rate)

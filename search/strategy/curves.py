"""What trials that were trained to different steps say of the loss of every placement at the end.

A linear mixed model: at level k (a fidelity; the last is the validation loss after all steps) a placement's loss is

    y_k = features . w_k + d_k + noise

with weights w_k and the placement's own deviations d_k that are correlated between levels by rho^|k - l|. How much of
the final loss a few steps tell is therefore learned from the trials that were trained further, and where early losses
mislead, rho falls and they count for little. The idea is that of freeze-thaw Bayesian optimisation (Swersky, Snoek and
Adams, 2014), in the form of Bayesian linear regression with a normal inverse gamma prior (Bishop, 2006, section 3.3),
so that the cost grows linearly with the number of trials.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from search.strategy.linear import Array, noise

#: What the evidence chooses among: spread of an effect and of a placement's own deviation, both in units of the noise.
_SPREADS = (0.5, 1.5, 4.0, 10.0)
_DEVIATIONS = (0.3, 1.0, 2.5)
#: The correlation between neighbouring levels, each with its prior probability: nearly the same for all. While no trial
#: has gone on the evidence is that, too, and rounding would choose. To begin with 0.97, which the evidence comes to on
#: most recorded tables, took early losses too much at their word where they mislead.
_CORRELATIONS = {0.3: 0.22, 0.7: 0.28, 0.9: 0.26, 0.97: 0.24}
#: The level of losses is nearly free.
_FREE = 10.0
#: By how much differences between placements grow from one level to the next, as long as too few trials tell: the
#: geometric mean over seven recorded tables on the way, where it was 1.6 to 3.3. To the end it was 3.4 to 35, but to
#: expect that from the start gained nothing.
_WIDENING = 2.3


@dataclass(frozen=True)
class _Pattern:
    """Trials that were seen at the same ``levels``: features (n, d), losses (n, levels), and products of them."""

    members: NDArray[np.intp]
    levels: NDArray[np.intp]
    rows: Array
    values: Array

    @property
    def products(self) -> tuple[Array, Array, Array]:
        return self.rows.T @ self.rows, self.rows.T @ self.values, self.values.T @ self.values


@dataclass(frozen=True)
class _Fit:
    posterior: float  # log probability of what was chosen, up to a constant
    mean: Array  # (levels * d,)
    precision_root: Array  # lower triangular, for noise of 1
    noise: float
    covariance: Array  # (levels, levels) of a placement's own deviations


class CurvePosterior:
    """Of the final loss of placements, given losses at several levels."""

    def __init__(self, rows: Array, values: Array) -> None:
        """``rows`` (n, d), the first column constant; ``values`` (n, levels), NaN where a trial has not come so far."""
        self._centre, self._scale = _standard(values)
        self._levels = values.shape[1]
        self._rows, self._values = rows, (values - self._centre) / self._scale
        seen = ~np.isnan(values)
        codes = seen @ (1 << np.arange(self._levels))
        self._patterns = []
        for code in np.unique(codes[codes > 0]):
            members = np.flatnonzero(codes == code)
            levels = np.flatnonzero(seen[members[0]])
            self._patterns.append(_Pattern(members, levels, rows[members], self._values[np.ix_(members, levels)]))
        products = [pattern.products for pattern in self._patterns]
        fits = (self._fit(products, *chosen) for chosen in product(_SPREADS, _DEVIATIONS, _CORRELATIONS))
        self._best = max(fits, key=lambda fit: fit.posterior)

    def _fit(
        self, products: list[tuple[Array, Array, Array]], spread: float, deviation: float, correlation: float
    ) -> _Fit:
        """With the noise variance integrated out, which keeps few trials from being believed exactly."""
        levels, width = self._levels, self._rows.shape[1]
        between = correlation ** np.abs(np.subtract.outer(np.arange(levels), np.arange(levels)))
        own = deviation**2 * between
        variances = np.full(width, spread**2)
        variances[0] = _FREE**2 + spread**2
        inverse = np.linalg.inv(between)
        precision = np.einsum("kl,de->kdle", inverse, np.diag(1 / variances))
        target = np.zeros((levels, width))
        every = np.arange(width)
        quadratic, log_noise, count = 0.0, 0.0, 0
        for pattern, (gram, cross, square) in zip(self._patterns, products, strict=True):
            at = pattern.levels
            block = own[np.ix_(at, at)] + np.eye(len(at))
            weight = np.linalg.inv(block)
            precision[np.ix_(at, every, at, every)] += np.einsum("kl,de->kdle", weight, gram)
            target[at] += weight @ cross.T
            quadratic += float((weight * square).sum())
            log_noise += len(pattern.members) * float(np.linalg.slogdet(block)[1])
            count += len(pattern.members) * len(at)
        flat = precision.reshape(levels * width, -1)
        root = np.linalg.cholesky(flat)
        half = solve_triangular(root, target.reshape(-1), lower=True, check_finite=False)
        mean = solve_triangular(root, half, lower=True, trans=1, check_finite=False)
        shape, rate = noise(count, quadratic - float(half @ half))
        log_prior = width * float(np.linalg.slogdet(between)[1]) + levels * float(np.log(variances).sum())
        evidence = -0.5 * (log_prior + log_noise) - float(np.log(np.diag(root)).sum()) - shape * float(np.log(rate))
        error = float(np.sqrt(rate / shape))
        return _Fit(evidence + float(np.log(_CORRELATIONS[correlation])), mean, root, error, own * error**2)

    def draws(self, about: Array, index: NDArray[np.intp], count: int, random: np.random.Generator) -> Array:
        """(count, m) joint draws of the final loss, free of noise, of placements with features ``about`` (m, d).

        ``index`` (m,) says which of the trials a placement is, -1 for one that was not begun.
        """
        fit, width = self._best, self._rows.shape[1]
        root = fit.noise * np.linalg.inv(fit.precision_root).T  # of the covariance, in units of the losses
        weights = fit.mean + random.standard_normal((count, len(fit.mean))) @ root.T
        weights = weights.reshape(count, self._levels, width)
        finals = weights[:, -1] @ about.T
        share, left = np.zeros_like(finals), np.full(len(about), fit.covariance[-1, -1])
        place = np.full(len(self._rows), -1)
        place[index[index >= 0]] = np.flatnonzero(index >= 0)
        for pattern in self._patterns:
            known = place[pattern.members] >= 0
            if not known.any():
                continue
            at = pattern.levels
            block = fit.covariance[np.ix_(at, at)] + fit.noise**2 * np.eye(len(at))
            gain = np.linalg.solve(block, fit.covariance[at, -1])
            where = place[pattern.members[known]]
            expected = np.einsum("ckd,k->cd", weights[:, at], gain) @ pattern.rows[known].T
            share[:, where] = pattern.values[known] @ gain - expected
            left[where] -= float(gain @ fit.covariance[at, -1])
        finals += share + np.sqrt(np.maximum(left, 0.0)) * random.standard_normal(finals.shape)
        drawn: Array = self._centre[-1] + self._scale[-1] * finals
        return drawn


def _standard(values: Array) -> tuple[Array, Array]:
    """Centre and scale (levels,) of each level, from the first one on by what the trials have that came further.

    Those that were trained further are no random choice, so a level is put in relation to the one before it over the
    trials that have seen both. Few trials tell little of the ratio of their spreads, then near the customary one.
    """
    seen = ~np.isnan(values)
    centre, scale = np.zeros(values.shape[1]), np.ones(values.shape[1])
    first = values[seen[:, 0], 0]
    centre[0], scale[0] = first.mean(), first.std() or 1.0
    for level in range(1, values.shape[1]):
        both = seen[:, level - 1] & seen[:, level]
        one, other = values[both, level - 1], values[both, level]
        ratio = _WIDENING
        if len(one) > 1 and one.std() > 0 and other.std() > 0:
            trust = (len(one) - 1) / len(one)
            ratio *= (other.std() / one.std() / _WIDENING) ** trust
        scale[level] = scale[level - 1] * ratio
        centre[level] = other.mean() - (one.mean() - centre[level - 1]) * ratio if both.any() else centre[level - 1]
    return centre, scale

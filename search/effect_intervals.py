"""Weights of a linear model with their intervals, averaged over how large they may be.

One prior spread, the likeliest, would stand for all that the trials leave open: of ten trials such intervals held 85%
instead of 95% of the effects of groups. And a spread that fits groups is too wide for pairs, of which there are many:
many searches without any interaction were told of a sure one. So there are spreads for both, and what each lets expect
counts by its evidence (Hoeting, Madigan, Raftery and Volinsky, 1999, "Bayesian model averaging: a tutorial").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from search.strategy.linear import SPREADS, Array, fit

#: What spread the effect of a pair has, as a share of that of a group.
PAIR_SHARES = (0.05, 0.25, 1.0)
#: Spreads that are less likely than this count for nothing.
NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Weights:
    """Means and squared scales, each (m,), of a t distribution with ``freedom`` degrees, under one prior."""

    log_evidence: float
    means: Array
    squared_scales: Array
    freedom: float


def column_weights(rows: Array, values: Array, first: int, share: float = 1.0) -> list[Weights]:
    """Of the columns from ``first`` on, in units of the ``values`` (n,), under each of SPREADS.

    Of ``rows`` (n, d) the first column is constant. The prior spread of these columns is a ``share`` of the others'.
    """
    scale = float(values.std()) or 1.0
    scaled = (values - values.mean()) / scale
    # A weight on a smaller column is as much larger, and so is its spread.
    rows = np.column_stack([rows[:, :first], share * rows[:, first:]])
    found = []
    for spread in SPREADS:
        each = fit(rows, scaled, spread)
        squared_scales = (np.linalg.inv(each.precision_root) ** 2).sum(0)[first:] * each.rate / each.shape
        unit = scale * share
        found.append(Weights(each.log_evidence, unit * each.mean[first:], unit**2 * squared_scales, 2 * each.shape))
    return found


def intervals(weights: Sequence[Weights]) -> tuple[Array, Array, Array]:
    """(m,) means, lower and upper bounds of 95% intervals: a t distribution again, as wide as its parts together.

    ``weights`` of one model under several priors, all of the same freedom.
    """
    counted = list(zip(chances([each.log_evidence for each in weights]), weights, strict=True))
    none = np.zeros_like(weights[0].means)
    mean = sum((chance * each.means for chance, each in counted), none)
    squared = sum((chance * (each.squared_scales + (each.means - mean) ** 2) for chance, each in counted), none)
    reach = np.sqrt(squared) * float(stdtrit(weights[0].freedom, 0.975))
    return mean, mean - reach, mean + reach


def chances(log_evidence: Sequence[float]) -> Array:
    """(k,) probabilities, which sum to one, of priors that are equally likely before."""
    relative: Array = np.exp(np.array(log_evidence) - max(log_evidence))
    relative[relative < NEGLIGIBLE] = 0.0
    probabilities: Array = relative / relative.sum()
    return probabilities

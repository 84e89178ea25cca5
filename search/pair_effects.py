"""Effects of all pairs of groups where trials are fewer: the regression of search/strategy/linear.py, in dual form."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from search.effect_intervals import PAIR_SHARES, Weights, chances
from search.strategy.linear import LEVEL, SPREADS, Array, noise


def pair_weights(main: Array, flags: Array, values: Array) -> list[Weights]:
    """Each (g (g - 1) / 2,) in the order of ``itertools.combinations``; of the priors that count.

    What :func:`~search.effect_intervals.column_weights` says of ``values`` (n,), given ``main`` (n, d), the first of
    its columns constant, and beside it the products of each two columns of ``flags`` (n, g >= 2), under each of
    PAIR_SHARES. Instead of the weights' precision this takes the values' covariance, n x n (Rasmussen and Williams,
    "Gaussian Processes for Machine Learning", sections 2.1 and 2.7): memory grows with n^2 and g^2, time with n^3 and
    n^2 g^2.
    """
    scale = float(values.std()) or 1.0
    scaled = (values - values.mean()) / scale
    products, squares = flags @ flags.T, flags**2
    alone = main[:, 1:] @ main[:, 1:].T
    # A squared sum has each pair twice, and the squares.
    paired = (products**2 - squares @ squares.T) / 2

    def fit(spread: float, share: float) -> tuple[float, Array, float, float]:
        covariance = np.eye(len(values)) + 1 / LEVEL + spread**2 * (alone + share**2 * paired)
        root = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        white = solve_triangular(root, scaled, lower=True)
        shape, rate = noise(len(values), float(white @ white))
        return float(-np.log(np.diag(root)).sum() - shape * np.log(rate)), root, shape, rate

    def weights(spread: float, share: float) -> Weights:
        log_evidence, root, shape, rate = fit(spread, share)
        prior = (spread * share) ** 2
        dual = cho_solve((root, True), scaled)
        means = prior * ((flags.T * dual) @ flags)[np.triu_indices(flags.shape[1], 1)]
        # Woodbury's identity; a group at a time with those after it: all columns at once would be the larger part.
        told = [
            (solve_triangular(root, flags[:, [a]] * flags[:, a + 1 :], lower=True) ** 2).sum(0)
            for a in range(flags.shape[1] - 1)
        ]
        squared_scales = (prior - prior**2 * np.concatenate(told)) * rate / shape
        return Weights(log_evidence, scale * means, scale**2 * squared_scales, 2 * shape)

    priors = list(product(SPREADS, PAIR_SHARES))
    counts = chances([fit(*prior)[0] for prior in priors]) > 0
    return [weights(*prior) for prior, count in zip(priors, counts, strict=True) if count]

"""Effects of all pairs of groups where trials are fewer: the regression of search/strategy/linear.py, in dual form."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_solve, solve_triangular

from search.strategy.linear import LEVEL, SPREADS, Array, half_interval, noise


def pair_intervals(main: Array, flags: Array, values: Array) -> tuple[Array, Array, Array]:
    """Means, lower and upper bounds, each (g (g - 1) / 2,) in the order of ``itertools.combinations``.

    What :class:`~search.strategy.linear.LinearPosterior` says of ``values`` (n,), given ``main`` (n, d), the first of
    its columns constant, and beside it the products of each two columns of ``flags`` (n, g >= 2). Instead of the
    weights' precision this takes the values' covariance, n x n (Rasmussen and Williams, "Gaussian Processes for
    Machine Learning", sections 2.1 and 2.7): memory grows with n^2 and g^2, time with n^3 and n^2 g^2.
    """
    centre, scale = float(values.mean()), float(values.std()) or 1.0
    scaled = (values - centre) / scale
    products, squares = flags @ flags.T, flags**2
    # A squared sum has each pair twice, and the squares.
    alike = main[:, 1:] @ main[:, 1:].T + (products**2 - squares @ squares.T) / 2

    def fit(spread: float) -> tuple[float, float, Array, float, float]:
        covariance = np.eye(len(values)) + 1 / LEVEL + spread**2 * alike
        root = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        white = solve_triangular(root, scaled, lower=True)
        shape, rate = noise(len(values), float(white @ white))
        return float(-np.log(np.diag(root)).sum() - shape * np.log(rate)), spread**2, root, shape, rate

    _, prior, root, shape, rate = max((fit(spread) for spread in SPREADS), key=lambda fitted: fitted[0])
    weights = cho_solve((root, True), scaled)
    means = scale * prior * ((flags.T * weights) @ flags)[np.triu_indices(flags.shape[1], 1)]
    # Woodbury's identity; a group at a time with those after it, since all columns at once would be the larger part.
    told = [
        (solve_triangular(root, flags[:, [a]] * flags[:, a + 1 :], lower=True) ** 2).sum(0)
        for a in range(flags.shape[1] - 1)
    ]
    reach = scale * half_interval(prior - prior**2 * np.concatenate(told), shape, rate)
    return means, means - reach, means + reach

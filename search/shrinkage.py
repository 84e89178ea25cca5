"""What a trial's accuracy is likely to be beyond the luck of its rows: its own figure, weighed with its neighbours'."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from objectives.placement import Placement
from search.strategy.belief import bent
from search.strategy.linear import Array, LinearPosterior, features

#: Trials that it takes; fewer keep their own figures.
_ENOUGH = 8
#: The relation of loss and accuracy is drawn over trials that are at most so many standard errors behind the best one:
#: over all of them it is no line, and only these can be recommended. At least over the best ``_ENOUGH``.
_REACH = 6.0
#: Of what a trial's own loss says beside what its groups explain of it: how far a standard deviation of the explained
#: losses is believed to move accuracy, in standard deviations of accuracy.
_OWN_LOSS = 0.5
#: How far a placement may be off the line, in standard errors of its figure.
_SCATTER = np.append(0.0, np.geomspace(0.1, 10.0, 15))


def estimates(
    placements: Sequence[Placement], accuracy: Array, standard_error: Array, loss: Array
) -> tuple[Array, Array] | None:
    """(n,) expected accuracies and their standard errors, from (n,) measured ones; None from too few trials.

    The estimator of Fay and Herriot (1979) for small areas: accuracy a = x'b + v + e, where e has the known variance of
    a count, and v, how far a placement is off the line x'b, has an unknown one. Here x is the validation loss, which is
    far less noisy than accuracy: what a linear model of the groups and the rank explains of it
    (:class:`~search.strategy.linear.LinearPosterior`), and what is left, which has the luck of this one training, and
    of the rows that accuracy was counted on too, so that its coefficient is held near zero by a normal prior. The
    variance of v is averaged over by its likelihood, since its best single value is often zero, which would believe the
    line alone. Figures that are too far behind the best one to be recommended stay as measured.
    """
    if len(accuracy) < _ENOUGH or not np.isfinite(loss).all():
        return None
    lead = int(accuracy.argmax())
    near = accuracy >= min(accuracy[lead] - _REACH * standard_error[lead], np.sort(accuracy)[-_ENOUGH])
    if standard_error[near].min() <= 0:
        return None
    rows = features(placements, sorted({name for placement in placements for name in placement.groups}))
    shown = np.array(bent(loss.tolist()))
    whole = LinearPosterior(rows, shown).expected(rows)
    explained, left = whole[near], (shown - whole)[near]
    if np.ptp(explained) <= 1e-9 * np.abs(explained).max():
        return None
    line = np.column_stack([np.ones_like(explained), explained - explained.mean(), left - left.mean()])
    line[:, 1:] /= explained.std()
    own, noise = accuracy[near], standard_error[near] ** 2
    prior = np.diag([0.0, 0.0, 1 / max(_OWN_LOSS * own.std(), 1e-6) ** 2])
    likelihoods, means, variances = [], [], []
    for scatter in _SCATTER * np.sqrt(np.median(noise)):
        spread = noise + scatter**2
        weighted = line / spread[:, None]
        root = np.linalg.cholesky(line.T @ weighted + prior)
        weights = np.linalg.solve(root.T, np.linalg.solve(root, weighted.T @ own))
        residual = own - line @ weights
        trust = scatter**2 / spread  # in the trial's own figure
        unsure = (np.linalg.solve(root, line.T) ** 2).sum(0)  # of the line, at each trial
        # Of the residuals, with the line integrated out.
        squares = np.log(spread) + residual**2 / spread
        likelihoods.append(-0.5 * float(squares.sum() + weights @ prior @ weights) - float(np.log(np.diag(root)).sum()))
        means.append(own - (1 - trust) * residual)
        variances.append(trust * noise + (1 - trust) ** 2 * unsure)
    chance = np.exp(np.array(likelihoods) - max(likelihoods))
    chance /= chance.sum()
    mean = chance @ np.array(means)
    variance = chance @ (np.array(variances) + (np.array(means) - mean) ** 2)
    expected, error = accuracy.copy(), standard_error.copy()
    expected[near], error[near] = mean, np.sqrt(variance)
    return expected, error

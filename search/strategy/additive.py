"""What the trials so far say of every placement, and which one to try next.

The model is Bayesian linear regression on what a placement is made of (Bishop, "Pattern Recognition and Machine
Learning", 2006, sections 3.3 and 3.5): one effect for each group, the rank, and how many groups there are, since gains
saturate. It is fitted to the validation loss, which is far less noisy than accuracy, and a line maps loss to accuracy.
The next placement is the one with the largest expected gain in hypervolume over the front of what is *believed* of the
tried placements, not of their lucky figures (Daulton et al., "Parallel Bayesian Optimization of Multiple Noisy
Objectives with Expected Hypervolume Improvement", 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objectives.placement import Placement

Array = NDArray[np.float64]

#: Draws from the posterior over which the gain is averaged.
_DRAWS = 128
#: Prior standard deviations of an effect, in units of the noise; the evidence chooses among them.
_SPREADS = np.geomspace(0.1, 30.0, 12)


@dataclass(frozen=True)
class Observation:
    """A complete trial. ``loss`` may be missing (None): then accuracy is modelled directly."""

    placement: Placement
    accuracy: float
    ratio: float
    loss: float | None = None


def features(placements: Sequence[Placement], groups: Sequence[str]) -> Array:
    """(placements, 4 + groups): constant, square root of the count, log2 of the rank, their product, a flag a group."""
    index = {name: i for i, name in enumerate(groups)}
    rows = np.zeros((len(placements), 4 + len(groups)))
    for row, placement in zip(rows, placements, strict=True):
        count = np.sqrt(len(placement.groups))
        rank = np.log2(placement.rank) - 3.0
        row[:4] = 1.0, count, rank, rank * count
        for name in placement.groups:
            row[4 + index[name]] = 1.0
    return rows


class LinearPosterior:
    """Of the weights of a linear model with Gaussian noise, both scales chosen by the evidence."""

    def __init__(self, rows: Array, values: Array) -> None:
        """``rows`` (n, d), the first column constant; ``values`` (n,). Needs n >= 2."""
        self._centre, self._scale = float(values.mean()), float(values.std()) or 1.0
        scaled = (values - self._centre) / self._scale
        fits = [_fit(rows, scaled, spread) for spread in _SPREADS]
        _, self.mean, self._root, self.noise = max(fits, key=lambda fit: fit[0])
        self.noise *= self._scale

    @property
    def covariance(self) -> Array:
        """(d, d) of the weights for noise of 1: the inverse of prior precision and rows' products together."""
        root = self._root / (self.noise / self._scale)
        covariance: Array = root @ root.T
        return covariance

    def draws(self, rows: Array, count: int, random: np.random.Generator) -> Array:
        """(count, n) joint draws of the noiseless values at ``rows`` (n, d)."""
        weights = self.mean + random.standard_normal((count, len(self.mean))) @ self._root.T
        drawn: Array = self._centre + self._scale * weights @ rows.T
        return drawn

    def left_out(self, rows: Array, values: Array) -> Array:
        """(n,) what the model would predict for each of the rows that it was fitted to, without that row."""
        leverage = np.einsum("nd,de,ne->n", rows, self.covariance, rows)
        left_out: Array = values - (values - self.expected(rows)) / np.clip(1 - leverage, 1e-3, None)
        return left_out

    def expected(self, rows: Array) -> Array:
        """(n,) posterior means."""
        expected: Array = self._centre + self._scale * rows @ self.mean
        return expected


def _fit(rows: Array, values: Array, spread: float) -> tuple[float, Array, Array, float]:
    """Log evidence, mean, a root of the covariance and the noise, for weights of ``spread`` times the noise.

    The noise variance is integrated out under an inverse gamma prior (the normal inverse gamma model), which keeps few
    trials from being believed exactly.
    """
    count, width = rows.shape
    prior = np.full(width, spread**-2.0)
    prior[0] = 1e-4  # the level is free
    precision = rows.T @ rows + np.diag(prior)
    root = np.linalg.cholesky(precision)
    mean = np.asarray(np.linalg.solve(precision, rows.T @ values), dtype=np.float64)
    shape, rate = 1.0 + count / 2, 0.05 + 0.5 * max(float(values @ values - mean @ precision @ mean), 0.0)
    log_evidence = float(0.5 * np.log(prior).sum() - np.log(np.diag(root)).sum() - shape * np.log(rate))
    noise = float(np.sqrt(rate / shape))
    return log_evidence, mean, noise * np.linalg.inv(root).T, noise


@dataclass(frozen=True)
class Belief:
    """Of placements (n,): expected accuracy and ratio, and joint draws (draws, n) of the accuracy."""

    accuracy: Array
    ratio: Array
    draws: Array


def believe(
    seen: Sequence[Observation], about: Sequence[Placement], groups: Sequence[str], random: np.random.Generator
) -> Belief:
    """What ``seen`` (two or more) says of the placements ``about``, tried ones included."""
    tried = features([o.placement for o in seen], groups)
    rows = features(about, groups)
    accuracies = np.array([o.accuracy for o in seen])
    ratios = LinearPosterior(tried, np.log([o.ratio for o in seen]))
    losses = [o.loss for o in seen if o.loss is not None]
    if len(losses) < len(seen):
        model = LinearPosterior(tried, accuracies)
        return Belief(model.expected(rows), np.exp(ratios.expected(rows)), model.draws(rows, _DRAWS, random))
    # Over the trials of a search accuracy is close to a line in the loss; what is left is mostly noise of counting.
    loss = np.array(losses)
    model = LinearPosterior(tried, loss)
    line = LinearPosterior(_on_line(loss, loss), accuracies)

    def to_accuracy(values: Array) -> Array:
        return np.clip(line.expected(_on_line(values.reshape(-1), loss)), 0.0, 1.0).reshape(values.shape)

    drawn = model.draws(rows, _DRAWS, random)
    return Belief(to_accuracy(model.expected(rows)), np.exp(ratios.expected(rows)), to_accuracy(drawn))


def _on_line(values: Array, scale: Array) -> Array:
    """(n, 2): a constant, and ``values`` (n,) in standard deviations from the mean of ``scale``."""
    return np.column_stack([np.ones_like(values), (values - scale.mean()) / (scale.std() or 1.0)])


def expected_gain(belief: Belief, tried: NDArray[np.bool_]) -> Array:
    """(n,) expected hypervolume, in (accuracy, 1 / ratio) over (0, 0), that each placement adds to the tried ones.

    In each draw the front is that of the tried placements' drawn accuracies. Zero for the tried ones themselves.
    """
    speed = 1 / np.maximum(belief.ratio, 1.0)
    order = np.argsort(-speed[tried], kind="stable")
    steps = np.append(speed[tried][order], 0.0)
    gains = np.zeros(belief.draws.shape)
    for gain, drawn in zip(gains, belief.draws, strict=True):
        # heights[i]: what the front reaches at any speed between steps[i] and the faster ones before it
        heights = np.concatenate([[0.0], np.maximum.accumulate(drawn[tried][order])])
        upper = np.concatenate([[1.0], steps[:-1]])
        for low, high, height in zip(steps, upper, heights, strict=True):
            width = np.clip(np.minimum(speed, high) - low, 0.0, None)
            gain += width * np.clip(drawn - height, 0.0, None)
    expected: Array = gains.mean(0)
    expected[tried] = 0.0
    return expected


def explains(seen: Sequence[Observation], groups: Sequence[str]) -> bool:
    """Whether the model predicts trials that it is not shown: by rank, better than chance would.

    Leave-one-out residuals of a linear model follow from one fit (Allen's PRESS, 1974); the bar is Spearman's
    correlation above its 90% quantile under independence.
    """
    rows = features([o.placement for o in seen], groups)
    known = [o.accuracy if o.loss is None else -o.loss for o in seen]
    values = np.array(known)
    predicted = LinearPosterior(rows, values).left_out(rows, values)
    correlation = np.corrcoef(predicted.argsort().argsort(), values.argsort().argsort())[0, 1]
    return bool(correlation > 1.28 / np.sqrt(len(seen) - 1))

"""What the trials so far say of the accuracy and latency of any placement.

The validation loss is far less noisy than accuracy, so it is the loss that is modelled
(:mod:`search.strategy.curves`), and a curve maps it to accuracy: over the trials of a search accuracy is close to a
line in some power of the loss, and what is left is mostly the noise of counting. What is believed of a placement is
therefore not its own lucky figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from objectives.placement import Placement
from search.strategy.curves import CurvePosterior
from search.strategy.gain import Belief
from search.strategy.linear import Array, LinearPosterior, features

_DRAWS = 128
#: Complete trials that it takes to draw a line.
_LINE = 3
#: Accuracy is a line in one of these powers of 1 / loss, 0 standing for its logarithm. The evidence chooses: it is near
#: -1/2 on the demonstration, 0 on SNIPS, 1/2 to 1 on TREC-6; a wrong one favours one end of the front over the other.
_POWERS = (-1.0, -0.5, 0.0, 0.5, 1.0)

#: Rank correlation of predictions with what came of it from which the model is worth asking. It was 0.8 to 0.99 over
#: all trials of five of seven searches, 0.6 of the two noisiest, and there 0.2 of the first dozen.
_USEFUL = 0.5
#: Rank correlation of the losses of complete trials with their accuracies from which half of the steps are enough. It
#: was 0.82 to 1 in replays of five tables, and -0.2 to 0.8 on CoCoHD, where accuracy is mostly noise.
_TELLING = 0.8


@dataclass(frozen=True)
class Observation:
    """A trial: ``course`` has its losses so far, see :mod:`search.strategy.fidelity`, :func:`bent`, or where there are
    no losses the accuracy times -1 for each; ``accuracy`` if it is complete.

    ``ratio`` is its latency ratio. Nothing is known yet of the course of one that has just begun.
    """

    placement: Placement
    ratio: float
    course: tuple[float, ...] = ()
    accuracy: float | None = None


def bent(losses: Sequence[float]) -> tuple[float, ...]:
    """-1 / loss: what groups add up to. Each group that joins lowers a high loss by more than a low one.

    The power transform of Box and Cox (1964) with the exponent -1, which the evidence chose, or nearly, on all recorded
    tables. Predictions of placements that were not trained rank with 0.91 to 0.96 after 24 trials, those of the
    loss itself with 0.83 to 0.88. Losses are above 0.
    """
    return tuple(-1.0 / max(loss, 1e-6) for loss in losses)


def believe(
    seen: Sequence[Observation],
    about: Sequence[Placement],
    groups: Sequence[str],
    levels: int,
    random: np.random.Generator,
) -> Belief:
    """Of the placements ``about``, from trials of ``levels`` losses each if complete; two or more have a course."""
    learned = [o for o in seen if o.course]
    losses = np.full((len(learned), levels), np.nan)
    for row, observation in zip(losses, learned, strict=True):
        row[: len(observation.course)] = observation.course
    rows = features(about, groups)
    known = features([o.placement for o in seen], groups)
    posterior = CurvePosterior(known[[bool(o.course) for o in seen]], losses)
    number = {o.placement: i for i, o in enumerate(learned)}
    index = np.array([number.get(placement, -1) for placement in about])
    draws = _to_accuracy(learned, posterior.draws(rows, index, _DRAWS, random))
    measured = {o.placement: o.ratio for o in seen}
    expected = expected_ratios(seen, about, groups)
    return Belief(draws, np.array([measured.get(p, e) for p, e in zip(about, expected, strict=True)]))


def expected_ratios(seen: Sequence[Observation], about: Sequence[Placement], groups: Sequence[str]) -> Array:
    """(about,) latency ratios by what the groups of those ``seen`` add, two or more: their logarithms are a sum."""
    ratios = LinearPosterior(features([o.placement for o in seen], groups), np.log([o.ratio for o in seen]))
    expected: Array = np.exp(ratios.expected(features(about, groups)))
    return expected


class _Line:
    """Accuracy as a line in a power of 1 / loss, fitted to complete trials."""

    def __init__(self, power: float, inverse: Array, accuracy: Array) -> None:
        """``inverse`` losses, above zero, and ``accuracy``, both (n,)."""
        self._power = power
        values = self._powered(inverse)
        self._centre, self._scale = values.mean(), values.std() or 1.0
        self._posterior = LinearPosterior(self._rows(inverse), accuracy)
        self.log_evidence = self._posterior.log_evidence
        low, high = self(np.array([inverse.min(), inverse.max()]))
        self.rises = bool(low < high)

    def __call__(self, inverse: Array) -> Array:
        """Expected accuracies, in the shape of ``inverse``."""
        expected: Array = self._posterior.expected(self._rows(inverse.reshape(-1))).reshape(inverse.shape)
        return expected

    def _powered(self, inverse: Array) -> Array:
        powered: Array = np.log(inverse) if self._power == 0 else np.sign(self._power) * inverse**self._power
        return powered

    def _rows(self, inverse: Array) -> Array:
        return np.column_stack([np.ones_like(inverse), (self._powered(inverse) - self._centre) / self._scale])


def _to_accuracy(learned: Sequence[Observation], courses: Array) -> Array:
    """As long as too few trials are complete to draw a line, the logarithm of the loss stands for accuracy."""
    known = -np.array([o.course[-1] for o in learned])
    lowest = max(known.min() / 2, 1e-6)  # at most twice the highest loss so far: what is drawn may lie on any side of 0
    inverse = np.maximum(-courses, lowest)
    complete = [(-o.course[-1], o.accuracy) for o in learned if o.accuracy is not None]
    if len(complete) >= _LINE:
        ended, accuracy = np.array(complete).T
        lines = [_Line(power, np.maximum(ended, lowest), accuracy) for power in _POWERS]
        line = max(lines, key=lambda line: line.log_evidence)
        if line.rises:  # else less loss came with less accuracy: the few differ by chance
            return line(inverse)
    logarithm: Array = np.log(inverse)
    return logarithm


def explains(seen: Sequence[Observation], groups: Sequence[str]) -> bool:
    """Whether the model may predict losses that it is not shown, as far as these trials tell.

    Asked of the first losses, which all trials have. Leave-one-out residuals of a linear model follow from one fit
    (Allen's PRESS, 1974).
    """
    known = [o for o in seen if o.course]
    rows = features([o.placement for o in known], groups)
    values = np.array([o.course[0] for o in known])
    predicted = LinearPosterior(rows, values).left_out(rows, values)
    return _may_rank(predicted, values, _USEFUL)


def tells(seen: Sequence[Observation]) -> bool:
    """Whether less loss may mean more accuracy, as far as complete trials tell."""
    complete = [(-o.course[-1], o.accuracy) for o in seen if o.accuracy is not None and o.course]
    inverse, accuracy = np.array(complete).reshape(-1, 2).T
    return _may_rank(inverse, accuracy, _TELLING)


def _may_rank(one: Array, other: Array, useful: float) -> bool:
    """Whether Spearman's correlation may be ``useful``, as far as these pairs tell.

    It is above the 10% quantile of what it then would be (Fisher's transformation): few noisy pairs refute nothing.
    """
    if len(one) <= 3 or one.std() == 0 or other.std() == 0:
        return True
    correlation = np.corrcoef(_ranks(one), _ranks(other))[0, 1]
    return bool(correlation > np.tanh(np.arctanh(useful) - 1.28 / np.sqrt(len(one) - 3)))


def _ranks(values: Array) -> Array:
    """Equal values share the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (counts.cumsum() - (counts - 1) / 2)[index]
    return ranks


def design(tried: Sequence[Placement], candidates: Sequence[Placement], groups: Sequence[str]) -> Array:
    """(candidates,) how much a trial of each would tell of all effects: the variance that a linear model has of it.

    To take the largest again and again is the greedy D-optimal design (Fedorov, 1972). With flags for two-level factors
    it ends near a Plackett-Burman design, and it takes bands, ranks and forbidden placements as they are.
    """
    rows = features(candidates, groups)
    precision = 0.1 * np.eye(rows.shape[1])
    if tried:
        known = features(tried, groups)
        precision += known.T @ known
    variance: Array = np.einsum("nd,de,ne->n", rows, np.linalg.inv(precision), rows)
    # Many are equal, which is not to hang on rounding: that differs between processors.
    return variance.round(9)

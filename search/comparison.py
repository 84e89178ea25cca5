"""How placements compare across tasks: gain, regret, its worst case, how stable their order is, and a default.

Plain values in and out. Placements of one task are measured on the same rows, so their errors are correlated and
differences are more exact than the accuracies themselves; tasks are independent of each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.latency.paired import Ratio

Array = NDArray[np.float64]
#: Times of the same requests, of the base model and of the adapted one.
Requests = tuple[Sequence[float], Sequence[float]]
#: Draws of what other rows could have given; a quantile of 95% then moves by under a twentieth of itself.
DRAWS = 4000
_Z = 1.959964  # 97.5% of a normal distribution lie below


@dataclass(frozen=True)
class Measured:
    """One model on the rows of one task; ``scores`` has one value a row in [0, 1], or is empty where none were kept."""

    accuracy: float
    standard_error: float
    rows: int
    scores: tuple[float, ...] = ()

    @classmethod
    def of(cls, evaluation: Mapping[str, Any]) -> Measured:
        """From what a trial or base model was measured at on one split."""
        return cls(
            evaluation["accuracy"],
            evaluation["standard_error"],
            evaluation["rows"],
            tuple(evaluation.get("scores") or ()),  # searches of older versions lack them
        )


@dataclass(frozen=True)
class Task:
    """``placements`` stand in the same order in every task."""

    base: Measured
    placements: tuple[Measured, ...]

    @property
    def paired(self) -> bool:
        """Whether all were scored on the same rows, and these scores are known."""
        measured = (self.base, *self.placements)
        return len({len(each.scores) for each in measured}) == 1 and len(self.base.scores) > 1


@dataclass(frozen=True)
class Bounded:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Fractions of 1. ``gains`` and ``regrets`` are by task, then by placement; the others by placement."""

    gains: list[list[Bounded]]
    regrets: list[list[Bounded]]
    mean_regrets: list[Bounded]
    worst_regrets: list[Bounded]
    #: What one standard error of sampling does to the worst regret of a placement less that of another one.
    worst_errors: Array


def lead(one: Measured, other: Measured) -> Bounded:
    """By how much ``one`` is more accurate than ``other`` on the rows of one task."""
    return compare([Task(other, (one,))]).gains[0][0]


def mean_lead(leads: Sequence[Bounded]) -> Bounded:
    """Over tasks, whose errors are independent of each other."""
    value = sum(each.value for each in leads) / len(leads)
    reach = float(np.sqrt(sum(((each.high - each.low) / 2) ** 2 for each in leads))) / len(leads)
    return Bounded(value, max(-1.0, value - reach), min(1.0, value + reach))


def compare(tasks: Sequence[Task], seed: int = 0) -> Comparison:
    """Every figure with its interval over evaluation rows. Raises ValueError without tasks or without placements.

    Regret is the accuracy of the task's best placement minus a placement's own. The best is chosen by the same noisy
    figures, so resampling regret itself would put the interval of tied placements above 0. What is known without that
    bias are differences of two placements: with probability 95% none that a regret looks at is off by more than
    ``reach``, and then no regret, nor a mean or a maximum of regrets, is (as in multiple comparisons with the best:
    Hsu, 1984, Annals of Statistics 12, 1136-1144). Such an interval is wide rather than wrong.
    """
    if not tasks or not tasks[0].placements:
        raise ValueError("a comparison needs a task and a placement")
    random = np.random.default_rng(seed)
    covariances = [covariance(task) for task in tasks]
    accuracy = np.array([[each.accuracy for each in task.placements] for task in tasks])
    base = np.array([task.base.accuracy for task in tasks])
    # Index 0 of a covariance is the base model, which no regret looks at.
    noise = np.stack(
        [
            random.multivariate_normal(np.zeros(len(each) - 1), each[1:, 1:], DRAWS, method="eigh")
            for each in covariances
        ]
    )  # task, draw, placement
    regret = _regret(accuracy)
    reach = np.stack([np.abs(noise - noise[..., [i]]).max(-1) for i in range(accuracy.shape[1])], -1)
    return Comparison(
        [_gains(base[t], accuracy[t], covariances[t]) for t in range(len(tasks))],
        [_bounded(regret[t], reach[t]) for t in range(len(tasks))],
        _bounded(regret.mean(0), reach.mean(0)),
        _bounded(regret.max(0), reach.max(0)),
        _errors(_regret(accuracy[:, None, :] + noise).max(0)),
    )


def covariance(task: Task) -> Array:
    """Of the errors of accuracies: base model first, then the placements.

    From the rows' scores where all were kept, else from standard errors, as if no two shared a row: too wide for
    differences, since what is hard for one placement is hard for others. Half a row is added to every variance, so that
    models that answer alike are not certain to be equal (Agresti and Min, 2005, Statistics in Medicine 24, 729-740:
    half a row in each cell of the table of two models).
    """
    measured = (task.base, *task.placements)
    rows = task.base.rows
    if task.paired:
        found = np.cov(np.array([each.scores for each in measured])) / rows
    else:
        found = np.diag([each.standard_error**2 for each in measured])
    smoothed: Array = found + np.eye(len(measured)) / (2 * rows**2)
    return smoothed


def robust_default(
    comparison: Comparison, ratios: Sequence[Ratio], max_ratio: float | None = None
) -> tuple[int, list[int]] | None:
    """Index of the placement for tasks that are not known yet, and those of faster ones that were passed over for it.

    Minimax regret (Savage, 1951) up to ties: of the placements under the cap, the fastest whose worst regret the rows
    cannot tell from the smallest, at 95% by the standard error of the difference, which rows share. So latency decides
    where accuracy cannot, and not the luck of a few rows. Nor does the luck of a measured latency: of the ties that are
    slower than the fastest by no more than one standard error of the difference, the smallest worst regret is taken.
    None if the cap allows no placement.
    """
    latency = [ratio.value for ratio in ratios]
    allowed = [i for i, ratio in enumerate(latency) if max_ratio is None or ratio <= max_ratio]
    if not allowed:
        return None
    worst = [each.value for each in comparison.worst_regrets]
    best = min(allowed, key=lambda i: (worst[i], latency[i]))
    tied = [i for i in allowed if worst[i] - worst[best] <= _Z * comparison.worst_errors[i, best]]
    fastest = min(tied, key=lambda i: (latency[i], worst[i]))
    # What is slower than the minimax placement has nothing to be taken for.
    as_fast = [i for i in tied if latency[i] <= latency[best] and not ratios[i].exceeds(ratios[fastest])]
    chosen = min(as_fast, key=lambda i: (worst[i], latency[i]))
    return chosen, sorted((i for i in tied if latency[i] < latency[chosen]), key=lambda i: latency[i])


def rival(comparison: Comparison, ratios: Sequence[float], default: int) -> tuple[int, str] | None:
    """What a default is told against, and what that is: another placement of interest; None where there is no other.

    On a server many placements have one latency: what is as slow as the default is not the slowest, and no news.
    """
    every = range(len(ratios))
    best = min(every, key=lambda i: (comparison.mean_regrets[i].value, ratios[i]))
    if best != default:
        return best, "the most accurate on average"
    for what, other in (
        ("the slowest", max(every, key=lambda i: ratios[i])),
        ("the fastest", min(every, key=lambda i: ratios[i])),
    ):
        if ratios[other] != ratios[default]:
            return other, what
    return None


def tail_saving(one: Requests, other: Requests, seed: int = 0) -> Bounded:
    """By what share the 95th percentile of ``one`` is lower than that of ``other``, each relative to its base model.

    Times of requests that went to base and adapted model by turns, so that load of other times cancels. The interval
    is a percentile bootstrap over requests, of which there are few: one slow moment makes it wide, as it should.
    """
    random = np.random.default_rng(seed)
    points, draws = zip(*(_tail(each, random) for each in (one, other)), strict=True)
    saved = 1 - draws[0] / draws[1]
    low, high = np.quantile(saved, [0.025, 0.975])
    return Bounded(1 - points[0] / points[1], float(low), float(high))


def _tail(requests: Requests, random: np.random.Generator) -> tuple[float, Array]:
    """Adapted over base, as measured and in resamples."""
    base, adapted = (np.asarray(times) for times in requests)
    picks = random.integers(len(base), size=(DRAWS, len(base)))
    resampled: Array = np.percentile(adapted[picks], 95, axis=1) / np.percentile(base[picks], 95, axis=1)
    return float(np.percentile(adapted, 95) / np.percentile(base, 95)), resampled


def rank_stability(accuracies: Sequence[Sequence[float]]) -> float | None:
    """Mean Kendall tau-b over all pairs of tasks: 1 where all tasks order the placements alike, 0 where by chance.

    None where no pair of tasks has two placements that differ in both.
    """
    pairs = [kendall_tau_b(one, other) for one, other in itertools.combinations(accuracies, 2)]
    known = [tau for tau in pairs if tau is not None]
    return sum(known) / len(known) if known else None


def kendall_tau_b(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall (1945), "The treatment of ties in ranking problems"; None where one side is all ties."""
    a, b = (np.sign(np.subtract.outer(values, values)) for values in (one, other))
    scale = float((a * a).sum() * (b * b).sum())
    return float((a * b).sum()) / scale**0.5 if scale else None


def _regret(accuracy: Array) -> Array:
    regret: Array = accuracy.max(-1, keepdims=True) - accuracy
    return regret


def _bounded(values: Array, reach: Array) -> list[Bounded]:
    """``reach`` has one row a draw and one column a value."""
    widths = np.quantile(reach, 0.95, axis=0)
    return [
        Bounded(float(value), max(0.0, float(value - width)), min(1.0, float(value + width)))
        for value, width in zip(values, widths, strict=True)
    ]


def _gains(base: float, accuracy: Array, covariance: Array) -> list[Bounded]:
    """The difference of two means; its variance has their covariance in it."""
    variances = covariance.diagonal()[1:] + covariance[0, 0] - 2 * covariance[0, 1:]
    return [
        Bounded(float(gain), max(-1.0, float(gain - width)), min(1.0, float(gain + width)))
        for gain, width in zip(accuracy - base, _Z * np.sqrt(variances), strict=True)
    ]


def _errors(worst: Array) -> Array:
    """Standard deviation of the difference of every two columns."""
    together = np.atleast_2d(np.cov(worst, rowvar=False))
    variances = together.diagonal()
    errors: Array = np.sqrt(np.maximum(0.0, variances[:, None] + variances - 2 * together))
    return errors

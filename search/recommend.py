"""One placement to take, and why: the cheapest that the data cannot tell from the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dashboards.format import faster_by_noise, latency_name, metric_name
from objectives.latency.paired import Ratio
from objectives.placement import Placement
from search.pareto import front
from search.shrinkage import estimates

#: What is exactly one standard error behind is within it: 499 of 500 rows, where the best has all.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Candidate:
    """A complete trial; ``accuracy``, its ``standard_error`` and ``loss`` are measured on validation."""

    trial: int
    placement: Placement
    accuracy: float
    standard_error: float
    ratio: Ratio
    loss: float | None = None


@dataclass(frozen=True)
class Recommendation:
    trial: int
    why: str


def recommend(candidates: Sequence[Candidate], base_accuracy: float, metric: str, axis: str) -> Recommendation | None:
    """The one-standard-error rule (Breiman et al., 1984, section 3.4.3) with latency as the cost.

    Of the front's members whose expected accuracy is within one standard error of the highest one, the fastest; of
    those that are slower by no more than one standard error of the difference, and no slower than the best, the one of
    the highest expected accuracy. Where trials have estimates, luck weighs less: the best of many measured figures is
    mostly the luckiest. None without candidates.
    """
    if not candidates:
        return None
    # Of trials that are equal on both axes the front has the first, whatever their order here; the one that is known
    # best says how far the others may stay behind.
    ordered = sorted(candidates, key=lambda c: c.trial)
    members = front([(c.accuracy, c.ratio.value) for c in ordered])  # the cheapest first
    found = _estimates(ordered)
    expected, error = found or ([c.accuracy for c in ordered], [c.standard_error for c in ordered])
    best = max(members, key=lambda i: expected[i])
    bar = min(e for e, c in zip(error, ordered, strict=True) if _same_point(c, ordered[best]))
    # What is slower than the best has nothing to be taken for.
    no_slower = members[: members.index(best) + 1]
    within = [i for i in no_slower if expected[i] >= expected[best] - bar - _ROUNDING]
    fastest = within[0]
    # A latency that is lower by luck alone is worth no accuracy: of two ranks it is as often that of the worse one.
    picked = max((i for i in within if not ordered[i].ratio.exceeds(ordered[fastest].ratio)), key=lambda i: expected[i])
    chosen = ordered[picked]
    cost = f"{latency_name(axis)} {chosen.ratio.value:.3f} times the base model's"
    metric = metric_name(metric)
    figure = f"expected {metric}" if found else f"validation {metric}"
    passed_over = [ordered[i] for i in within if ordered[i].ratio.value < chosen.ratio.value]
    but = faster_by_noise([(c.placement.label, c.ratio.value) for c in passed_over], chosen.ratio.value)
    if picked == best:
        why = (
            f"{chosen.placement.label} has the front's highest {figure} ({expected[best]:.3f}), and no faster "
            f"placement of the front comes within one standard error ({bar:.3f}) of it{but}; {cost}"
        )
    else:
        why = (
            f"{chosen.placement.label} is the fastest placement of the front within one standard error ({bar:.3f}) of "
            f"its best {figure}{but}: {expected[picked]:.3f} against {expected[best]:.3f} of "
            f"{ordered[best].placement.label}, at {cost} instead of {ordered[best].ratio.value:.3f}"
        )
    if found:
        why += f"; expected is the trial's own {metric}, weighed with what the losses of all trials say, against luck"
    if expected[picked] <= base_accuracy + error[picked]:
        why += (
            f"; it is not better than the base model ({base_accuracy:.3f}) beyond one standard error: you may need "
            "no adapter"
        )
    return Recommendation(chosen.trial, why)


def _estimates(candidates: Sequence[Candidate]) -> tuple[list[float], list[float]] | None:
    if any(c.loss is None for c in candidates):
        return None
    accuracy, error, loss = np.array([(c.accuracy, c.standard_error, c.loss) for c in candidates], np.float64).T
    found = estimates([c.placement for c in candidates], accuracy, error, loss)
    return found and (found[0].tolist(), found[1].tolist())


def _same_point(one: Candidate, other: Candidate) -> bool:
    return (one.accuracy, one.ratio.value) == (other.accuracy, other.ratio.value)

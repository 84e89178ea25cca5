"""One placement to take, and why: the cheapest that the data cannot tell from the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from objectives.placement import Placement
from search.pareto import front
from search.shrinkage import estimates


@dataclass(frozen=True)
class Candidate:
    """A complete trial; ``accuracy``, its ``standard_error`` and ``loss`` are measured on validation."""

    trial: int
    placement: Placement
    accuracy: float
    standard_error: float
    ratio: float
    loss: float | None = None


@dataclass(frozen=True)
class Recommendation:
    trial: int
    why: str


def recommend(candidates: Sequence[Candidate], base_accuracy: float, metric: str, axis: str) -> Recommendation | None:
    """The one-standard-error rule (Breiman et al., 1984, section 3.4.3) with latency as the cost.

    Of the front's members whose expected accuracy is within one standard error of the highest one, the fastest. Where
    trials have estimates, luck weighs less: the best of many measured figures is mostly the luckiest.
    """
    if not candidates:
        return None
    # Of trials that are equal on both axes the front has the first, whatever their order here; the one that is known
    # best says how far the others may stay behind.
    ordered = sorted(candidates, key=lambda c: c.trial)
    members = front([(c.accuracy, c.ratio) for c in ordered])  # the cheapest first
    found = _estimates(ordered)
    expected, error = found or ([c.accuracy for c in ordered], [c.standard_error for c in ordered])
    best = max(members, key=lambda i: expected[i])
    bar = min(e for e, c in zip(error, ordered, strict=True) if _same_point(c, ordered[best]))
    picked = next(i for i in members if expected[i] >= expected[best] - bar)
    chosen = ordered[picked]
    latency = "TPOT" if axis == "tpot" else "request time"
    cost = f"{latency} {chosen.ratio:.2f} times the base model's"
    figure = f"expected {metric}" if found else f"validation {metric}"
    if picked == best:
        why = (
            f"{chosen.placement.label} has the highest {figure} ({expected[best]:.3f}), and no faster placement comes "
            f"within one standard error ({bar:.3f}) of it; {cost}"
        )
    else:
        why = (
            f"{chosen.placement.label} is the fastest placement within one standard error ({bar:.3f}) of the "
            f"best {figure}: {expected[picked]:.3f} against {expected[best]:.3f} of {ordered[best].placement.label}, "
            f"at {cost} instead of {ordered[best].ratio:.2f}"
        )
    if found:
        why += f"; expected is the trial's own {metric}, weighed with what the losses of all trials say, against luck"
    if expected[picked] <= base_accuracy + error[picked]:
        why += (
            f"; it is not better than the base model ({base_accuracy:.3f}) beyond one standard error: no adapter may do"
        )
    return Recommendation(chosen.trial, why)


def _estimates(candidates: Sequence[Candidate]) -> tuple[list[float], list[float]] | None:
    if any(c.loss is None for c in candidates):
        return None
    accuracy, error, loss = np.array([(c.accuracy, c.standard_error, c.loss) for c in candidates], np.float64).T
    found = estimates([c.placement for c in candidates], accuracy, error, loss)
    return found and (found[0].tolist(), found[1].tolist())


def _same_point(one: Candidate, other: Candidate) -> bool:
    return (one.accuracy, one.ratio) == (other.accuracy, other.ratio)

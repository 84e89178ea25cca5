"""One placement to take, and why: the cheapest that the data cannot tell from the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.pareto import front


@dataclass(frozen=True)
class Candidate:
    trial: int
    label: str
    accuracy: float  # on validation
    standard_error: float
    ratio: float


@dataclass(frozen=True)
class Recommendation:
    trial: int
    why: str


def recommend(candidates: Sequence[Candidate], base_accuracy: float, metric: str, axis: str) -> Recommendation | None:
    """The one-standard-error rule (Breiman et al., 1984, section 3.4.3) with latency as the cost.

    Of all placements within one standard error of the most accurate one, the fastest.
    """
    if not candidates:
        return None
    # Of trials that are equal on both axes the front has the first, whatever their order here; the one that is known
    # best says how far the others may stay behind.
    ordered = sorted(candidates, key=lambda c: c.trial)
    members = [ordered[i] for i in front([_point(c) for c in ordered])]  # the cheapest first
    best = members[-1]
    error = min(c.standard_error for c in candidates if _point(c) == _point(best))
    chosen = next(c for c in members if c.accuracy >= best.accuracy - error)
    latency = "TPOT" if axis == "tpot" else "request time"
    cost = f"{latency} {chosen.ratio:.2f} times the base model's"
    if chosen is best:
        why = (
            f"{chosen.label} has the highest validation {metric} ({best.accuracy:.3f}), and no faster placement comes "
            f"within one standard error ({error:.3f}) of it; {cost}"
        )
    else:
        why = (
            f"{chosen.label} is the fastest placement within one standard error ({error:.3f}) of the "
            f"best validation {metric}: {chosen.accuracy:.3f} against {best.accuracy:.3f} of {best.label}, at {cost} "
            f"instead of {best.ratio:.2f}"
        )
    if chosen.accuracy <= base_accuracy + chosen.standard_error:
        why += (
            f"; it is not better than the base model ({base_accuracy:.3f}) beyond one standard error: no adapter may do"
        )
    return Recommendation(chosen.trial, why)


def _point(candidate: Candidate) -> tuple[float, float]:
    return candidate.accuracy, candidate.ratio

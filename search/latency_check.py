"""What the latencies of a search say of themselves: would the others have told each, and did the machine change?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from objectives.placement import Placement
from search.strategy.linear import LinearPosterior, features


def predicted_ratios(measured: Mapping[Placement, float]) -> list[float | None]:
    """The latency ratio of each placement as all others let expect it, in their order; None from too few of them.

    By the model that the additive strategy has of ratios: their logarithm is linear in the count of groups, the rank
    and a flag a group. Each is left out in turn, in closed form. Needs more placements than the model has weights.
    """
    groups = sorted({name for placement in measured for name in placement.groups})
    rows = features(list(measured), groups)
    if len(rows) <= rows.shape[1]:
        return [None] * len(measured)
    logs = np.log(list(measured.values()))
    return [float(value) for value in np.exp(LinearPosterior(rows, logs).left_out(rows, logs))]


def latency_check(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Errors of predictions as a share of the measured ratio, and the drift of the machine over the trials.

    ``points`` as in the result document, by trial. Drift compares the last quarter of the trials that were measured in
    this search with the first: the base model's own median time, and the ratio over what it was predicted to be, which
    is the same as long as taking turns with the base model keeps the machine out of it (means of logarithms, with
    Welch's 95% interval). None from under eight trials.
    """
    told = [point for point in points if point["tpot_ratio_predicted"] is not None]
    errors = [abs(point["tpot_ratio_predicted"] / point["tpot_ratio"] - 1) for point in told]
    timed = [point for point in points if point["base_p50_ms"] is not None]
    return {
        "predictions": {
            "trials": len(told),
            "median_error": float(np.median(errors)),
            "largest_error": max(errors),
        }
        if told
        else None,
        "drift": _drift(timed) if len(timed) >= 8 else None,
    }


def _drift(timed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    quarter = len(timed) // 4
    first, last = (float(np.median([p["base_p50_ms"] for p in part])) for part in (timed[:quarter], timed[-quarter:]))
    drift: dict[str, Any] = {
        "trials": len(timed),
        "base_first_ms": first,
        "base_last_ms": last,
        "base_change": last / first - 1,
        "ratio_change": None,
        "ratio_change_ci": None,
    }
    over = [p["tpot_ratio"] / p["tpot_ratio_predicted"] for p in timed if p["tpot_ratio_predicted"] is not None]
    if len(over) >= 8:
        from scipy.stats import ttest_ind  # half a second, which every command would wait for

        before, after = np.log(over[: len(over) // 4]), np.log(over[-(len(over) // 4) :])
        bounds = ttest_ind(after, before, equal_var=False).confidence_interval()
        drift["ratio_change"] = float(np.expm1(after.mean() - before.mean()))
        drift["ratio_change_ci"] = [float(np.expm1(bound)) for bound in bounds]
    return drift

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from objectives.placement import Placement
from search.latency_check import latency_check, predicted_ratios

GROUPS = ("down_proj", "k_proj", "o_proj", "q_proj", "up_proj")
EVERY = [Placement.of(names, 8) for size in range(1, 6) for names in combinations(GROUPS, size)]


def measured(noise: float = 0.005) -> dict[Placement, float]:
    random = np.random.default_rng(0)
    return {p: 1.1 ** len(p.groups) * float(np.exp(random.normal(0, noise))) for p in EVERY}


def points(base_ms: list[float], over: list[float]) -> list[dict[str, Any]]:
    """Trials whose ratio was predicted as 1.2 and measured as so many times that."""
    return [
        {"tpot_ratio": 1.2 * times, "tpot_ratio_predicted": 1.2, "base_p50_ms": milliseconds}
        for milliseconds, times in zip(base_ms, over, strict=True)
    ]


def test_a_latency_is_told_by_the_others_and_not_by_itself() -> None:
    ratios = measured()
    odd = EVERY[12]
    ratios[odd] *= 1.5
    told = dict(zip(ratios, predicted_ratios(ratios), strict=True))
    assert told[odd] == pytest.approx(ratios[odd] / 1.5, rel=0.1)
    errors = [abs(told[p] / ratios[p] - 1) for p in EVERY if p != odd]
    assert np.median(errors) < 0.03


def test_as_many_trials_as_weights_tell_nothing() -> None:
    few = dict(list(measured().items())[:9])
    assert predicted_ratios(few) == [None] * 9
    assert predicted_ratios({}) == []


def test_drift_of_the_machine_is_seen_in_the_base_model_and_not_in_ratios() -> None:
    check = latency_check(points([4.0] * 4 + [9.0] * 8 + [5.0] * 4, [0.99, 1.0, 1.01, 1.0] * 4))
    assert check["predictions"] == {
        "trials": 16,
        "median_error": pytest.approx(0.005, abs=0.001),
        "largest_error": pytest.approx(1 / 99, abs=1e-3),
    }
    drift = check["drift"]
    assert (drift["base_first_ms"], drift["base_last_ms"], drift["base_change"]) == (4.0, 5.0, 0.25)
    assert drift["ratio_change"] == pytest.approx(0)
    low, high = drift["ratio_change_ci"]
    assert -0.03 < low < 0 < high < 0.03


def test_drift_that_ratios_do_feel_is_told() -> None:
    check = latency_check(points([4.0] * 16, [1.0, 1.01, 0.99, 1.0] + [1.0] * 8 + [1.2, 1.21, 1.19, 1.2]))
    assert check["drift"]["ratio_change"] == pytest.approx(0.2, abs=0.01)
    assert check["drift"]["ratio_change_ci"][0] > 0.1


def test_nothing_is_told_from_few_trials_or_kept_profiles() -> None:
    assert latency_check(points([4.0] * 7, [1.0] * 7))["drift"] is None
    kept = [{**point, "base_p50_ms": None} for point in points([4.0] * 16, [1.0] * 16)]
    assert latency_check(kept)["drift"] is None
    assert latency_check([]) == {"predictions": None, "drift": None}

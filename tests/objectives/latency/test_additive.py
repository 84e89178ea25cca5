from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.latency.additive import AdditiveModel
from objectives.latency.paired import Ratio

NAMES = ("q", "k", "v", "o", "gate", "up", "down")
#: What a profile measures: each part, three pairs, all.
DESIGN = (
    [frozenset([name]) for name in NAMES] + [frozenset(p) for p in (("q", "v"), ("o", "down"))] + [frozenset(NAMES)]
)
ALL = [frozenset(parts) for size in range(1, 8) for parts in combinations(NAMES, size)]
costs = st.lists(st.floats(0.03, 0.2), min_size=7, max_size=7)


def truth(parts: frozenset[str], cost: Mapping[str, float], start: float) -> float:
    return 1 + start + sum(cost[name] for name in parts)


def measured(value: float, error: float = 0.0) -> Ratio:
    value *= 1 + error
    return Ratio(value, value / 1.02, value * 1.02)


@settings(max_examples=30)
@given(costs=costs, start=st.floats(0.0, 0.1))
def test_an_additive_truth_is_found_without_noise(costs: list[float], start: float) -> None:
    cost = dict(zip(NAMES, costs, strict=True))
    model = AdditiveModel({parts: measured(truth(parts, cost, start)) for parts in DESIGN})
    errors = [abs(model.predict(parts).value / truth(parts, cost, start) - 1) for parts in ALL]
    assert np.median(errors) < 0.02
    assert model.predict(frozenset()) == Ratio(1.0, 1.0, 1.0)


def test_predictions_lie_in_their_intervals_with_noise() -> None:
    generator = np.random.default_rng(0)
    inside, reaches = [], []
    for _ in range(20):
        cost = dict(zip(NAMES, generator.uniform(0.05, 0.13, 7), strict=True))
        noisy = {p: measured(truth(p, cost, 0.04), generator.normal(scale=0.007)) for p in DESIGN}
        model = AdditiveModel(noisy)
        for parts in ALL:
            again = truth(parts, cost, 0.04) * (1 + generator.normal(scale=0.007))
            found = model.predict(parts)
            inside.append(found.low <= again <= found.high)
            reaches.append((found.high - found.low) / 2)
    assert np.mean(inside) > 0.94, "without the noise of the measurement to come 0.91 would be"
    assert np.median(reaches) < 0.04, "endless ones would hold everything"


def test_predictions_of_costs_that_do_not_quite_add_up_lie_in_their_intervals() -> None:
    """What the model cannot say is seen in its residuals: without these 0.93 would be inside."""
    generator = np.random.default_rng(0)
    chosen = [*DESIGN, frozenset(["q", "k", "v", "o"]), frozenset(["gate", "up", "down"])]
    inside = []
    for _ in range(25):
        cost = dict(zip(NAMES, generator.uniform(0.05, 0.2, 7), strict=True))

        def measured_once(parts: frozenset[str], cost: Mapping[str, float] = cost) -> float:
            less = sum(cost[name] for name in parts) ** 0.9
            return float((1.03 + less) * np.exp(generator.normal(scale=0.02)))

        model = AdditiveModel({p: Ratio.reaching(measured_once(p), 0.02 * 1.96 * 2**0.5) for p in chosen})
        for parts in [each for each in ALL if each not in chosen]:
            found = model.predict(parts)
            inside.append(found.low <= measured_once(parts) <= found.high)
    assert np.mean(inside) > 0.945


def test_residuals_ask_for_an_interaction() -> None:
    """Adapting q and k together costs much more than each alone, in every set that holds both."""
    cost = dict.fromkeys(NAMES, 0.1)

    def value(parts: frozenset[str]) -> float:
        return truth(parts, cost, 0.0) + 0.3 * (frozenset("qk") <= parts)

    chosen = [*DESIGN, frozenset("qk"), frozenset("qkv"), frozenset(["q", "k", "o"]), frozenset(["v", "o", "up"])]
    sharp = {p: Ratio(value(p), value(p) / 1.005, value(p) * 1.005) for p in chosen}
    model = AdditiveModel(sharp)
    assert model.interactions == [frozenset("qk")]
    assert model.predict(frozenset(["q", "k", "down"])).value == pytest.approx(1.6, abs=0.02)
    plain = AdditiveModel({p: measured(truth(p, cost, 0.0)) for p in chosen})
    assert plain.interactions == []


def test_residuals_ask_for_another_interaction_behind_the_largest() -> None:
    pairs = {frozenset("qk"): 0.6, frozenset(["o", "up"]): 0.15}

    def sharp(parts: frozenset[str]) -> Ratio:
        value = truth(parts, dict.fromkeys(NAMES, 0.1), 0.0) + sum(pairs[pair] for pair in pairs if pair <= parts)
        return Ratio(value, value / 1.005, value * 1.005)

    triples = [pair | {name} for pair in pairs for name in ("v", "gate", "down")]
    model = AdditiveModel({parts: sharp(parts) for parts in [*DESIGN, *pairs, *triples]})
    assert model.interactions == [*pairs]


def test_what_no_pair_explains_widens_predictions_and_is_no_interaction() -> None:
    """All parts together cost more than they should: of the pairs that only this set holds, any would repeat it."""

    def sharp(parts: frozenset[str]) -> Ratio:
        value = truth(parts, dict.fromkeys(NAMES, 0.1), 0.0) + 0.3 * (len(parts) == len(NAMES))
        return Ratio(value, value / 1.005, value * 1.005)

    model = AdditiveModel({parts: sharp(parts) for parts in DESIGN})
    assert model.interactions == []
    for pair in combinations(NAMES, 2):
        found = model.predict(frozenset(pair))
        assert found.low <= 1.2 <= found.high, "which the width of what was measured would not reach"


def test_noise_wider_than_its_intervals_is_seldom_taken_for_an_interaction() -> None:
    generator = np.random.default_rng(1)
    chosen = [*DESIGN, frozenset(["q", "k", "v", "o"]), frozenset(["gate", "up", "down"])]
    found = []
    for _ in range(20):
        values = {parts: (1.04 + 0.1 * len(parts)) * (1 + generator.normal(scale=0.02)) for parts in chosen}
        found += AdditiveModel({parts: Ratio(v, v / 1.01, v * 1.01) for parts, v in values.items()}).interactions
    assert len(found) < 20, "35 would be if one might leave more than half of the misfit"


def test_one_measurement_is_enough_to_begin_with() -> None:
    model = AdditiveModel({frozenset(["o"]): measured(1.1)})
    assert model.predict(frozenset(["o"])).value == pytest.approx(1.1, abs=0.01)


def test_intervals_without_width_and_without_end_leave_predictions_finite() -> None:
    """A few requests that agree to the last digit have no error to divide by; a single request has an endless one."""
    alone = [frozenset([name]) for name in NAMES]
    told = {parts: Ratio.exact(1.1) for parts in alone[1:]} | {alone[0]: Ratio(5.0, 0.0, float("inf"))}
    predicted = AdditiveModel(told).predict(frozenset(NAMES[1:]))
    assert predicted.value == pytest.approx(1.6, abs=0.1)
    assert np.isfinite([predicted.low, predicted.high]).all()
    exact = AdditiveModel({parts: Ratio.exact(1.1) for parts in alone}).predict(alone[0])
    assert 1.09 < exact.low < exact.value < exact.high < 1.11

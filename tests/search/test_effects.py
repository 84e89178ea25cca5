from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.placement import Placement
from search.effects import effects

GROUPS = ("down_proj", "k_proj", "o_proj", "q_proj", "up_proj")
ADDS = {"down_proj": 0.10, "k_proj": 0.0, "o_proj": 0.06, "q_proj": 0.02, "up_proj": -0.03}
EVERY = [Placement.of(names, 8) for size in range(1, 6) for names in combinations(GROUPS, size)]


def made(count: int, seed: int, noise: float = 0.01) -> tuple[list[Placement], list[float], list[float]]:
    random = np.random.default_rng(seed)
    chosen = [EVERY[i] for i in random.permutation(len(EVERY))[:count]]
    accuracy = [0.5 + sum(ADDS[g] for g in p.groups) + random.normal(0, noise) for p in chosen]
    ratio = [1 + 0.1 * len(p.groups) + random.normal(0, 0.005) for p in chosen]
    return chosen, accuracy, ratio


def test_effects_are_found_and_their_intervals_keep_what_they_promise() -> None:
    inside = []
    for seed in range(60):
        found = effects(*made(20, seed))
        assert found
        for row in found["groups"]["accuracy"]:
            low, high = row["effect_ci"]
            inside.append(low <= ADDS[row["groups"][0]] <= high)
    assert 0.92 <= np.mean(inside) <= 0.99  # of 300 intervals of 95%, shrunk ones


def test_a_pair_that_matters_comes_first() -> None:
    chosen, accuracy, ratio = made(31, 0)
    accuracy = [a - 0.1 * ({"down_proj", "o_proj"} <= set(p.groups)) for p, a in zip(chosen, accuracy, strict=True)]
    found = effects(chosen, accuracy, ratio)
    assert found
    first = found["pairs"]["accuracy"][0]
    assert first["groups"] == ["down_proj", "o_proj"]
    assert first["effect_ci"][0] <= -0.1 <= first["effect_ci"][1] < 0
    assert all(row["effect"] == pytest.approx(0.1, abs=0.01) for row in found["groups"]["tpot_ratio"])


def test_what_cannot_be_told_apart_is_not_told() -> None:
    chosen, accuracy, ratio = made(6, 1)
    assert effects(chosen, accuracy, ratio) is None, "five groups differ, and any effect could be another's"
    same = [Placement.of(GROUPS, rank) for rank in (1, 2, 4, 8, 16, 32, 64, 128)]
    assert effects(same, [0.5] * 8, [1.5] * 8) is None
    with_all = [Placement.of({*p.groups, "v_proj"}, 8) for p in made(20, 2)[0]]
    found = effects(with_all, *made(20, 2)[1:])
    assert found
    assert {row["groups"][0] for row in found["groups"]["accuracy"]} == set(GROUPS), "v_proj is in every placement"


@given(st.permutations(range(20)), st.floats(-0.3, 0.3), st.integers(0, 50))
def test_neither_the_order_of_trials_nor_the_level_matters(order: list[int], level: float, seed: int) -> None:
    chosen, accuracy, ratio = made(20, seed)
    plain = effects(chosen, accuracy, ratio)
    moved = effects([chosen[i] for i in order], [accuracy[i] + level for i in order], [ratio[i] for i in order])
    assert plain and moved
    for one, other in zip(plain["groups"]["accuracy"], moved["groups"]["accuracy"], strict=True):
        assert one["groups"] == other["groups"]
        assert one["effect"] == pytest.approx(other["effect"], abs=1e-9)
        assert one["effect_ci"] == pytest.approx(other["effect_ci"], abs=1e-9)


def test_equal_figures_have_no_effect() -> None:
    chosen, _, ratio = made(20, 3)
    found = effects(chosen, [0.5] * 20, ratio)
    assert found
    assert all(row["effect"] == pytest.approx(0, abs=1e-9) for row in found["groups"]["accuracy"])

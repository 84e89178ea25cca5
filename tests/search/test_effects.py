from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.placement import Placement
from search.effect_intervals import PAIR_SHARES, column_weights, intervals
from search.effects import effects
from search.pair_effects import pair_weights
from search.strategy.linear import Array

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


def test_where_groups_only_add_up_no_pair_is_beyond_doubt() -> None:
    """One spread for groups and pairs, the likeliest, told many searches without any interaction of one."""
    sure = [
        row
        for seed in range(60)
        for row in (effects(*made(25, seed)) or {})["pairs"]["accuracy"]
        if row["effect_ci"][0] * row["effect_ci"][1] > 0
    ]
    assert len(sure) <= 3


def test_intervals_from_few_trials_are_wide_enough() -> None:
    inside = []
    for seed in range(60):
        found = effects(*made(9, seed, noise=0.03))
        assert found
        for row in found["groups"]["accuracy"]:
            low, high = row["effect_ci"]
            inside.append(low <= ADDS[row["groups"][0]] <= high)
    assert np.mean(inside) >= 0.82  # it was 0.79 with the likeliest spread alone


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


def test_one_trial_more_than_unknowns_is_enough() -> None:
    chosen, accuracy, ratio = made(7, 2)
    assert all(0 < sum(group in p.groups for p in chosen) < 7 for group in GROUPS)
    assert effects(chosen, accuracy, ratio)


def test_what_the_rank_adds_is_no_effect_of_the_groups_that_had_it() -> None:
    """The higher ranks are mostly tried with o_proj, and are better and slower by themselves."""
    random = np.random.default_rng(0)
    trials = [made(20, seed) for seed in (4, 5)]
    chosen = [
        replace(p, rank=int(random.choice([16, 64] if ("o_proj" in p.groups) == (random.random() < 0.8) else [2, 8])))
        for placements, _, _ in trials
        for p in placements
    ]
    accuracy = [a + 0.05 * np.log2(p.rank) for p, a in zip(chosen, trials[0][1] + trials[1][1], strict=True)]
    ratio = [r + 0.1 * np.log2(p.rank) for p, r in zip(chosen, trials[0][2] + trials[1][2], strict=True)]
    found = effects(chosen, accuracy, ratio)
    assert found
    for row in found["groups"]["accuracy"]:
        assert row["effect"] == pytest.approx(ADDS[row["groups"][0]], abs=0.015)
    for row in found["groups"]["tpot_ratio"]:
        assert row["effect"] == pytest.approx(0.1, abs=0.015)


def test_equal_figures_have_no_effect() -> None:
    chosen, _, ratio = made(20, 3)
    found = effects(chosen, [0.5] * 20, ratio)
    assert found
    assert all(row["effect"] == pytest.approx(0, abs=1e-9) for row in found["groups"]["accuracy"])


def by_columns(main: Array, flags: Array, values: Array) -> tuple[Array, Array, Array]:
    """Intervals of all pairs from a column for each."""
    both = [flags[:, a] * flags[:, b] for a, b in combinations(range(flags.shape[1]), 2)]
    rows = np.column_stack([main, *both])
    found = [each for share in PAIR_SHARES for each in column_weights(rows, values, main.shape[1], share)]
    return intervals(found)


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(0, 30), st.sampled_from([1e-4, 1e-2, 1.0]))
@settings(max_examples=60)
def test_both_forms_of_the_regression_say_the_same_of_pairs(seed: int, groups: int, more: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    flags = random.integers(0, 2, (groups + 2 + more, groups)) - random.random(groups)
    main = np.column_stack([np.ones(len(flags)), random.normal(size=len(flags)), flags])
    values = flags @ random.normal(size=groups) + flags[:, 0] * flags[:, 1] + noise * random.normal(size=len(flags))
    for one, other in zip(intervals(pair_weights(main, flags, values)), by_columns(main, flags, values), strict=True):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9 * values.std())


def many(groups: int, count: int, seed: int) -> tuple[list[Placement], list[float], list[float]]:
    random = np.random.default_rng(seed)
    names = [f"layer{i}" for i in range(groups)]
    flags = random.random((count, groups)) < 0.5
    flags[:, 0] |= ~flags.any(1)
    chosen = [Placement.of([names[i] for i in np.flatnonzero(row)], 8) for row in flags]
    sizes = flags.sum(1)
    accuracy = 0.5 + 0.01 * sizes - 0.3 * flags[:, 1] * flags[:, 2] + random.normal(0, 0.01, count)
    return chosen, [*map(float, accuracy)], [*map(float, 1 + 0.01 * sizes + random.normal(0, 0.005, count))]


@pytest.mark.parametrize("count", [20, 80], ids=["more columns than trials", "fewer"])
def test_the_surest_pairs_are_those_of_all_columns(count: int) -> None:
    chosen, accuracy, ratio = many(9, count, seed=count)
    found = effects(chosen, accuracy, ratio)
    assert found
    groups = sorted({name for placement in chosen for name in placement.groups})
    flags = np.array([[float(name in placement.groups) for name in groups] for placement in chosen])
    flags -= flags.mean(0)
    main = np.column_stack([np.ones(count), np.zeros(count), flags])
    for key, values in (("accuracy", accuracy), ("tpot_ratio", ratio)):
        rows = zip(combinations(groups, 2), *by_columns(main, flags, np.array(values)), strict=True)
        surest = sorted(rows, key=lambda row: (row[3] - row[2]) / abs(row[1]))[:5]
        assert [row["groups"] for row in found["pairs"][key]] == [list(row[0]) for row in surest]
        for row, (_, mean, low, high) in zip(found["pairs"][key], surest, strict=True):
            assert [row["effect"], *row["effect_ci"]] == pytest.approx([mean, low, high], abs=1e-9)


def test_pairs_of_many_groups_take_no_matrix_of_pairs_by_pairs() -> None:
    trials = many(32, 36, seed=0)
    tracemalloc.start()
    try:
        found = effects(*trials)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found and len(found["pairs"]["accuracy"]) == 5
    assert peak < 8 * (32 * 31 / 2) ** 2 / 4, "bytes: a quarter of that matrix"

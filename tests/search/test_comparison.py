"""Statistics across tasks: by hand, against scipy, and what holds for every comparison."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from objectives.latency.paired import Ratio
from objectives.placement import Placement
from search.across import _requests
from search.comparison import (
    Measured,
    Task,
    compare,
    covariance,
    kendall_tau_b,
    rank_stability,
    rival,
    robust_default,
    tail_saving,
)

ROWS = 40


def measured(scores: list[float], *, kept: bool = True) -> Measured:
    error = float(np.std(scores, ddof=1)) / math.sqrt(len(scores))
    return Measured(float(np.mean(scores)), error, len(scores), tuple(scores) if kept else ())


def task(*right: int, base: int = 0, rows: int = 100) -> Task:
    """Placements that answer the first so many of the rows right: as alike as two can be."""
    scores = [[1.0] * n + [0.0] * (rows - n) for n in (base, *right)]
    return Task(measured(scores[0]), tuple(measured(each) for each in scores[1:]))


def within(value: float, reach: float) -> Ratio:
    """A ratio whose repetition falls so near."""
    return Ratio(value, value - reach, value + reach)


SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=ROWS, max_size=ROWS)


@st.composite
def tasks(draw: st.DrawFn) -> list[Task]:
    placements, kept = draw(st.integers(1, 4)), draw(st.booleans())
    return [
        Task(
            measured(draw(SCORES), kept=kept),
            tuple(measured(draw(SCORES), kept=kept) for _ in range(placements)),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]


@given(tasks())
@settings(max_examples=30)
def test_what_regrets_and_gains_are(given_tasks: list[Task]) -> None:
    result = compare(given_tasks)
    for each, gains, regrets in zip(given_tasks, result.gains, result.regrets, strict=True):
        best = max(p.accuracy for p in each.placements)
        assert [g.value for g in gains] == pytest.approx([p.accuracy - each.base.accuracy for p in each.placements])
        assert [r.value for r in regrets] == pytest.approx([best - p.accuracy for p in each.placements])
        assert min(r.value for r in regrets) == 0
    columns = [[regrets[i].value for regrets in result.regrets] for i in range(len(result.mean_regrets))]
    assert [m.value for m in result.mean_regrets] == pytest.approx([sum(each) / len(each) for each in columns])
    assert [w.value for w in result.worst_regrets] == pytest.approx([max(each) for each in columns])
    every = [*result.mean_regrets, *result.worst_regrets, *(r for regrets in result.regrets for r in regrets)]
    assert all(0 <= each.low <= each.value <= each.high <= 1 for each in every)
    for mean, worst, column in zip(
        result.mean_regrets, result.worst_regrets, zip(*result.regrets, strict=True), strict=True
    ):
        reach = 1.0 if worst.high == 1 else worst.high - worst.value + 1e-9
        assert reach >= max(each.high - each.value for each in (mean, *column)), "the worst is no surer than each"
    assert all(-1 <= g.low <= g.value <= g.high <= 1 for gains in result.gains for g in gains)


@given(tasks())
@settings(max_examples=20)
def test_a_second_run_gives_the_same(given_tasks: list[Task]) -> None:
    one, other = compare(given_tasks), compare(given_tasks)
    assert one.regrets == other.regrets
    assert (one.worst_errors == other.worst_errors).all()


@given(tasks())
@settings(max_examples=20)
def test_the_error_of_two_worst_regrets_of_one_task_is_that_of_two_accuracies(given_tasks: list[Task]) -> None:
    """The best, which both are measured from, cancels out; of rows that two placements share only what differs counts.

    Of 4000 draws a standard deviation is known to 1.1%.
    """
    one = given_tasks[0]
    errors, noise = compare([one]).worst_errors, covariance(one)[1:, 1:]
    for i in range(len(one.placements)):
        for j in range(len(one.placements)):
            assert errors[i, j] == pytest.approx(math.sqrt(noise[i, i] + noise[j, j] - 2 * noise[i, j]), rel=0.06)


@given(
    tasks(),
    st.lists(st.builds(within, st.floats(1, 3), st.just(0.0) | st.floats(0, 0.3)), min_size=4, max_size=4),
    st.none() | st.floats(1, 3),
)
@settings(max_examples=50)
def test_the_default_is_under_the_cap_and_no_slower_than_the_minimax_one(
    given_tasks: list[Task], some: list[Ratio], cap: float | None
) -> None:
    result = compare(given_tasks)
    ratios = some[: len(result.worst_regrets)]
    allowed = [i for i, ratio in enumerate(ratios) if cap is None or ratio.value <= cap]
    found = robust_default(result, ratios, cap)
    if not allowed:
        assert found is None
        return
    assert found is not None
    chosen, passed_over = found
    assert {chosen, *passed_over} <= set(allowed)
    minimax = min(allowed, key=lambda i: (result.worst_regrets[i].value, ratios[i].value))
    assert ratios[chosen].value <= ratios[minimax].value
    for each in (chosen, *passed_over):
        excess = result.worst_regrets[each].value - result.worst_regrets[minimax].value
        assert excess <= 1.96 * result.worst_errors[each, minimax]
    assert [ratios[i].value for i in passed_over] == sorted(ratios[i].value for i in passed_over)
    assert all(ratios[i].value < ratios[chosen].value for i in passed_over)
    if passed_over:
        fastest = passed_over[0]
        assert result.worst_regrets[chosen].value <= result.worst_regrets[fastest].value
        reach = math.hypot(*(ratios[i].high - ratios[i].value for i in (chosen, fastest)))
        assert ratios[chosen].value - ratios[fastest].value <= reach / 1.96 / math.sqrt(2) + 1e-9
    other = rival(result, [ratio.value for ratio in ratios], chosen)
    assert other is None or other[0] != chosen


def test_a_clear_minimax_is_taken_although_it_is_slower() -> None:
    result = compare([task(90, 20, 88), task(30, 90, 88)])
    assert [w.value for w in result.worst_regrets] == pytest.approx([0.6, 0.7, 0.02])
    ratios = [Ratio.exact(ratio) for ratio in (1.1, 1.2, 1.5)]
    assert robust_default(result, ratios) == (2, [])
    assert robust_default(result, ratios, 1.3) == (0, [])
    assert robust_default(result, ratios, 1.05) is None


def test_what_rows_cannot_tell_apart_is_decided_by_latency() -> None:
    random = np.random.default_rng(0)
    same = [
        Task(measured([0.0] * 100), tuple(measured(list(map(float, random.random(100) < 0.7))) for _ in range(2)))
        for _ in range(3)
    ]
    assert robust_default(compare(same), [within(1.3, 0.1), within(1.1, 0.1)]) == (1, [])


@pytest.mark.parametrize(("reach", "chosen"), [(0.0, (1, [])), (0.019, (1, [])), (0.02, (0, [1]))])
def test_what_neither_rows_nor_latencies_tell_apart_is_decided_by_regret(
    reach: float, chosen: tuple[int, list[int]]
) -> None:
    """Two equal reaches of 0.02 for a repetition make a standard error of 0.0102, and the latencies are 0.01 apart."""
    result = compare([task(90, 89)])
    assert robust_default(result, [within(1.24, reach), within(1.23, reach)]) == chosen


def test_a_vague_latency_is_no_reason_to_take_what_is_slower_than_the_minimax_one() -> None:
    result = compare([task(90, 89, 88)])
    assert robust_default(result, [within(1.25, 0.001), within(1.30, 0.9), within(1.20, 0.001)]) == (2, [])


def test_the_rival_is_the_most_accurate_else_the_slowest_else_the_fastest() -> None:
    result = compare([task(90, 70, 20)])
    assert rival(result, [1.4, 1.2, 1.1], 1) == (0, "the most accurate on average")
    assert rival(result, [1.2, 1.4, 1.1], 0) == (1, "the slowest")
    assert rival(result, [1.4, 1.2, 1.1], 0) == (2, "the fastest")
    assert rival(compare([task(90)]), [1.2], 0) is None
    # The first is behind by 0 and 20 points, the second by 15 on both: by less at worst, and by more on average.
    uneven = compare([task(90, 75, 40), task(60, 65, 80)])
    assert rival(uneven, [1.4, 1.2, 1.1], 2) == (0, "the most accurate on average")


def test_what_is_as_fast_as_the_default_is_neither_the_slowest_nor_the_fastest() -> None:
    """On a server, where a latency class has one measurement."""
    result = compare([task(70, 90, 80)])
    assert rival(result, [1.2, 1.2, 1.2], 1) is None
    assert rival(result, [1.2, 1.2, 1.1], 1) == (2, "the fastest")


def test_shared_rows_make_differences_exact() -> None:
    """Two placements that differ in two of a hundred rows: known to a few points, from standard errors to over ten."""
    paired = task(60, 62, base=10)
    unpaired = Task(
        Measured(paired.base.accuracy, paired.base.standard_error, 100),
        tuple(Measured(p.accuracy, p.standard_error, 100) for p in paired.placements),
    )
    assert (paired.paired, unpaired.paired) == (True, False)
    (exact,), (wide,) = compare([paired]).regrets, compare([unpaired]).regrets
    assert exact[0].value == wide[0].value == pytest.approx(0.02)
    assert exact[0].high < 0.06
    assert wide[0].high > 0.13


def test_the_covariance_of_means() -> None:
    alike = task(50, 50)
    found = covariance(alike)
    variance = 0.25 / 99 + 1 / (2 * 100**2)
    assert found[1, 1] == pytest.approx(variance)
    assert found[1, 2] == pytest.approx(0.25 / 99)
    difference = found[1, 1] + found[2, 2] - 2 * found[1, 2]
    assert difference == pytest.approx(1 / 100**2), "equal answers on every row are not certain to stay equal"


def test_the_covariance_of_means_whose_rows_are_not_known_is_of_their_standard_errors() -> None:
    means = (Measured(0.2, 0.04, 100), Measured(0.5, 0.05, 100), Measured(0.6, 0.06, 100))
    found = covariance(Task(means[0], means[1:]))
    assert found == pytest.approx(np.diag([each.standard_error**2 + 1 / (2 * 100**2) for each in means]))


def test_the_interval_of_a_regret_is_that_of_the_largest_difference_and_of_a_mean_over_tasks_narrower() -> None:
    """Of two placements there is one difference: it is normal, and a quantile of 4000 draws is known to 2%."""
    one, both = compare([task(60, 70)]), compare([task(60, 70), task(60, 70)])
    error = math.sqrt(np.var([1.0] * 10 + [0.0] * 90, ddof=1) / 100 + 1 / 100**2)
    larger = stats.norm.ppf((1 + math.sqrt(0.95)) / 2) * error  # two are below it at once in 95%
    for regret, reach in (
        (one.regrets[0][0], 1.96 * error),
        (both.worst_regrets[0], larger),
        # Where a sum of two distances is below a bound is a square, too: turned, its sides shorter by the root of two.
        (both.mean_regrets[0], larger / math.sqrt(2)),
    ):
        assert regret.value == pytest.approx(0.1)
        assert regret.high - regret.value == pytest.approx(reach, rel=0.06)


def test_the_interval_of_a_gain_is_that_of_the_rows_differences() -> None:
    """Two of a hundred rows differ, and half a row of noise is on each of the two means."""
    (gain,) = compare([task(60, base=58)]).gains[0]
    error = math.sqrt(np.var([1.0] * 2 + [0.0] * 98, ddof=1) / 100 + 1 / 100**2)
    assert (gain.value, gain.high - gain.value) == pytest.approx((0.02, 1.96 * error), rel=1e-3)


def test_load_that_both_models_had_is_no_part_of_a_saving() -> None:
    base = list(np.random.default_rng(0).lognormal(0, 1, 20))
    saved = tail_saving((base, [1.2 * each for each in base]), (base, [1.5 * each for each in base]))
    assert (saved.value, saved.low, saved.high) == pytest.approx((0.2, 0.2, 0.2))


def test_regret_intervals_hold_for_placements_that_are_equal() -> None:
    """The hard case: the best of six equal ones is luck, and an interval around its lead would exclude the truth."""
    random = np.random.default_rng(1)
    covered = total = 0
    for _ in range(150):
        difficulty = random.random(200)
        rows = [list(map(float, random.random(200) < difficulty)) for _ in range(7)]
        result = compare([Task(measured(rows[0]), tuple(map(measured, rows[1:])))])
        for regret in result.regrets[0]:
            covered += regret.low == 0
            total += 1
    assert covered / total >= 0.95


def test_intervals_hold_for_placements_that_differ() -> None:
    random = np.random.default_rng(2)
    base, chances = 0.3, np.array([0.5, 0.62, 0.66, 0.7])
    held: dict[str, list[bool]] = {"regret": [], "worst": [], "gain": []}
    for _ in range(150):
        made = []
        for own in (chances, chances[::-1]):
            luck = random.random(300)  # of a row, for all placements
            rows = [list(map(float, luck + random.normal(0, 0.1, 300) < chance)) for chance in (base, *own)]
            made.append(Task(measured(rows[0]), tuple(map(measured, rows[1:]))))
        result = compare(made)
        regret = 0.7 - chances
        for kind, figures, truth in (
            ("regret", result.regrets[0], regret),
            ("worst", result.worst_regrets, np.maximum(regret, regret[::-1])),
            ("gain", result.gains[0], chances - base),
        ):
            held[kind] += [f.low <= true <= f.high for f, true in zip(figures, truth, strict=True)]
    assert {kind: np.mean(each) >= 0.94 for kind, each in held.items()} == dict.fromkeys(held, True), held


RANKED = st.integers(2, 8).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 5).map(float), min_size=n, max_size=n)] * 2)
)


@given(RANKED)
def test_tau_b_is_scipys(pair: tuple[list[float], list[float]]) -> None:
    ours = kendall_tau_b(*pair)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = stats.kendalltau(*pair).statistic
    if ours is None:
        assert math.isnan(theirs)
    else:
        assert ours == pytest.approx(theirs)


def test_rank_stability() -> None:
    assert rank_stability([[0.1, 0.2, 0.3], [0.5, 0.6, 0.9]]) == 1
    assert rank_stability([[0.1, 0.2, 0.3], [0.9, 0.6, 0.5]]) == -1
    assert rank_stability([[0.1, 0.2, 0.3], [0.5, 0.6, 0.9], [0.3, 0.2, 0.1]]) == pytest.approx(-1 / 3)
    assert rank_stability([[0.1, 0.2], [0.5, 0.5]]) is None
    assert rank_stability([[0.1], [0.5]]) is None


def test_a_tail_is_relative_to_the_base_model_beside_it() -> None:
    """The second placement was measured on a machine twice as slow."""
    base = [4.0 + 0.01 * n for n in range(40)]
    saving = tail_saving((base, [1.2 * t for t in base]), ([2 * t for t in base], [3 * t for t in base]))
    assert saving.value == pytest.approx(0.2)
    assert saving.low <= 0.2 <= saving.high
    assert saving.high - saving.low < 0.05
    noisy = tail_saving((base, [1.2 * t for t in base]), ([2 * t for t in base], [*(3 * t for t in base[1:]), 60.0]))
    assert noisy.high > saving.high


def test_requests_that_one_of_two_models_ended_at_once_have_no_part_in_a_tail() -> None:
    """On a server, where an adapter may end an answer after its first token."""
    told = {"ttft_ms": [9.0] * 4, "itl_ms": [[4.0, 4.0], [5.0], [], [6.0]], "output_tokens": [3, 2, 1, 2]}
    ends = {"ttft_ms": [9.0] * 4, "itl_ms": [[], [10.0], [8.0], [12.0]], "output_tokens": [1, 2, 2, 2]}
    placement = Placement.of(["o_proj"], 8)
    trial: Any = SimpleNamespace(latency={"samples": {"base": told, "adapted": ends}})
    requests = _requests({"task": {placement: trial}}, "tpot", placement)
    assert requests == ([5.0, 6.0], [10.0, 12.0])
    assert tail_saving(requests, ([1.0, 1.0], [4.0, 4.0])).value == pytest.approx(0.5)


def test_requests_of_a_profile_that_two_searches_used_count_once() -> None:
    placement = Placement.of(["o_proj"], 8)

    def tried(*adapted: float) -> Any:
        samples = {"base": {"ttft_ms": [1.0, 2.0]}, "adapted": {"ttft_ms": list(adapted)}}
        return {placement: SimpleNamespace(latency={"samples": samples})}

    shared = {"a": tried(3.0, 4.0), "b": tried(3.0, 4.0)}
    assert _requests(shared, "ttft", placement) == ([1.0, 2.0], [3.0, 4.0])
    own = shared | {"c": tried(5.0, 6.0)}
    assert _requests(own, "ttft", placement) == ([1.0, 2.0, 1.0, 2.0], [3.0, 4.0, 5.0, 6.0])


def test_nothing_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="a task and a placement"):
        compare([])
    with pytest.raises(ValueError, match="a task and a placement"):
        compare([Task(measured([0.0, 1.0]), ())])

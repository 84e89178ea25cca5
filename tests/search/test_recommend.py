"""The one-standard-error rule: by hand, and what holds for every search."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.latency.paired import Ratio
from objectives.placement import Placement
from search.pareto import front
from search.recommend import _ROUNDING, Candidate, recommend


def candidate(trial: int, accuracy: float, ratio: float, error: float = 0.02, reach: float = 0.0) -> Candidate:
    return Candidate(
        trial, Placement.of([f"group_{trial}"], 8), accuracy, error, Ratio(ratio, ratio - reach, ratio + reach)
    )


def chosen(*candidates: Candidate, base: float = 0.1) -> int:
    recommendation = recommend(candidates, base, "accuracy", "tpot")
    assert recommendation is not None
    return recommendation.trial


def test_nothing_is_recommended_of_nothing() -> None:
    assert recommend([], 0.5, "accuracy", "tpot") is None


def test_the_fastest_within_one_standard_error_of_the_best() -> None:
    best, near, far = candidate(0, 0.90, 2.0), candidate(1, 0.885, 1.3), candidate(2, 0.87, 1.1)
    assert chosen(best, near, far) == 1


def test_exactly_one_standard_error_below_is_within() -> None:
    assert chosen(candidate(0, 0.875, 2.0, error=0.125), candidate(1, 0.75, 1.1)) == 1


@given(st.integers(2, 5000))
def test_one_row_less_than_all_is_within_whatever_is_rounded(rows: int) -> None:
    """Where all are right the error is that of one row: (rows - 1) / rows and 1 - 1 / rows are not always equal."""
    assert chosen(candidate(0, 1.0, 2.0, error=1 / rows), candidate(1, (rows - 1) / rows, 1.1)) == 1


def test_the_error_that_counts_is_that_of_the_best() -> None:
    assert chosen(candidate(0, 0.90, 2.0, error=0.01), candidate(1, 0.88, 1.1, error=0.2)) == 0


def test_a_faster_one_that_is_beaten_elsewhere_is_no_choice() -> None:
    """Trial 2 is within the bar and as fast as trial 1, but less accurate: off the front."""
    assert chosen(candidate(0, 0.9, 2.0), candidate(1, 0.895, 1.2), candidate(2, 0.89, 1.2)) == 1


@pytest.mark.parametrize(("reach", "taken"), [(0.0, 1), (0.019, 1), (0.02, 0), (0.1, 0)])
def test_a_latency_that_is_lower_by_noise_is_worth_no_accuracy(reach: float, taken: int) -> None:
    """Two equal reaches of 0.02 for a repetition make a standard error of 0.0102, and the latencies are 0.01 apart."""
    accurate, fast = candidate(0, 0.90, 1.24, reach=reach), candidate(1, 0.885, 1.23, reach=reach)
    assert chosen(accurate, fast, candidate(2, 0.8, 1.1, reach=reach)) == taken


def test_of_what_is_as_fast_the_most_accurate_is_taken_and_what_is_slower_is_not() -> None:
    fast, as_fast, slower = (
        candidate(i, a, r, reach=0.02) for i, a, r in ((0, 0.885, 1.2), (1, 0.89, 1.205), (2, 0.9, 1.5))
    )
    assert chosen(fast, as_fast, slower) == 1


def test_the_reason_names_what_may_be_faster_by_noise() -> None:
    best, fast = candidate(0, 0.90, 1.235, reach=0.02), candidate(1, 0.895, 1.231, reach=0.02)
    recommendation = recommend([best, fast], 0.2, "accuracy", "tpot")
    assert recommendation is not None
    assert recommendation.why == (
        "group_0 r8 has the front's highest validation accuracy (0.900), and no faster placement of the front comes "
        "within one standard error (0.020) of it, but for group_1 r8, whose lower latency may be noise (1.231 for "
        "1.235); TPOT 1.235 times the base model's"
    )
    recommendation = recommend([best, fast, candidate(2, 0.91, 1.5)], 0.2, "accuracy", "tpot")
    assert recommendation is not None
    assert recommendation.why == (
        "group_0 r8 is the fastest placement of the front within one standard error (0.020) of its best validation "
        "accuracy, but for group_1 r8, whose lower latency may be noise (1.231 for 1.235): 0.900 against 0.910 of "
        "group_2 r8, at TPOT 1.235 times the base model's instead of 1.500"
    )


def test_the_reason_names_all_that_may_be_faster_by_noise() -> None:
    best, near, fast = (
        candidate(i, a, r, reach=0.1) for i, a, r in ((0, 0.9, 1.25), (1, 0.895, 1.24), (2, 0.885, 1.2))
    )
    recommendation = recommend([best, near, fast], 0.2, "accuracy", "tpot")
    assert recommendation is not None
    assert (
        "but for group_2 r8 and group_1 r8, whose lower latencies may be noise (1.200, 1.240 for 1.250)"
        in recommendation.why
    )


def test_the_reason_for_a_faster_one() -> None:
    recommendation = recommend([candidate(0, 0.9, 2.0), candidate(1, 0.885, 1.3)], 0.2, "accuracy", "tpot")
    assert recommendation is not None
    assert recommendation.why == (
        "group_1 r8 is the fastest placement of the front within one standard error (0.020) of its best validation "
        "accuracy: 0.885 against 0.900 of group_0 r8, at TPOT 1.300 times the base model's instead of 2.000"
    )


def test_the_reason_tells_latencies_apart_that_differ_by_less_than_a_hundredth() -> None:
    fast, best = candidate(0, 0.885, 1.096, reach=0.003), candidate(1, 0.9, 1.104, reach=0.003)
    recommendation = recommend([fast, best], 0.2, "accuracy", "tpot")
    assert recommendation is not None
    assert recommendation.why.endswith("at TPOT 1.096 times the base model's instead of 1.104")


def test_the_reason_for_the_best() -> None:
    recommendation = recommend([candidate(0, 0.9, 2.0), candidate(1, 0.5, 1.3)], 0.2, "rouge_l", "ttft")
    assert recommendation is not None
    assert recommendation.why == (
        "group_0 r8 has the front's highest validation ROUGE-L (0.900), and no faster placement of the front comes "
        "within one standard error (0.020) of it; request time 2.000 times the base model's"
    )


@pytest.mark.parametrize(("base", "says"), [(0.87, False), (0.88, True), (0.95, True)])
def test_no_better_than_the_base_model_is_said(base: float, says: bool) -> None:
    recommendation = recommend([candidate(0, 0.9, 2.0, error=0.0234)], base, "accuracy", "tpot")
    assert recommendation is not None
    end = f"; it is not better than the base model ({base:.3f}) beyond one standard error: you may need no adapter"
    assert recommendation.why.endswith(end) == says


def test_whether_it_is_better_than_the_base_model_is_asked_by_its_own_error() -> None:
    faster, best = candidate(1, 0.89, 1.3, error=0.005), candidate(0, 0.9, 2.0, error=0.02)
    recommendation = recommend([faster, best], 0.88, "accuracy", "tpot")
    assert recommendation is not None
    assert recommendation.trial == 1
    assert "no adapter" not in recommendation.why


def searches(*figures: st.SearchStrategy[float]) -> st.SearchStrategy[list[Candidate]]:
    """Of trials with these figures, in the order of :func:`candidate`."""
    rows = st.lists(st.tuples(*figures), min_size=1, max_size=20)
    return rows.map(lambda rows: [candidate(i, *row) for i, row in enumerate(rows)])


CANDIDATES = searches(st.floats(0, 1), st.floats(1, 3), st.floats(0, 0.1))
NOISY = searches(st.floats(0, 1), st.floats(1, 3), st.floats(0, 0.1), st.floats(0, 0.3))


@given(NOISY)
def test_noise_of_latency_makes_it_no_less_accurate_and_no_slower_than_that_noise(candidates: list[Candidate]) -> None:
    noisy = recommend(candidates, 0.0, "accuracy", "tpot")
    exact = recommend([replace(c, ratio=Ratio.exact(c.ratio.value)) for c in candidates], 0.0, "accuracy", "tpot")
    assert noisy is not None
    assert exact is not None
    taken, fastest = candidates[noisy.trial], candidates[exact.trial]
    assert noisy.trial in front([(c.accuracy, c.ratio.value) for c in candidates])
    assert taken.accuracy >= fastest.accuracy
    reach = math.hypot(taken.ratio.high - taken.ratio.value, fastest.ratio.high - fastest.ratio.value)
    error = reach / 1.96 / math.sqrt(2)
    assert fastest.ratio.value <= taken.ratio.value <= fastest.ratio.value + error + 1e-9


@given(CANDIDATES, st.floats(0, 1))
def test_it_is_on_the_front_within_the_bar_and_never_slower_than_the_best(
    candidates: list[Candidate], base: float
) -> None:
    recommendation = recommend(candidates, base, "accuracy", "tpot")
    assert recommendation is not None
    taken = candidates[recommendation.trial]
    members = front([(c.accuracy, c.ratio.value) for c in candidates])
    best = candidates[members[-1]]
    equal = [c for c in candidates if (c.accuracy, c.ratio.value) == (best.accuracy, best.ratio.value)]
    best = min(equal, key=lambda c: (c.standard_error, c.trial))
    assert recommendation.trial in members
    assert taken.ratio.value <= best.ratio.value
    bar = best.accuracy - best.standard_error - _ROUNDING
    assert taken.accuracy >= bar
    faster = [c for c in candidates if c.ratio.value < taken.ratio.value]
    assert all(c.accuracy < bar for c in faster)
    assert taken.placement.label in recommendation.why


def test_of_equal_trials_the_one_known_best_decides_what_is_within_its_error() -> None:
    best, vague, near = candidate(0, 0.625, 2.0, 0.0), candidate(1, 0.625, 2.0, 0.0625), candidate(2, 0.5625, 1.0)
    assert chosen(best, vague, near) == chosen(vague, near, best) == 0


@given(CANDIDATES, st.randoms())
def test_the_order_of_trials_does_not_matter(candidates: list[Candidate], random: object) -> None:
    shuffled = list(candidates)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (recommend(each, 0.5, "accuracy", "tpot") for each in (candidates, shuffled))
    assert one is not None
    assert other is not None
    a, b = candidates[one.trial], candidates[other.trial]
    assert (a.accuracy, a.ratio.value) == (b.accuracy, b.ratio.value)

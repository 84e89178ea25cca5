"""The ratio, its interval and when sampling stops, on an engine whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from objectives.latency.engine import measure
from objectives.latency.paired import PairedRequest, Ratio, ratio_of, reach_of, sample, value_of
from objectives.latency.rounds import disagreement, measure_in_rounds, pooled
from objectives.latency.settings import LatencySettings
from objectives.placement import BASE, Placement
from tests.objectives.latency.simulated import SimulatedEngine, SimulatedPair

GROUPS = ("q", "k", "v", "o", "gate", "up", "down")
COSTS = dict(zip(GROUPS, (0.06, 0.07, 0.065, 0.08, 0.09, 0.1, 0.12), strict=True))
SETTINGS = LatencySettings(max_seconds=60)
O_PROJ = Placement.of(["o"], 8)


def requests_of(ratios: NDArray[np.float64]) -> list[PairedRequest]:
    """One for each row of ``ratios``."""
    request = SimulatedEngine(COSTS).open(O_PROJ, 0).request()
    return [replace(request, ratios=row) for row in ratios]


@given(st.integers(1, 8), st.integers(1, 12), st.sampled_from([1e-3, 1e3]), st.integers(0, 1000))
def test_moments_of_something_else_weigh_nothing(count: int, blocks: int, disturbed: float, seed: int) -> None:
    """Up to a fifth of all pairs of blocks, on either side, however far off; the ratio is of what is left."""
    random = np.random.default_rng(seed)
    ratios = np.sort(random.uniform(1.0, 1.5, count * blocks))
    cut = len(ratios) // 5
    off = ratios.copy()
    off[: cut if disturbed < 1 else 0] *= disturbed
    off[len(ratios) - (cut if disturbed > 1 else 0) :] *= disturbed
    for each in (ratios, off):
        found = value_of(requests_of(random.permutation(each).reshape(count, blocks)))
        assert found == pytest.approx(ratios[cut : len(ratios) - cut].mean())


def test_two_measurements_lie_in_each_others_intervals() -> None:
    """What the interval promises: it is for a repetition, not for the mean of endless ones."""
    engine = SimulatedEngine(COSTS, noise=0.05)
    inside = []
    for seed in range(100):
        pairs = [engine.open(O_PROJ, each) for each in (2 * seed, 2 * seed + 1)]
        one, other = (ratio_of([pair.request() for _ in range(12)], seed) for pair in pairs)
        inside.append(one.low <= other.value <= one.high and other.low <= one.value <= other.high)
    assert np.mean(inside) >= 0.9


@pytest.mark.parametrize("count", [5, 10])
def test_few_requests_leave_their_own_spread_unknown(count: int) -> None:
    """What makes requests differ acts on each as a whole; without Student's t 91% of repetitions would be inside."""
    generator = np.random.default_rng(0)
    template = SimulatedEngine(COSTS).open(O_PROJ, 0).request()
    inside = []
    for seed in range(400):
        logs = generator.normal(scale=0.04, size=(2, count, 1)) + generator.normal(scale=0.02, size=(2, count, 8))
        one, other = (
            ratio_of([replace(template, ratios=np.exp(each)) for each in measurement], seed) for measurement in logs
        )
        inside += [one.low <= other.value <= one.high, other.low <= one.value <= other.high]
    assert np.mean(inside) >= 0.94


def test_the_interval_of_few_requests_reaches_as_far_as_students_t() -> None:
    pair = SimulatedEngine(COSTS).open(O_PROJ, 0)
    requests = [pair.request() for _ in range(5)]
    reach = reach_of(requests, 0)
    assert np.log(ratio_of(requests, 0).high / value_of(requests)) == pytest.approx(reach * 2.776 / 1.96, rel=1e-3)
    # Of many placements together the spread is known, and nothing is made wider twice.
    (alone,) = pooled([[requests]], seed=0)
    assert np.log(alone.high / alone.value) == pytest.approx(reach * 2.776 / 1.96, rel=1e-3)
    together = pooled([[requests]] * 30, seed=0)[0]
    assert np.log(together.high / together.value) == pytest.approx(reach * 1.980 / 1.96, rel=1e-3)


def test_two_requests_that_differ_say_how_far_the_next_may_be() -> None:
    """Resampled means are -d, 0, 0 and d, of which two differ by 2d in an eighth of cases; by more, since two requests
    show half of their variance."""
    d = 0.001
    requests = requests_of(np.exp([[-d], [d]]))
    assert reach_of(requests, 0) == pytest.approx(2 * d * 2**0.5, rel=1e-3)


def test_an_interval_is_told_in_shares_and_in_factors() -> None:
    assert Ratio(2.0, 1.96, 2.04).half_width == pytest.approx(0.02)
    assert Ratio.reaching(2.0, 0.3).log_error == pytest.approx(0.3 / 1.96 / 2**0.5)


def test_rounds_that_disagree_widen_every_interval() -> None:
    placements = [BASE, *(Placement.of([name], 8) for name in GROUPS)]
    calm = measure_in_rounds(SimulatedEngine(COSTS), placements, SETTINGS, seed=0)
    settings = replace(SETTINGS, max_seconds=0.0)
    restless = measure_in_rounds(SimulatedEngine(COSTS, layout=0.02), placements, settings, seed=0)
    width = {p: np.diff(restless[p]["ratio_ci"])[0] / np.diff(calm[p]["ratio_ci"])[0] for p in placements}
    assert all(times > 2 for times in width.values())


def test_rounds_of_independent_requests_agree() -> None:
    engine = SimulatedEngine(COSTS)
    pairs = [engine.open(O_PROJ, seed) for seed in range(20)]
    rounds = [[[pair.request() for _ in range(8)] for _ in range(2)] for pair in pairs]
    assert disagreement(rounds, seed=0) < 1.5
    assert disagreement([], seed=0) == 1.0


def test_how_far_openings_differ_is_found() -> None:
    """By 0.025, where the 64 pairs of a round leave its mean uncertain by 0.005."""
    engine = SimulatedEngine(COSTS, noise=0.04, layout=0.025)
    rounds = [[[pair.request() for _ in range(8)] for pair in pairs] for pairs in _openings(engine, 40)]
    assert disagreement(rounds, seed=0) == pytest.approx(np.hypot(0.025, 0.005) / 0.005, rel=0.15)


def _openings(engine: SimulatedEngine, count: int) -> list[list[SimulatedPair]]:
    return [[engine.open(O_PROJ, 2 * number + again) for again in (0, 1)] for number in range(count)]


def test_a_repeated_profile_lies_in_the_first_ones_intervals_where_openings_differ() -> None:
    placements = [BASE, *(Placement.of([name], 8) for name in GROUPS), Placement.of(GROUPS, 8)]
    inside = []
    for seed in range(6):
        runs = [
            measure_in_rounds(
                SimulatedEngine(COSTS, noise=0.03, layout=0.008), placements, SETTINGS, seed=1000 * seed + 500 * again
            )
            for again in (0, 1)
        ]
        inside += [
            runs[i][p]["ratio_ci"][0] <= runs[1 - i][p]["ratio"] <= runs[i][p]["ratio_ci"][1]
            for p in placements
            for i in (0, 1)
        ]
    assert np.mean(inside) >= 0.9


def test_requests_that_agree_by_luck_claim_no_more_than_the_others() -> None:
    noisy, lucky = SimulatedEngine(COSTS, noise=0.05), SimulatedEngine(COSTS, noise=0.0)
    rounds = [[[engine.open(O_PROJ, seed).request() for seed in range(8)]] for engine in (noisy, noisy, noisy, lucky)]
    ratios = pooled(rounds, seed=0)
    assert ratio_of(rounds[3][0], 0).half_width < 0.001
    assert ratios[3].half_width == pytest.approx(0.87 * ratios[0].half_width, rel=0.1)


def test_what_all_let_expect_is_less_for_more_requests() -> None:
    noisy, lucky = SimulatedEngine(COSTS, noise=0.05), SimulatedEngine(COSTS, noise=0.0)
    asked = [(noisy, 8)] * 3 + [(lucky, 8), (lucky, 32)]
    rounds = [[[engine.open(O_PROJ, seed).request() for seed in range(count)]] for engine, count in asked]
    *_, few, many = (np.log(ratio.high / ratio.value) for ratio in pooled(rounds, seed=0))
    assert few == pytest.approx(2 * many), "as the root of their number"


def test_only_what_is_not_known_well_enough_is_visited_again() -> None:
    engine = SimulatedEngine(COSTS, noise=0.001)
    visits: list[tuple[Placement, int, float]] = []
    found = measure_in_rounds(
        engine, [BASE, O_PROJ, O_PROJ], SETTINGS, seed=0, visited=lambda *visit: visits.append(visit)
    )
    assert [visit[:2] for visit in visits] == [(BASE, 0), (O_PROJ, 0), (BASE, 1), (O_PROJ, 1)]
    shares = [visit[2] for visit in visits]
    assert 0 < shares[0] < shares[1] < shares[2] < shares[3] <= 1, "of the time that all may take"
    assert engine.opened == [BASE, O_PROJ] * 2, "a new adapter each time"
    assert (found[O_PROJ]["settled"], found[O_PROJ]["rounds"], found[O_PROJ]["engine"]) == (True, 2, "simulated")
    assert found[O_PROJ]["ratio"] == pytest.approx(engine.truth(O_PROJ), rel=0.01)
    assert found[BASE]["ratio_ci"][0] <= 1 <= found[BASE]["ratio_ci"][1]


def test_a_profile_that_runs_out_of_time_says_so() -> None:
    settings = replace(SETTINGS, half_width=0.0, max_seconds=0.0)
    found = measure_in_rounds(SimulatedEngine(COSTS), [O_PROJ], settings, seed=0)[O_PROJ]
    assert (found["settled"], found["rounds"], found["requests"]) == (False, 2, 6)


def test_a_visit_warms_up_and_has_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request behind a new adapter is slow, and would be counted once a round."""
    clock = [0.0]
    monkeypatch.setattr("objectives.latency.rounds.time.perf_counter", lambda: clock[0])
    asked: list[Slow] = []

    class Engine(SimulatedEngine):
        def open(self, placement: Placement, seed: int) -> Any:
            asked.append(Slow(super().open(placement, seed), clock))
            return asked[-1]

    settings = replace(SETTINGS, warmup=2, half_width=0.0, max_seconds=8.0)
    found = measure_in_rounds(Engine(COSTS), [O_PROJ], settings, seed=0)[O_PROJ]
    assert [each.requests for each in asked] == [6, 6], "two to warm up, four of a second each"
    assert (found["rounds"], found["requests"]) == (2, 8)
    assert found["ratio"] < 2, "without those that warm up"


class Slow:
    """A pair whose first two requests are out of all proportion, and each of which takes a second of the clock."""

    axis = "tpot"

    def __init__(self, pair: SimulatedPair, clock: list[float]) -> None:
        self._pair, self._clock, self.requests = pair, clock, 0

    def request(self) -> PairedRequest:
        self.requests += 1
        self._clock[0] += 1.0
        request = self._pair.request()
        return replace(request, ratios=request.ratios * 100) if self.requests <= 2 else request


def test_one_latency_exceeds_another_by_more_than_one_standard_error_of_their_difference() -> None:
    def ratio(value: float, error: float) -> Ratio:
        reach = error * 1.96 * 2**0.5
        return Ratio(value, value - reach, value + reach)

    base = ratio(1.2, 0.03)
    assert ratio(1.251, 0.04).exceeds(base), "0.051 is more than hypot(0.03, 0.04)"
    assert not ratio(1.249, 0.04).exceeds(base)
    assert not base.exceeds(ratio(1.251, 0.04))
    assert Ratio.exact(1.3).exceeds(Ratio.exact(1.2))
    assert not Ratio.exact(1.2).exceeds(Ratio.exact(1.2))


def test_one_request_has_no_interval() -> None:
    ratio = ratio_of([SimulatedEngine(COSTS).open(O_PROJ, 0).request()], 0)
    assert (ratio.low, ratio.high) == (0.0, float("inf"))


class Counted:
    """A pair that counts its requests."""

    axis = "tpot"

    def __init__(self) -> None:
        self.requests = 0
        self._pair = SimulatedEngine(COSTS).open(O_PROJ, 0)

    def request(self) -> PairedRequest:
        self.requests += 1
        return self._pair.request()


def test_requests_end_when_the_ratio_is_known_well_enough() -> None:
    pair = Counted()
    requests, settled = sample(pair, replace(SETTINGS, min_requests=4, half_width=1e6), 0)  # type: ignore[arg-type]  # Counted's axis is a str
    assert (len(requests), pair.requests, settled) == (4, 5, True), "one more to warm up"


def test_what_has_settled_is_kept_as_narrow_as_was_asked_for() -> None:
    widths = []
    for seed in range(20):
        requests, settled = sample(SimulatedEngine(COSTS, noise=0.06).open(O_PROJ, seed), SETTINGS, seed)
        widths += [ratio_of(requests, seed).half_width] * settled
    assert len(widths) >= 10
    assert max(widths) <= SETTINGS.half_width


@pytest.mark.parametrize(("max_requests", "max_seconds", "taken"), [(6, 60.0, 6), (40, 0.0, 5)])
def test_requests_end_at_the_limits(max_requests: int, max_seconds: float, taken: int) -> None:
    settings = replace(SETTINGS, max_requests=max_requests, max_seconds=max_seconds, half_width=0.0)
    requests, settled = sample(SimulatedEngine(COSTS).open(O_PROJ, 0), settings, 0)
    assert (len(requests), settled) == (taken, False)


def test_the_raw_samples_are_kept() -> None:
    profile = measure(SimulatedEngine(COSTS).open(O_PROJ, 0), SETTINGS, seed=0, engine="simulated")
    samples = profile["samples"]
    assert len(samples["ratio"]) == profile["requests"] == len(samples["base"]["ttft_ms"])
    assert samples["base"]["itl_ms"][0] == [1.0] * 8
    assert samples["base"]["ttft_ms"] == [4.0] * profile["requests"]
    assert samples["adapted"]["output_tokens"] == [9] * profile["requests"]
    assert profile["base"]["tpot_p99_ms"] == pytest.approx(1.0)
    adapted = np.sort(samples["adapted"]["itl_ms"])
    assert samples["ratio"] == pytest.approx(adapted[:, 1:-1].mean(1), abs=1e-4), "eight to one millisecond each"
    assert profile["tpot_p50_ms"] == pytest.approx(np.median(adapted.mean(1)), abs=1e-4), "the placement's, in front"

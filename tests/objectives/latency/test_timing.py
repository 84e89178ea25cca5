from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.latency.timing import Timing, percentiles, timing

gaps = st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=30)
seconds = st.floats(1e-3, 10.0)


@given(sent=seconds, first=seconds, gaps=gaps)
def test_a_token_a_chunk(sent: float, first: float, gaps: list[float]) -> None:
    chunks = list(sent + first + np.concatenate([[0], np.cumsum(gaps)]))
    found = timing(sent, chunks, len(chunks))
    assert found.ttft == pytest.approx(first)
    assert found.itl == pytest.approx(tuple(gaps))
    assert found.latency == pytest.approx(first + sum(gaps))
    assert found.tpot == pytest.approx(np.mean(gaps))


@given(gap=st.floats(1e-3, 1.0), bundles=st.lists(st.integers(1, 5), min_size=1, max_size=10))
def test_bundles_do_not_change_the_time_per_token(gap: float, bundles: list[int]) -> None:
    """A server that makes a token every ``gap`` and sends several of them in one chunk."""
    chunks = list(1.0 + gap * np.concatenate([[0], np.cumsum(bundles)]))
    found = timing(0.5, chunks, 1 + sum(bundles))
    assert found.tpot == pytest.approx(gap)
    assert found.itl == pytest.approx([gap * bundle for bundle in bundles])


def test_one_token_has_no_time_after_its_first() -> None:
    found = timing(1.0, [1.5], 1)
    assert (found.ttft, found.itl, found.tpot) == (0.5, (), None)
    assert percentiles([found]) == {
        **{f"ttft_p{p}_ms": 500.0 for p in (50, 95, 99)},
        **{f"{name}_p{p}_ms": None for name in ("tpot", "itl") for p in (50, 95, 99)},
    }


def test_one_chunk_of_several_tokens_does_not_tell_the_time_of_one() -> None:
    """Of requests at once some may have one, and their TPOT of 0 stood among the others'."""
    found = timing(1.0, [1.5], 5)
    assert (found.ttft, found.itl, found.tpot) == (0.5, (), None)
    assert percentiles([found, Timing(0.1, (0.01,) * 4, 5)])["tpot_p50_ms"] == pytest.approx(10)


def test_percentiles_are_over_requests_for_tpot_and_over_all_gaps_for_itl() -> None:
    quick = Timing(0.1, (0.01,) * 9, 10)
    slow = Timing(0.3, (0.05,), 2)
    found = percentiles([quick, slow])
    assert found["ttft_p50_ms"] == pytest.approx(200)
    assert found["tpot_p50_ms"] == pytest.approx(30), "two requests: their middle"
    assert found["itl_p50_ms"] == pytest.approx(10), "ten gaps, nine of them short"


@given(gaps=gaps, factor=st.floats(0.5, 2.0))
def test_percentiles_scale_and_are_ordered(gaps: list[float], factor: float) -> None:
    requests = [Timing(gap, (gap, 2 * gap), 3) for gap in gaps]
    scaled = [Timing(factor * gap, (factor * gap, factor * 2 * gap), 3) for gap in gaps]
    one, other = percentiles(requests), percentiles(scaled)
    for name, value in one.items():
        assert value is not None
        assert other[name] == pytest.approx(factor * value)
    for name in ("ttft", "tpot", "itl"):
        assert one[f"{name}_p50_ms"] <= one[f"{name}_p95_ms"] <= one[f"{name}_p99_ms"]  # type: ignore[operator]


@pytest.mark.parametrize(("chunks", "tokens"), [([], 3), ([1.0], 0)])
def test_no_answer_has_no_timing(chunks: list[float], tokens: int) -> None:
    with pytest.raises(ValueError, match=f"^{len(chunks)} chunks and {tokens} tokens are no answer$"):
        timing(0.0, chunks, tokens)


def test_no_requests_have_no_percentiles() -> None:
    with pytest.raises(ValueError, match=r"^no request was taken, so there are no percentiles$"):
        percentiles([])

"""What one request's chunks say about its latency, in the words of vLLM's benchmarks.

TTFT is the time from sending to the first chunk with text. TPOT = (latency - TTFT) / (output tokens - 1), one value per
request, none for an answer of one token or of one chunk; its percentiles are over requests. ITL is the gap between two
chunks with text; its percentiles pool the gaps of all requests. Source: ``vllm/benchmarks/serve.py``,
``calculate_metrics``, and ``lib/endpoint_request_func.py``. Two things differ: a chunk without text, which vLLM counts
as the first token, is not one here; and several tokens in one chunk, which take no time there, do not tell it here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

PERCENTS = (50, 95, 99)


@dataclass(frozen=True)
class Timing:
    """One request, in seconds: ``itl`` holds the gaps between its chunks, in order."""

    ttft: float
    itl: tuple[float, ...]
    output_tokens: int

    @property
    def latency(self) -> float:
        """From sending to the last chunk with text."""
        return self.ttft + sum(self.itl)

    @property
    def tpot(self) -> float | None:
        """None for an answer of one token, which has no time after its first, or of one chunk, which tells none."""
        return sum(self.itl) / (self.output_tokens - 1) if self.itl and self.output_tokens > 1 else None


def timing(sent: float, chunks: Sequence[float], output_tokens: int) -> Timing:
    """``chunks`` are the times at which text arrived, ascending, on the clock of ``sent``.

    ``output_tokens`` is the server's own count, since a chunk may bundle several tokens. Raises ValueError where there
    is no chunk, or fewer tokens than one.
    """
    if not chunks or output_tokens < 1:
        raise ValueError(f"{len(chunks)} chunks and {output_tokens} tokens are no answer")
    gaps = tuple(float(gap) for gap in np.diff(chunks))
    return Timing(chunks[0] - sent, gaps, output_tokens)


def percentiles(requests: Iterable[Timing]) -> dict[str, float | None]:
    """``ttft_p50_ms`` to ``itl_p99_ms``, in milliseconds by linear interpolation; None where no request has the value.

    Raises ValueError without requests.
    """
    timings = list(requests)
    if not timings:
        raise ValueError("no request was taken, so there are no percentiles")
    pools = {
        "ttft": [each.ttft for each in timings],
        "tpot": [each.tpot for each in timings if each.tpot is not None],
        "itl": [gap for each in timings for gap in each.itl],
    }
    return {
        f"{name}_p{percent}_ms": float(np.percentile(pool, percent)) * 1e3 if pool else None
        for name, pool in pools.items()
        for percent in PERCENTS
    }

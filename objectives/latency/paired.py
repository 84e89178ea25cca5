"""A placement beside the base model: requests by turns until their ratio is known, and what they say.

Base and adapted model take turns in short blocks, so that whatever else the machine does falls on both, and the ratio
of the two survives it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from objectives.latency.settings import LatencySettings
from objectives.latency.timing import Timing, percentiles

Axis = Literal["tpot", "ttft"]
#: The normal distribution holds 95% within so many standard errors.
_NORMAL = 1.96
#: From a ratio's standard error to the reach of its interval: two equal measurements differ by more in 5% of cases.
_REPETITION = _NORMAL * math.sqrt(2)
_RESAMPLES = 1000


@dataclass(frozen=True)
class PairedRequest:
    """The same request to both models. ``ratios`` are adapted / base, one for each pair of neighbouring blocks."""

    ratios: NDArray[np.float64]
    base: tuple[Timing, ...]  # one for each of the requests that ran at once
    adapted: tuple[Timing, ...]


class Pair(Protocol):
    """The base model and a placement, ready to serve side by side on one engine."""

    axis: Axis  # what the ratio is of

    def request(self) -> PairedRequest:
        """Serve one request with both, by turns."""


@dataclass(frozen=True)
class Ratio:
    """adapted / base and the interval in which a repetition falls in 95% of cases, of no width where it is exact."""

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Ratio:
        return cls(value, value, value)

    @classmethod
    def reaching(cls, value: float, reach: float) -> Ratio:
        """``reach`` is the distance of both ends from the value, in logarithms."""
        return cls(value, value / math.exp(reach), value * math.exp(reach))

    @classmethod
    def of(cls, profile: Mapping[str, Any]) -> Ratio:
        """From a trial's latency; one that was replayed from a table has no interval."""
        ratio = profile["ratio"]
        return cls(ratio, *(profile.get("ratio_ci") or (ratio, ratio)))

    @property
    def half_width(self) -> float:
        """As a share of the value."""
        return (self.high - self.low) / 2 / self.value

    @property
    def standard_error(self) -> float:
        """That which a normal distribution with this interval has: of few requests more than their spread alone."""
        return (self.high - self.low) / 2 / _REPETITION

    @property
    def log_error(self) -> float:
        """Standard error of the ratio's logarithm, where the interval reaches as far in factors to both sides."""
        return error_of(float(np.log(self.high / self.value)))

    def exceeds(self, other: Ratio) -> bool:
        """By more than one standard error of the difference."""
        return self.value - other.value > math.hypot(self.standard_error, other.standard_error)


def error_of(reach: float) -> float:
    """The standard error whose interval for a repetition reaches so far."""
    return reach / _REPETITION


def ratio_of(requests: Sequence[PairedRequest], seed: int) -> Ratio:
    """The trimmed mean over all pairs of blocks: moments in which the machine does something else weigh nothing.

    The interval is for a second, equal measurement: that of :func:`reach_of`, wider by what so few requests leave
    unknown of their own spread. It is wider by about the square root of two than an interval for the mean of endless
    requests, which no one will ever compare with.
    """
    if len(requests) < 2:
        return Ratio(value_of(requests), 0.0, float("inf"))
    return Ratio.reaching(value_of(requests), reach_of(requests, seed) * student(len(requests) - 1))


def value_of(requests: Sequence[PairedRequest]) -> float:
    return float(_trimmed_mean(np.concatenate([request.ratios for request in requests])))


def reach_of(requests: Sequence[PairedRequest], seed: int, resamples: int = _RESAMPLES) -> float:
    """How far, in logarithms, a second measurement is from this one in 95% of cases if requests spread as these do.

    Bootstrap means with requests resampled whole, and of these the 95% quantile of the ratio of two. Two requests or
    more.
    """
    ratios = np.stack([request.ratios for request in requests])
    picks = np.random.default_rng(seed).integers(len(ratios), size=(resamples, len(ratios)))
    means = np.log(_trimmed_mean(ratios[picks].reshape(resamples, -1)))
    # Resampling n requests shows the spread of n - 1.
    spread = np.abs(means - np.roll(means, 1)) * np.sqrt(len(ratios) / (len(ratios) - 1))
    return float(np.quantile(spread, 0.95))


def student(freedom: int) -> float:
    """How many times farther Student's t reaches than the normal distribution, at 95%."""
    return float(stdtrit(freedom, 0.975)) / _NORMAL


def _trimmed_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without the lowest and the highest fifth."""
    ordered = np.sort(values, axis=-1)
    cut = ordered.shape[-1] // 5
    mean: NDArray[np.float64] = ordered[..., cut : ordered.shape[-1] - cut].mean(-1)
    return mean


def sample(pair: Pair, settings: LatencySettings, seed: int) -> tuple[list[PairedRequest], bool]:
    """Requests after warm-up, and whether their ratio settled before a limit was reached."""
    for _ in range(settings.warmup):
        pair.request()
    requests: list[PairedRequest] = []
    started = time.perf_counter()
    while len(requests) < settings.max_requests:
        requests.append(pair.request())
        if len(requests) >= settings.min_requests:
            # By all resamples, a millisecond: fewer found narrow what then is kept as wider than was asked for.
            if ratio_of(requests, seed).half_width <= settings.half_width:
                return requests, True
            if time.perf_counter() - started > settings.max_seconds:
                break
    return requests, False


def profile_of(
    requests: Sequence[PairedRequest], ratio: Ratio, axis: Axis, settings: LatencySettings, *, settled: bool
) -> dict[str, Any]:
    """Plain values ready for JSON. Times are in milliseconds by the wall clock, and so are the raw ``samples``."""
    base = [timing for request in requests for timing in request.base]
    adapted = [timing for request in requests for timing in request.adapted]
    return {
        "ratio": ratio.value,
        "ratio_ci": [ratio.low, ratio.high],
        "settled": settled,
        "requests": len(requests),
        "axis": axis,
        "source": "measured",
        "measured_at": datetime.now(UTC).isoformat(),
        **percentiles(adapted),
        "base": percentiles(base),
        "samples": {
            "ratio": [float(_trimmed_mean(request.ratios)) for request in requests],
            "base": _raw(base),
            "adapted": _raw(adapted),
        },
        "prompt_tokens": settings.prompt_tokens,
        "output_tokens": settings.output_tokens,
        "concurrency": settings.concurrency,
    }


def _raw(timings: list[Timing]) -> dict[str, Any]:
    return {
        "ttft_ms": [round(each.ttft * 1e3, 4) for each in timings],
        "itl_ms": [[round(gap * 1e3, 4) for gap in each.itl] for each in timings],
        "output_tokens": [each.output_tokens for each in timings],
    }

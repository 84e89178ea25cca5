"""How long and how often latency is measured; part of what a profile depends on."""

from __future__ import annotations

from dataclasses import dataclass

from objectives.errors import RequestError


@dataclass(frozen=True)
class LatencySettings:
    """Requests are taken until the ratio is known to ``half_width`` (a share of it), within the limits.

    ``concurrency`` is how many requests run at once: rows of a batch in one process, connections to a server.
    """

    prompt_tokens: int = 32
    output_tokens: int = 17
    concurrency: int = 1
    warmup: int = 1  # requests before the clock counts
    min_requests: int = 5
    max_requests: int = 40
    max_seconds: float = 0.8  # of one measurement; the requests under way are finished
    half_width: float = 0.02
    graphs: bool = False  # decode with a static cache and CUDA graphs

    def __post_init__(self) -> None:
        """Raises RequestError for a length that makes no request."""
        for name, least in (("prompt_tokens", 1), ("output_tokens", 3), ("concurrency", 1)):
            value = getattr(self, name)
            if value < least:
                raise RequestError(f"--{name.replace('_', '-')} {value} is too small: give {least} or more")
        for name in ("half_width", "max_seconds"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise RequestError(f"--{name.replace('_', '-')} {getattr(self, name):g} must be a number from 0")

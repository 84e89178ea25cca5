"""Serving latency of a placement, measured against the base model in one process.

The words are those of vLLM's benchmarks: TTFT is the time to the first token, TPOT = (latency - TTFT) / (tokens - 1),
one value per request. Base and adapted model take turns, so that whatever else the machine does falls on both, and the
ratio of the two survives it. A placement's latency depends on its shape alone, not on its weights: an adapter that was
just initialised is as slow as a trained one, so no training comes before this.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from objectives.modules import ModuleSpace

_RESAMPLES = 1000


@dataclass(frozen=True)
class LatencySettings:
    """Requests are taken until the ratio is known to ``half_width``, within the limits."""

    prompt_tokens: int = 32
    output_tokens: int = 17
    warmup: int = 1  # requests before the clock counts
    min_requests: int = 5
    max_requests: int = 40
    max_seconds: float = 1.5
    half_width: float = 0.02


def profile_context(space: ModuleSpace, device: torch.device, settings: LatencySettings) -> str:
    """What a latency profile depends on beside the placement, and so what it may be reused for."""
    import peft
    import transformers

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    protocol = "/".join(str(value) for value in asdict(settings).values())
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    return f"{space.structure}|transformers|{name}|{threads} threads|{protocol}|{versions}"


@torch.inference_mode()
def measure_pair(base: Any, adapted: Any, settings: LatencySettings, *, encoder: bool, seed: int) -> dict[str, Any]:
    """Profile of ``adapted`` beside ``base``, plain values ready for JSON.

    The two models decode one request side by side, a token of one, then a token of the other. ``ratio`` is the median
    over all such pairs of adapted / base, so that a moment in which the machine does something else weighs little;
    ``ratio_ci`` its 95% percentile-bootstrap interval, requests resampled whole. An encoder has no TPOT: a pair is then
    one pass of each. Times are in milliseconds by the wall clock, percentiles over requests; the ratio is taken from
    CPU time where one thread computes, since what other processes take from it is no cost of the placement.
    """
    vocabulary = base.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(vocabulary, (1, settings.prompt_tokens), generator=generator).to(base.device)
    end = base.config.get_text_config().eos_token_id
    if encoder and isinstance(end, int):
        prompt[0, -1] = end  # encoder-decoders classify by it
    request = _encode if encoder else _decode
    for _ in range(settings.warmup):
        request((base, adapted), prompt, settings.output_tokens)
    requests: list[_Request] = []
    started = time.perf_counter()
    interval, settled = (0.0, np.inf), False
    while len(requests) < settings.max_requests:
        requests.append(request((base, adapted), prompt, settings.output_tokens))
        if len(requests) >= settings.min_requests:
            interval = _ratio_interval(requests, seed)
            settled = (interval[1] - interval[0]) / 2 <= settings.half_width
            if settled or time.perf_counter() - started > settings.max_seconds:
                break
    return {
        "ratio": float(np.median(np.concatenate([r.ratios for r in requests]))),
        "ratio_ci": list(interval),
        "settled": bool(settled),
        "requests": len(requests),
        "axis": "ttft" if encoder else "tpot",
        **_percentiles(requests, 1, encoder),
        "base": _percentiles(requests, 0, encoder),
        "engine": "transformers",
        "mode": "unmerged",
        "prompt_tokens": settings.prompt_tokens,
        "output_tokens": settings.output_tokens,
    }


@dataclass(frozen=True)
class _Request:
    """Seconds (tokens, 2 models) of one request to both models; the first token's are its TTFT."""

    wall: NDArray[np.float64]
    cost: NDArray[np.float64]  # what the ratio is taken from

    @property
    def ratios(self) -> NDArray[np.float64]:
        """One for every two tokens: who goes first changes in between, and the second of two finds warm caches."""
        steps = self.cost[1:]
        twos = steps[: len(steps) // 2 * 2].reshape(-1, 2, 2).sum(1)
        ratios: NDArray[np.float64] = twos[:, 1] / twos[:, 0]
        return ratios


def _ratio_interval(requests: list[_Request], seed: int) -> tuple[float, float]:
    ratios = np.stack([r.ratios for r in requests])
    picks = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    medians = np.median(ratios[picks].reshape(_RESAMPLES, -1), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def _percentiles(requests: list[_Request], model: int, encoder: bool) -> dict[str, float | None]:
    ttft = [r.wall[0, model] * 1e3 for r in requests]
    tpot = [r.wall[1:, model].mean() * 1e3 for r in requests]
    out: dict[str, float | None] = {}
    for percent in (50, 95, 99):
        out[f"ttft_p{percent}_ms"] = float(np.percentile(ttft, percent))
        out[f"tpot_p{percent}_ms"] = None if encoder else float(np.percentile(tpot, percent))
    return out


def _now(device: torch.device) -> NDArray[np.float64]:
    """The wall clock and the clock of the cost, in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall = time.perf_counter()
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return np.array([wall, time.thread_time() if alone else wall])


def _decode(models: tuple[Any, Any], prompt: torch.Tensor, output_tokens: int) -> _Request:
    """Greedy decoding with a cache, nothing else in the loop; who goes first changes from token to token."""
    seconds = np.zeros((output_tokens, 2, 2))
    inputs: list[dict[str, Any]] = [{"input_ids": prompt}, {"input_ids": prompt}]
    for token in range(output_tokens):
        for which in (0, 1) if token % 2 == 0 else (1, 0):
            model = models[which]
            start = _now(model.device)
            out = model(**inputs[which], use_cache=True)
            inputs[which] = {"input_ids": out.logits[:, -1:].argmax(-1), **_cache_of(out)}
            seconds[token, which] = _now(model.device) - start
    return _Request(seconds[..., 0], seconds[..., 1])


def _cache_of(out: Any) -> dict[str, Any]:
    """The decoding state under the argument name that the next call takes.

    transformers calls every state ``cache`` from 5.24 on; before, attention and state-space models had names of their
    own.
    """
    for name in ("cache", "past_key_values", "cache_params", "state"):
        state = getattr(out, name, None)
        if state is not None:
            return {name: state}
    return {}


def _encode(models: tuple[Any, Any], prompt: torch.Tensor, passes: int) -> _Request:
    seconds = np.zeros((passes, 2, 2))
    for turn in range(passes):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            start = _now(models[which].device)
            models[which](input_ids=prompt)
            seconds[turn, which] = _now(models[which].device) - start
    return _Request(seconds[..., 0], seconds[..., 1])

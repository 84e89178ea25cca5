"""How a value is written: the same in a terminal, in Markdown and on a page. A missing value is ``-``."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "-"

_METRICS = {
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "exact_match": "exact match",
    "token_f1": "token F1",
}


def decimal(value: float | None, digits: int = 3) -> str:
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,}"


def interval(bounds: Sequence[float | None] | None, digits: int = 3) -> str:
    """``[low, high]``, or nothing at all without both bounds."""
    if not bounds or any(bound is None or not math.isfinite(bound) for bound in bounds):
        return ""
    return f"[{', '.join(decimal(bound, digits) for bound in bounds)}]"


def between(values: Sequence[float], digits: int = 3) -> str:
    """``0.612 to 0.680``, or ``0.612`` where all are that when written."""
    return " to ".join(dict.fromkeys(decimal(end, digits) for end in (min(values), max(values))))


def with_interval(value: float | None, bounds: Sequence[float | None] | None, digits: int = 3) -> str:
    """``0.610 [0.570, 0.650]``."""
    if decimal(value, digits) == MISSING:
        return MISSING
    return f"{decimal(value, digits)} {interval(bounds, digits)}".rstrip()


def bounded(key: str, value: float | None, bounds: Sequence[float] | None) -> dict[str, float | None]:
    """A figure and its interval as three cells of a flat row; nulls without an interval."""
    low, high = bounds or (None, None)
    return {key: value, f"{key}_low": low, f"{key}_high": high}


def duration(seconds: float | None) -> str:
    """``48s``, ``1m20s``, ``2h05m``."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def metric_name(metric: str) -> str:
    return _METRICS.get(metric, metric.replace("_", " "))


def latency_name(axis: str) -> str:
    """A model that answers in one pass (``ttft``) has no time per output token, only the time of its request."""
    return "request time" if axis == "ttft" else "TPOT"


def faster_by_noise(faster: Sequence[tuple[str, float]], ratio: float) -> str:
    """Of placements and their ratios: ``, but for q_proj r8, whose lower latency may be noise (1.228 for 1.231)``."""
    if not faster:
        return ""
    names = " and ".join(label for label, _ in faster)
    ratios = ", ".join(decimal(each) for _, each in faster)
    latency = "latency" if len(faster) == 1 else "latencies"
    return f", but for {names}, whose lower {latency} may be noise ({ratios} for {decimal(ratio)})"


def wrapped(label: str, width: int) -> list[str]:
    """The lines of a placement's label, broken after its ``+`` signs; a longer single name stays whole."""
    lines = [""]
    for part in label.replace("+", "+\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def plain(text: object) -> str:
    """One line without control characters, for streams where a name could otherwise move the cursor."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())

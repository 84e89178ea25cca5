"""What is recommended against the baseline, the placement that is used today, in a sentence."""

from __future__ import annotations

from typing import Any

from dashboards.format import count, decimal, interval, latency_name, metric_name, plain, with_interval


def against(document: dict[str, Any]) -> str:
    """From the document that ``run --json`` prints; empty where no baseline was named.

    On the test split, where both were read there, with the interval of the difference; else on validation.
    """
    if (baseline := document.get("baseline")) is None:
        return ""
    name = f"The baseline, {plain(baseline['label'])}"
    if baseline["trial"] is None:
        return f"{name}, has not been tried yet."
    if baseline["validation_accuracy"] is None:
        why = f": {plain(baseline['reason'])}" if baseline["reason"] else ""
        return f"{name} (trial {baseline['trial']}), is {baseline['status']}{why}."
    chosen = (document.get("recommended") or {}).get("trial")
    if chosen == baseline["trial"]:
        return f"{name} (trial {chosen}), is what is recommended."
    member = next((row for row in document["front"] if row["trial"] == chosen), None)
    metric = metric_name(document["metric"])
    split = "validation" if baseline["accuracy"] is None else "test"
    own = with_interval(baseline["accuracy"], baseline["accuracy_ci"])
    own = own if split == "test" else decimal(baseline["validation_accuracy"])
    latency = f"{latency_name(document['latency_axis'])} ratio"
    sentence = f"{name} (trial {baseline['trial']}), has {split} {metric} {own} at a {latency} of "
    sentence += with_interval(baseline["tpot_ratio"], baseline["tpot_ratio_ci"])
    if member is None:
        return f"{sentence}."
    if baseline["difference"] is None:
        gained = f"{member['validation_accuracy'] - baseline['validation_accuracy']:+.3f} in validation {metric}"
    else:
        low, high = baseline["difference_ci"]
        bounds = interval([low, high])
        gained = f"{baseline['difference']:+.3f} {bounds} on the same {count(baseline['test_rows'])} rows"
        gained += ", which is no difference beyond the interval," if low <= 0 <= high else ""
    return f"{sentence}. What is recommended has {gained} {_latency(member, baseline)}."


def _latency(member: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Beyond the intervals of both, or not."""
    ratio = decimal(member["tpot_ratio"])
    mine, theirs = member["tpot_ratio_ci"], baseline["tpot_ratio_ci"]
    if not mine or not theirs:
        return f"at {ratio}"
    if mine[1] < theirs[0]:
        return f"and is faster ({ratio})"
    if mine[0] > theirs[1]:
        return f"and is slower ({ratio})"
    return f"and is as fast within the intervals ({ratio})"

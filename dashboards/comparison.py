"""A comparison across tasks as tables and sentences, from the document that ``compare --json`` prints.

The document has fractions of 1; what is written here is in points, a hundredth of the metric's range, where it is a
difference of accuracies.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dashboards.format import (
    MISSING,
    bounded,
    decimal,
    faster_by_noise,
    latency_name,
    metric_name,
    plain,
    with_interval,
)
from objectives.errors import counted

DEFAULT, BASELINE = "robust default", "baseline"


def task_names(document: dict[str, Any]) -> dict[str, str]:
    """What a task is called in a table: the name of its search without the words that all of them begin with."""
    tasks = document["tasks"]
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*tasks, strict=False))
    prefix = "".join(letters[0] for letters in alike)
    start = max(prefix.rfind("-"), prefix.rfind("_"), prefix.rfind(".")) + 1
    return {task: plain(task[start:] or task) for task in tasks}


def called(placement: dict[str, Any]) -> str:
    """``all linear r8`` for a reference placement, else its targets."""
    known = placement["reference"] not in (None, BASELINE)  # that is a mark, and says nothing of what it is
    return plain(f"{placement['reference']} r{placement['rank']}" if known else placement["label"])


def points(value: float | None, bounds: Sequence[float] | None = None) -> str:
    """``3.2 [0.0, 6.1]``, in points."""
    if value is None:
        return MISSING
    return with_interval(100 * value, [100 * bound for bound in bounds] if bounds else None, digits=1)


def regret_table(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text, the fastest placement first; columns: placement, tasks, mean, worst, latency, mark."""
    latency = latency_name(document["latency_axis"])
    header = ["regret in points", *task_names(document).values(), "mean", "worst", f"{latency} ratio"]
    rows = [
        [
            called(placement),
            *(points(placement["regret"][task], placement["regret_ci"][task]) for task in document["tasks"]),
            points(placement["mean_regret"], placement["mean_regret_ci"]),
            points(placement["worst_regret"], placement["worst_regret_ci"]),
            with_interval(placement["tpot_ratio"], placement["tpot_ratio_ci"]),
            DEFAULT if is_default(document, placement) else BASELINE if _is_baseline(document, placement) else "",
        ]
        for placement in document["placements"]
    ]
    return [*header, ""], rows


def accuracy_table(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: what each placement reaches on each task, and its gain over the base model in points."""
    names, metrics = task_names(document), document["metric"]
    header = [f"{name} {metric_name(metrics[task])}, gain in points" for task, name in names.items()]
    base = [with_interval(each["accuracy"], each["accuracy_ci"]) for each in document["base"].values()]
    rows = [
        [
            called(placement),
            *(
                f"{decimal(placement['accuracy'][task])}  {_gain(placement['gain'][task], placement['gain_ci'][task])}"
                for task in document["tasks"]
            ),
        ]
        for placement in document["placements"]
    ]
    return ["placement", *header], [["base model", *base], *rows]


def is_default(document: dict[str, Any], placement: dict[str, Any]) -> bool:
    chosen = document["robust_default"]
    return chosen is not None and _same(placement, chosen)


def _is_baseline(document: dict[str, Any], placement: dict[str, Any]) -> bool:
    known = document.get("baseline")
    return known is not None and _same(placement, known)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["targets"], one["rank"]) == (other["targets"], other["rank"])


def default_of(document: dict[str, Any]) -> dict[str, Any] | None:
    return next((each for each in document["placements"] if is_default(document, each)), None)


def default_sentence(document: dict[str, Any]) -> str:
    """What a platform team needs; the document's `robust_default` must be known, but for its words."""
    default = default_of(document)
    assert default is not None
    if len(document["placements"]) == 1:  # its regret is 0 whatever it is worth
        return f"{called(default)} is the only placement that every task has a figure of."
    least, most = points(default["worst_regret"]), points(default["worst_regret_ci"][1])
    text = f"{called(default)} is within {least} points of the best on every task (with 95% confidence within {most})"
    against = document["robust_default"]["against"]
    if against is None:
        return f"{text}."
    other = next(each for each in document["placements"] if _same(each, against))
    latency = latency_name(document["latency_axis"])
    rival = f"{called(other)}, {against['what']}"
    if f"{abs(against['tpot_saving']):.1%}" == "0.0%":  # as of one latency class of a server
        return f"{text}, at the same {latency} as {rival} (ratio {decimal(default['tpot_ratio'])})."
    what = f"than {rival}"
    ratios = f"ratio {decimal(default['tpot_ratio'])} instead of {decimal(other['tpot_ratio'])}"
    saving = f"{document['latency_axis']}_p95_saving"
    value, bounds = against.get(saving), against.get(f"{saving}_ci")
    whole = f"{text}, at {_less(against['tpot_saving'])} {latency} {what} ({ratios}"
    if value is None:
        return f"{whole})."
    if min(bounds) <= 0 <= max(bounds) or (value > 0) != (against["tpot_saving"] > 0):
        # Percentiles of the wall clock have whatever else the machine did in them; the ratio has not.
        return f"{whole}; {latency} p95, with all else that this machine did, is {_less(value, bounds)})."
    return f"{text}, at {_less(value, bounds)} {latency} p95 {what} ({latency} {ratios})."


def _less(saving: float, bounds: Sequence[float] | None = None) -> str:
    """``22.6% lower``, or ``22.6% [18.0, 26.1] lower``."""
    sign, word = (1, "lower") if saving >= 0 else (-1, "higher")
    interval = f" [{', '.join(f'{100 * sign * bound:.1f}' for bound in bounds[::sign])}]" if bounds else ""
    return f"{100 * abs(saving):.1f}%{interval} {word}"


def default_why(document: dict[str, Any], passed_over: Sequence[dict[str, Any]] = ()) -> str:
    """How the default was chosen, one clause; it was taken for faster ones of equal regret that were passed over."""
    default, cap = default_of(document), document["max_tpot_ratio"]
    assert default is not None
    if len(document["placements"]) == 1:
        return "there is no other to choose from"
    latency = latency_name(document["latency_axis"])
    allowed = [each for each in document["placements"] if cap is None or each["tpot_ratio"] <= cap]
    best = min(allowed, key=lambda each: (each["worst_regret"], each["tpot_ratio"]))
    under = "" if cap is None else f" of those up to {latency} ratio {cap:g}"
    but = faster_by_noise([(called(each), each["tpot_ratio"]) for each in passed_over], default["tpot_ratio"])
    if best is default:
        if all(each["tpot_ratio"] >= default["tpot_ratio"] for each in allowed):
            return f"it has the smallest worst regret{under}, and none is faster"
        return (
            f"it has the smallest worst regret{under}, and every faster one has a larger one beyond its interval{but}"
        )
    return (
        f"the fastest whose worst regret cannot be told from the smallest{under}, the {points(best['worst_regret'])} "
        f"points of {called(best)}{but}"
    )


def sentences(document: dict[str, Any]) -> list[str]:
    """What the tables do not say: the default, where it is no gain, how stable the order is, what brackets mean."""
    latency, names = latency_name(document["latency_axis"]), task_names(document)
    default = default_of(document)
    found = []
    if default is None:
        fastest = min(document["placements"], key=lambda each: each["tpot_ratio"])
        found.append(
            f"No robust default: no placement has a {latency} ratio up to {document['max_tpot_ratio']:g}; the fastest, "
            f"{called(fastest)}, has {decimal(fastest['tpot_ratio'])}."
        )
    else:
        chosen = document["robust_default"]
        found.append(f"Robust default: {plain(chosen['sentence'])} Why: {plain(chosen['why'])}.")
        useless = [names[task] for task in document["tasks"] if default["gain_ci"][task][0] <= 0]
        if document.get("baseline"):
            found.append(_against_baseline(document))
        if useless:
            found.append(f"On {', '.join(useless)} it is not better than the base model beyond its interval.")
    tau = document["rank_stability"]["kendall_tau_b"]
    if tau is not None:
        found.append(
            f"Rank stability: Kendall's tau-b of the placements' order is {decimal(tau, 2)}, the mean over pairs of "
            "tasks (1: all tasks order them alike, 0: as by chance)."
        )
    unpaired = [names[task] for task in document["tasks"] if not document["paired"][task]]
    rows = ", ".join(f"{document['rows'][task]} of {names[task]}" for task in document["tasks"])
    found.append(
        f"Figures are of the {document['split']} split (rows: {rows}). Brackets hold 95% intervals over its rows, "
        + (f"not paired by row on {', '.join(unpaired)}" if unpaired else "paired by row")
        + "; each placement was trained once, with one seed, and what another seed would change is not in them."
    )
    return found


def _against_baseline(document: dict[str, Any]) -> str:
    """Of a document that has both."""
    known, default, names = document["baseline"], default_of(document), task_names(document)
    assert default is not None
    own = next(each for each in document["placements"] if _same(each, known))
    if own is default:
        return f"The baseline, {called(own)}, is the robust default."
    by_task = ", ".join(
        f"{names[task]} {_gain(known['difference'][task], known['difference_ci'][task])}" for task in document["tasks"]
    )
    latency = latency_name(document["latency_axis"])
    mean = _gain(known["mean_difference"], known["mean_difference_ci"])
    return (
        f"Against the baseline, {called(own)}, it has {mean} points on average over tasks ({by_task}), at a {latency} "
        f"ratio of {decimal(default['tpot_ratio'])} instead of {decimal(own['tpot_ratio'])}."
    )


def left_out_sentence(document: dict[str, Any]) -> str:
    """``2 placements are not compared: 1 not tried by b; 1 failed in a: out of memory.``, commonest first."""
    reasons = Counter(plain(each["why"]) for each in document["left_out"])
    if not reasons:
        return ""
    total, listed = reasons.total(), [f"{n} {why}" for why, n in reasons.most_common(3)]
    if more := len(reasons) - len(listed):
        listed.append(f"others for {counted(more, 'more reason')}, which --json has")
    return f"{counted(total, 'placement')} {'is' if total == 1 else 'are'} not compared: {'; '.join(listed)}."


def rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One flat row for each placement and task, of numbers, texts and nulls, for a table artifact."""
    return [
        {
            "task": task,
            "placement": each["label"],
            "reference": each["reference"],
            "rank": each["rank"],
            "metric": document["metric"][task],
            **bounded("accuracy", each["accuracy"][task], each["accuracy_ci"][task]),
            **bounded("gain", each["gain"][task], each["gain_ci"][task]),
            **bounded("regret", each["regret"][task], each["regret_ci"][task]),
            **bounded("mean_regret", each["mean_regret"], each["mean_regret_ci"]),
            **bounded("worst_regret", each["worst_regret"], each["worst_regret_ci"]),
            **bounded("tpot_ratio", each["tpot_ratio"], each["tpot_ratio_ci"]),
            "robust_default": is_default(document, each),
        }
        for each in document["placements"]
        for task in document["tasks"]
    ]


def _gain(value: float, bounds: Sequence[float]) -> str:
    """``+3.2 [-0.4, +6.8]``, in points."""
    return f"{_signed(value)} [{', '.join(map(_signed, bounds))}]"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}"

"""A search's result as tables and sentences, from the document that ``run --json`` prints.

Any figure in the document may be null (test figures before the end, the TPOT of an encoder): it is then left out, or
written as ``-``. Sentences are plain text on one line unless their function says Markdown.
"""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dashboards.against import against
from dashboards.format import (
    MISSING,
    between,
    bounded,
    count,
    decimal,
    duration,
    interval,
    latency_name,
    metric_name,
    plain,
    with_interval,
)

#: MLflow cuts a run's description, which is a tag, at this many characters (``mlflow.utils.validation``).
DESCRIPTION_LIMIT = 8000

#: Whom the placement can be written for, by a command that takes their names in lower case.
RECIPES = "PEFT, TRL, LLaMA-Factory, Axolotl or vLLM"

#: Servers that wrap the layers they were started with for every adapter.
_WRAPPING = ("vllm", "sglang")

#: A sentence names so many groups by their effects; the figure has all.
_GROUPS = 10

#: Where a split's figure stands; the test split is reported where all that are compared have read it.
SPLITS = {"test": "accuracy", "validation": "validation_accuracy"}


def ordered_front(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The front from the cheapest placement to the dearest; those without a latency last."""
    return sorted(document["front"], key=lambda member: _number_or(math.inf, member.get("tpot_ratio")))


def mark(
    document: dict[str, Any], trial: int | None, names: Sequence[str] = ("recommended", "knee", "baseline")
) -> str:
    """Which of the ``names`` the trial has: one, several, or none."""
    return ", ".join(name for name in names if trial is not None and (document.get(name) or {}).get("trial") == trial)


def front_table(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text, the base model first. Columns: trial, placement, six figures, mark."""
    metric, axis = metric_name(document["metric"]), document["latency_axis"]
    latency = latency_name(axis)
    header = ["trial", "placement", f"test {metric}", "validation", f"{latency} ratio", f"{latency} p95 ms"]
    base = {"label": "base model", "tpot_ratio": 1.0, "parameters": 0, **(document.get("base") or {})}
    rows = [
        [
            decimal(row.get("trial"), 0),
            plain(row["label"]),
            with_interval(row.get("accuracy"), row.get("accuracy_ci")),
            decimal(row.get("validation_accuracy")),
            with_interval(row.get("tpot_ratio"), row.get("tpot_ratio_ci")),
            decimal(row.get(f"{axis}_p95_ms"), 2),
            count(row.get("parameters")),
            mark(document, row.get("trial")),
        ]
        for row in [base, *ordered_front(document)]
    ]
    return [*header, "parameters", ""], rows


def front_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The front as flat rows of numbers, texts and nulls, for a table artifact."""
    return [
        {
            "trial": member["trial"],
            "placement": member["label"],
            "targets": "+".join(member["targets"]),
            "rank": member["rank"],
            "metric": document["metric"],
            **bounded("accuracy", member.get("accuracy"), member.get("accuracy_ci")),
            "validation_accuracy": member.get("validation_accuracy"),
            **bounded("tpot_ratio", member.get("tpot_ratio"), member.get("tpot_ratio_ci")),
            **{key: member.get(key) for key in ("tpot_p50_ms", "tpot_p95_ms", "ttft_p95_ms")},
            "parameters": member.get("parameters"),
            "adapter_mb": member.get("adapter_mb"),
            "mark": mark(document, member["trial"]),
            "mlflow_run_id": member.get("mlflow_run_id"),
        }
        for member in ordered_front(document)
    ]


def front_table_markdown(document: dict[str, Any], limit: int | None = None) -> str:
    """A Markdown table of the base model and the first `limit` members of the front (all by default)."""
    header, rows = front_table(document)
    lines = [header, ["---:", "---", *["---:"] * (len(header) - 3), "---"]]
    lines += [[row[0], _code(row[1]), *row[2:]] for row in (rows if limit is None else rows[: limit + 1])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def state(document: dict[str, Any]) -> str:
    """``complete, 24 of 24 trials (22 complete, 1 failed, 1 infeasible) in 2m11s``."""
    trials = {status: n for status, n in document["trials"].items() if n}
    parts = ", ".join(f"{n} {status}" for status, n in trials.items())
    done = f"{sum(trials.values())} of {document['budget']} trials" + (f" ({parts})" if parts else "")
    took = duration(document.get("elapsed_s"))
    return f"{plain(document['status'])}, {done}" + ("" if took == MISSING else f" in {took}")


def outcome(document: dict[str, Any], *, markdown: bool = False) -> str:
    """What the front says: its two ends against the base model, and what the test split cannot tell apart."""
    name = _code if markdown else plain
    front = ordered_front(document)
    if not front:
        return "No placement has both an accuracy and a latency, so there is no front."
    metric, base = metric_name(document["metric"]), document.get("base") or {}
    best, cheapest = max(front, key=_validation), front[0]
    # One for all: a figure of test beside one of validation would compare the splits.
    told = (split for split, key in SPLITS.items() if all(row.get(key) is not None for row in (best, cheapest, base)))
    split = next(told, "validation")
    if len(front) == 1:
        text = f"The front is one placement: {name(best['label'])} reaches {metric} {_reached(document, best, split)}."
    else:
        text = f"The front has {len(front)} placements. The most accurate by validation, {name(best['label'])}, "
        text += f"reaches {metric} {_reached(document, best, split)}."
    if cheapest is not best:
        text += f" The cheapest, {name(cheapest['label'])}, reaches {_reached(document, cheapest, split)}."
    if (value := base.get(SPLITS[split])) is not None:
        text += f" The base model has {decimal(value)} on the {split} split."
    tied = [name(member["label"]) for member in front if member is not best and _overlap(member, best)]
    if tied:
        text += f" The test interval of the most accurate overlaps with that of {_listed(tied)}: they may be tied."
    return text


def recommendation(document: dict[str, Any], *, markdown: bool = False) -> str:
    """The recommended placement with its reason, and the knee; empty where nothing is recommended."""
    name, text = (_code, _escaped) if markdown else (plain, plain)
    labels = {member["trial"]: member["label"] for member in document["front"]}
    recommended, knee = document.get("recommended") or {}, document.get("knee") or {}
    if recommended.get("trial") not in labels:
        return ""
    label, why = labels[recommended["trial"]], (recommended.get("why") or "").rstrip(".")
    about = why.removeprefix(f"{label} ")  # which the sentence has already
    link = "" if not why else ": " if about == why else ", which "
    sentence = f"Recommended: {name(label)} (trial {recommended['trial']}){link}{text(about)}."
    if knee.get("trial") == recommended["trial"]:
        return f"{sentence} It is also the knee of the front."
    if knee.get("trial") in labels:
        return f"{sentence} The knee of the front is {name(labels[knee['trial']])} (trial {knee['trial']})."
    return sentence


def neighbours(document: dict[str, Any]) -> list[str]:
    """What it would cost to take the next faster or the next more accurate member of the front instead."""
    front = ordered_front(document)
    recommended = (document.get("recommended") or {}).get("trial")
    at = next((i for i, member in enumerate(front) if member["trial"] == recommended), None)
    if at is None:
        return []
    metric, latency = metric_name(document["metric"]), latency_name(document["latency_axis"])
    sentences = []
    for name, other in (("faster", at - 1), ("more accurate", at + 1)):
        if 0 <= other < len(front):
            gain = front[other]["validation_accuracy"] - front[at]["validation_accuracy"]
            ratio = front[other]["tpot_ratio"] - front[at]["tpot_ratio"]
            sentences.append(
                f"One step {name}: {plain(front[other]['label'])}, {gain:+.3f} in validation {metric} and {ratio:+.3f} "
                f"in {latency} ratio."
            )
        else:
            sentences.append(f"Nothing on the front is {name}.")
    return sentences


def effects(document: dict[str, Any]) -> list[str]:
    """Which modules matter, in sentences; none where too few trials tell."""
    found = document.get("effects")
    if not found:
        return []
    metric, latency = metric_name(document["metric"]), latency_name(document["latency_axis"])
    by_gain = sorted(found["groups"]["accuracy"], key=lambda row: -row["effect"])
    sure = [row for row in by_gain if row["effect_ci"][0] > 0]
    harmful = [plain(row["groups"][0]) for row in reversed(by_gain) if row["effect_ci"][1] < 0]
    unsure = [plain(row["groups"][0]) for row in by_gain if row["effect_ci"][0] <= 0 <= row["effect_ci"][1]]
    sentences = []
    if sure:
        told = [f"{plain(row['groups'][0])} {_effect(row)}" for row in sure]
        sentences.append(f"What adds {metric} on average over the placements tried: {_listed(told, _GROUPS)}.")
    if harmful:
        sentences.append(f"What takes from {'it' if sure else metric}: {_listed(harmful, _GROUPS)}.")
    if unsure:
        sentences.append(f"No effect beyond doubt, of either sign: {_listed(unsure, _GROUPS)}.")
    costs = between([row["effect"] for row in found["groups"]["tpot_ratio"]])
    sentences.append(f"Each group costs {costs} in {latency} ratio.")
    for key, what in (("accuracy", metric), ("tpot_ratio", f"{latency} ratio")):
        pairs = [row for row in found["pairs"][key] if row["effect_ci"][0] * row["effect_ci"][1] > 0]
        if pairs:
            told = [f"{plain('+'.join(row['groups']))} {_effect(row)}" for row in pairs]
            sentences.append(f"Pairs whose {what} is not the sum of both: {_listed(told, len(told))}.")
    return sentences


def latency_check(document: dict[str, Any]) -> list[str]:
    """How well each latency is told from the others, and what the machine did meanwhile; none where nothing tells."""
    latency, found = latency_name(document["latency_axis"]), document.get("latency_check") or {}
    itself = (document.get("base") or {}).get("drift") or {}
    sentences = []
    if itself.get("ratio") is not None:
        against = with_interval(itself["ratio"], itself.get("ratio_ci"))
        sentences.append(f"The base model against itself: a ratio of {against}, what noise alone does to one here.")
    if told := found.get("predictions"):
        sentences.append(
            f"Every trial's {latency} ratio was measured before it was trained. From what groups and rank add in the "
            f"other trials it would have been told within {told['median_error']:.1%} for half of {told['trials']} "
            f"trials, and within {told['largest_error']:.1%} for all."
        )
    if drift := found.get("drift"):
        change, moved = drift["base_change"], f"{abs(drift['base_change']):.1%}"
        machine = "as fast" if moved == "0.0%" else f"{moved} {'slower' if change > 0 else 'faster'}"
        sentences.append(
            f"The base model's own {latency} was {decimal(drift['base_first_ms'], 2)} ms over the first quarter of "
            f"{drift['trials']} trials and {decimal(drift['base_last_ms'], 2)} ms over the last: the machine was "
            f"{machine} at the end."
        )
        if drift["ratio_change"] is not None:
            low, high = drift["ratio_change_ci"]
            sentences.append(
                "Ratios are measured by turns with the base model, so that they should not feel it: over their "
                f"predictions they moved by {drift['ratio_change']:+.1%} [{low:+.1%}, {high:+.1%}]."
            )
    return sentences


def _effect(row: dict[str, Any]) -> str:
    return f"{row['effect']:+.3f} {interval(row['effect_ci'])}"


def spending(document: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Where the budget went. Header and rows of text: a status, its trials and steps, and its workers' time."""
    phases = ("training", "latency", "evaluation")
    rows = []
    for status in dict.fromkeys(point["status"] for point in document["points"]):
        points = [point for point in document["points"] if point["status"] == status]
        seconds = Counter[str]()
        for point in points:
            seconds.update(point.get("seconds") or {})
        steps = sum(point.get("steps") or 0 for point in points)
        times = [seconds[phase] for phase in phases]
        rest = sum(seconds.values()) - sum(times)
        rows.append([status, count(len(points)), count(steps), *map(duration, (*times, rest))])
    return ["status", "trials", "steps", *phases, "other"], rows


def latency_meaning(document: dict[str, Any]) -> str:
    if document["latency_axis"] == "ttft":
        what = "time of a whole request (this model answers in one pass, so it has no time per output token)"
    else:
        what = "time per output token (TPOT)"
    engine = plain(document.get("latency_engine") or "transformers")
    where = "in one process" if engine == "transformers" else "on the same server"
    wraps = (
        " What is wrapped there was decided when the server was started (--lora-target-modules), whatever an adapter "
        "targets: differences within the intervals are noise."
        if engine in _WRAPPING
        else ""
    )
    return (
        f"The latency axis shows adapters served {plain(document.get('latency_mode') or 'unmerged')} by {engine}: the "
        f"{what} over that of the base model, measured by turns {where}.{wraps} A merged adapter costs the base "
        "model's latency (ratio 1.0), whatever it targets." + _kept(document)
    )


def _kept(document: dict[str, Any]) -> str:
    """Milliseconds of another day do not compare with the base model's of today; ratios do."""
    kept = sum(point["front"] and point.get("base_p50_ms", 0) is None for point in document["points"])
    if not kept:
        return ""
    was, compare = ("was", "its ratio, not its") if kept == 1 else ("were", "their ratios, not their")
    return (
        f" {kept} of the front's {len(document['front'])} latencies {was} kept from before this search: compare "
        f"{compare} milliseconds."
    )


def export_command(document: dict[str, Any]) -> str:
    return f"python -m search export {shlex.quote(plain(document['search']))} --pick recommended --out DIR"


def verify_command(document: dict[str, Any]) -> str:
    """Of a result or a manifest: whoever exported to ``DIR``, or was given it, says anew whether to trust the code."""
    trusted = (document.get("provenance") or {}).get("trust_remote_code")
    return "python -m search verify DIR" + (" --trust-remote-code" if trusted else "")


def recipe_command(document: dict[str, Any]) -> str:
    return f"python -m search recipe {shlex.quote(plain(document['search']))} --for TOOL"


def reasons(document: dict[str, Any]) -> list[str]:
    """Why trials ended early, the commonest first: ``2 failed: the loss is NaN at step 3``."""
    seen = Counter((point["status"], plain(point["reason"])) for point in document["points"] if point.get("reason"))
    return [f"{n} {status}: {reason}" for (status, reason), n in seen.most_common()]


def description(document: dict[str, Any], flags: str = "") -> str:
    """The result in Markdown, for the description of an MLflow run: at most `DESCRIPTION_LIMIT` characters.

    ``flags`` are those by which a command finds the search: see :meth:`search.home.Home.flags`.
    """
    rows = len(document["front"])
    while len(text := _description(document, rows, flags)) > DESCRIPTION_LIMIT and rows:
        rows = rows * 3 // 4
    return text[:DESCRIPTION_LIMIT]


def _description(document: dict[str, Any], rows: int, flags: str) -> str:
    left_out = len(document["front"]) - rows
    best = recommendation(document, markdown=True)
    blocks = [
        # MLflow shows four lines until one asks for more.
        f"**{best}**" if best else "",
        f"{_escaped(document['search'])}: which modules of {_code(document['model'])} should LoRA adapt for "
        f"{_escaped(document['task'])} on {_code(document['data'])}? The search is {state(document)}. "
        + outcome(document, markdown=True),
        _escaped(against(document)),
        front_table_markdown(document, rows) if document["front"] else "",
        f"{left_out} more members of the front are in the table artifact." if left_out else "",
        f"Export a trained adapter that PEFT loads, or have the placement as lines for {RECIPES}:\n\n"
        f"    {export_command(document)}{flags}\n    {recipe_command(document)}{flags}"
        if document["front"]
        else "",
        _escaped(f"The {champion['why']}.") if (champion := document.get("champion")) else "",
        f"The adapter to serve is registered as {_code(uri)}." if (uri := document.get("registry_uri")) else "",
        latency_meaning(document) if document["front"] else "",
        "\n".join(f"- {_escaped(reason)}" for reason in reasons(document)[:5]),
    ]
    return "\n\n".join(block for block in blocks if block)


def _reached(document: dict[str, Any], member: dict[str, Any], split: str) -> str:
    """``0.610 [0.570, 0.650] on the test split at 1.120 times the base model's TPOT``."""
    key = SPLITS[split]
    text = f"{with_interval(member.get(key), member.get(f'{key}_ci'))} on the {split} split"
    if member.get("tpot_ratio") is not None:
        text += f" at {decimal(member['tpot_ratio'])} times the base model's {latency_name(document['latency_axis'])}"
    return text


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    mine: Sequence[float] = one.get("accuracy_ci") or ()
    theirs: Sequence[float] = other.get("accuracy_ci") or ()
    return bool(interval(mine) and interval(theirs)) and mine[0] <= theirs[1] and theirs[0] <= mine[1]


def _validation(member: dict[str, Any]) -> float:
    return _number_or(-math.inf, member.get("validation_accuracy"))


def _number_or(default: float, value: float | None) -> float:
    return default if value is None or math.isnan(value) else value


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = [*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _code(text: object) -> str:
    """A Markdown code span that cannot be left, inside a table or outside."""
    return f"`{plain(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _escaped(text: object) -> str:
    """Text that Markdown shows as it is: no markup, no HTML."""
    safe = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", safe)

"""Searches of one model on several tasks, side by side: the comparison document, from the catalog alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from dashboards.comparison import default_sentence, default_why
from objectives.errors import RequestError
from objectives.latency.paired import Ratio
from objectives.latency.timing import Timing
from objectives.placement import Placement
from search.baseline import baseline_among
from search.catalog.records import SearchRecord, TrialRecord
from search.catalog.store import Catalog
from search.comparison import (
    Bounded,
    Measured,
    Requests,
    Task,
    compare,
    lead,
    mean_lead,
    rank_stability,
    rival,
    robust_default,
    tail_saving,
)

Trials = Mapping[Placement, TrialRecord]


def comparison_document(
    catalog: Catalog,
    names: Sequence[str],
    *,
    split: str = "validation",
    max_tpot_ratio: float | None = None,
    baseline: str | None = None,
    flags: str = "",
) -> dict[str, Any]:
    """What ``compare --json`` prints. Figures are fractions of 1: 0.01 is one point.

    Placements that every search has completed, and measured on ``split``, are compared; the others are listed with the
    reason. The default is told against the ``baseline``, or that of all searches. Raises RequestError for searches that
    cannot be compared; ``flags`` are those of :meth:`Home.flags`, for its remedy.
    """
    searches = [catalog.search(name) for name in names]
    _check(searches, flags)
    trials = {search.name: {t.placement: t for t in catalog.trials(search.id)} for search in searches}
    left_out = _left_out(trials, split)
    shared = [p for p in trials[names[0]] if p not in left_out]
    if not shared:
        most = "".join(f" ({why}: {n})" for why, n in Counter(left_out.values()).most_common(1))
        raise RequestError(
            f"searches {', '.join(names)} have no placement that all of them completed and measured on the {split} "
            f"split{most}: run them with the same --ranks and --bands, or take `python -m search ablate`"
        )
    found = {p: _ratio(trials, p) for p in shared}
    shared.sort(key=lambda p: found[p].value)
    tasks = [_task(search, trials[search.name], shared, split, flags) for search in searches]
    result = compare(tasks)
    ratios = [found[p] for p in shared]
    chosen = robust_default(result, ratios, max_tpot_ratio)
    axis = searches[0].base_latency.get("axis", "tpot")
    accuracies = [[each.accuracy for each in task.placements] for task in tasks]
    document: dict[str, Any] = {
        "tasks": list(names),
        "model": searches[0].facts["model"],
        "data": {search.name: search.facts["data"] for search in searches},
        "metric": {search.name: search.facts["metric"] for search in searches},
        "split": split,
        "rows": {name: task.base.rows for name, task in zip(names, tasks, strict=True)},
        "paired": {name: task.paired for name, task in zip(names, tasks, strict=True)},
        "latency_axis": axis,
        "max_tpot_ratio": max_tpot_ratio,
        "base": {
            search.name: {key: (search.base or {})[split].get(key) for key in ("accuracy", "accuracy_ci")}
            for search in searches
        },
        "placements": [
            {
                **_shape(p, trials, axis, ratio),
                "accuracy": {name: _evaluation(trials[name][p], split)["accuracy"] for name in names},
                "accuracy_ci": {name: _evaluation(trials[name][p], split).get("accuracy_ci") for name in names},
                **_by_task("gain", names, [gains[i] for gains in result.gains]),
                **_by_task("regret", names, [regrets[i] for regrets in result.regrets]),
                **_bounded("mean_regret", result.mean_regrets[i]),
                **_bounded("worst_regret", result.worst_regrets[i]),
            }
            for i, (p, ratio) in enumerate(zip(shared, ratios, strict=True))
        ],
        "rank_stability": {"kendall_tau_b": rank_stability(accuracies)},
        "robust_default": None,
        "baseline": None,
        "left_out": [
            {"targets": list(p.groups), "rank": p.rank, "label": p.label, "why": why} for p, why in left_out.items()
        ],
        "notes": _notes(searches),
    }
    if chosen is not None:
        default, passed_over = chosen
        against = rival(result, [ratio.value for ratio in ratios], default)
        document["robust_default"] = _named(document["placements"][default]) | {
            "against": against
            and {
                **_named(document["placements"][against[0]]),
                "what": against[1],
                "tpot_saving": 1 - ratios[default].value / ratios[against[0]].value,
                **_tail_saving(trials, axis, shared[default], shared[against[0]]),
            }
        }
        document["robust_default"] |= {
            "why": default_why(document, [document["placements"][i] for i in passed_over]),
            "sentence": default_sentence(document),
        }
    if (known := baseline_among(document["placements"], searches, baseline)) is not None:
        document["baseline"] = _named(known) | _gained(
            names, tasks, None if chosen is None else chosen[0], document["placements"].index(known)
        )
    return document


def _gained(names: Sequence[str], tasks: Sequence[Task], default: int | None, baseline: int) -> dict[str, Any]:
    """What the default has more than the baseline; nothing where it is that, or there is none."""
    if default is None or default == baseline:
        return dict.fromkeys(("difference", "difference_ci", "mean_difference", "mean_difference_ci"))
    leads = [lead(task.placements[default], task.placements[baseline]) for task in tasks]
    return _by_task("difference", names, leads) | _bounded("mean_difference", mean_lead(leads))


def _named(placement: dict[str, Any]) -> dict[str, Any]:
    return {key: placement[key] for key in ("targets", "rank", "label")}


def _tail_saving(trials: Mapping[str, Trials], axis: str, one: Placement, other: Placement) -> dict[str, Any]:
    """By what fraction the 95th percentile of ``one`` is lower; nothing where requests were not kept."""
    mine, theirs = (_requests(trials, axis, placement) for placement in (one, other))
    if min(len(mine[0]), len(theirs[0])) < 2:
        return {}
    return _bounded(f"{axis}_p95_saving", tail_saving(mine, theirs))


def _requests(trials: Mapping[str, Trials], axis: str, placement: Placement) -> Requests:
    """Milliseconds of every request, by base and adapted model, in all searches: one profile that several of them used
    counts once. A request whose answer by one of the two ended after a token has no part in it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for tried in trials.values():
        samples = tried[placement].latency.get("samples") or {}
        if samples:
            base, adapted = (_times(samples[side], axis) for side in ("base", "adapted"))
            both = zip(base, adapted, strict=True)
            found[repr(adapted)] = [(one, other) for one, other in both if one is not None and other is not None]
    pairs = [pair for each in found.values() for pair in each]
    return [base for base, _ in pairs], [adapted for _, adapted in pairs]


def _times(samples: Mapping[str, Any], axis: str) -> list[float | None]:
    """Of a request, in milliseconds: TPOT, or of an encoder the time of its pass; None where an answer tells none."""
    if axis == "ttft":
        return list(samples["ttft_ms"])
    answers = zip(samples["itl_ms"], samples["output_tokens"], strict=True)
    return [Timing(0.0, tuple(gaps), tokens).tpot for gaps, tokens in answers]


def _check(searches: Sequence[SearchRecord], flags: str) -> None:
    names = [search.name for search in searches]
    if len(names) < 2:
        raise RequestError(f"{len(names)} search cannot be compared: name at least two; `list` shows them")
    if twice := [name for name in names if names.count(name) > 1]:
        raise RequestError(f"search {twice[0]} is named twice: name each search once")
    first = searches[0]
    for search in searches:
        if search.base is None:
            raise RequestError(
                f"search {search.name} has not measured its base model yet: wait for it, or continue it with "
                f"`python -m search resume {search.name}{flags}`"
            )
    for search in searches[1:]:
        if _structure(search) != _structure(first):
            raise RequestError(
                f"searches {first.name} and {search.name} are of models of different structure "
                f"({first.facts['model']}, {search.facts['model']}): compare searches of one model"
            )
        if first.spec.get("bands", 1) != search.spec.get("bands", 1):  # their bands have the same names
            raise RequestError(
                f"searches {first.name} and {search.name} have other bands ({first.spec['bands']}, "
                f"{search.spec['bands']}): compare searches of one --bands"
            )
        engines = [each.base_latency.get("engine", "transformers") for each in (first, search)]
        if engines[0] != engines[1]:
            raise RequestError(
                f"searches {first.name} and {search.name} have latencies of different engines ({', '.join(engines)}): "
                "compare searches of one --engine"
            )


def _structure(search: SearchRecord) -> Any:
    facts = search.facts
    # The structure of an encoder holds its head, which has the size of the task's labels: name and groups stand for it.
    return (facts["model"], facts["groups"]) if facts.get("kind") == "encoder" else facts["structure"]


def _left_out(trials: Mapping[str, Trials], split: str) -> dict[Placement, str]:
    """Why a placement is not compared: the first reason found."""
    found: dict[Placement, str] = {}
    for placement in sorted({p for tried in trials.values() for p in tried}):
        for name, tried in trials.items():
            trial = tried.get(placement)
            if trial is None:
                found[placement] = f"not tried by {name}"
            elif trial.status != "complete":
                found[placement] = f"{trial.status} in {name}" + (f": {trial.reason}" if trial.reason else "")
            elif not _evaluation(trial, split):
                found[placement] = f"not measured on the {split} split by {name}, where it is not on the front"
            else:
                continue
            break
    return found


def _task(search: SearchRecord, tried: Trials, shared: Sequence[Placement], split: str, flags: str) -> Task:
    """Raises RequestError if the base model was not measured on the split."""
    base = (search.base or {}).get(split)
    if not base:
        raise RequestError(
            f"search {search.name} has not read its {split} split yet: continue it with "
            f"`python -m search resume {search.name}{flags}`"
        )
    return Task(Measured.of(base), tuple(Measured.of(_evaluation(tried[p], split)) for p in shared))


def _evaluation(trial: TrialRecord, split: str) -> dict[str, Any]:
    return (trial.test if split == "test" else trial.validation) or {}


def _ratio(trials: Mapping[str, Trials], placement: Placement) -> Ratio:
    """Mean over the searches: latency does not depend on the task, and profiles that are shared are equal.

    So is the interval, which is too wide where every search measured for itself.
    """
    found = [Ratio.of(tried[placement].latency) for tried in trials.values()]
    return Ratio(*(fmean(getattr(each, end) for each in found) for end in ("value", "low", "high")))


def _shape(placement: Placement, trials: Mapping[str, Trials], axis: str, ratio: Ratio) -> dict[str, Any]:
    found = [tried[placement] for tried in trials.values()]
    latencies = [trial.latency for trial in found]
    bounded = any(each.get("ratio_ci") for each in latencies)
    tail = f"{axis}_p95_ms"
    times = [each[tail] for each in latencies if each.get(tail)]
    return {
        "targets": list(placement.groups),
        "rank": placement.rank,
        "label": placement.label,
        "reference": next((trial.reference for trial in found if trial.reference), None),
        "tpot_ratio": ratio.value,
        "tpot_ratio_ci": [ratio.low, ratio.high] if bounded else None,
        tail: fmean(times) if times else None,
        "parameters": (found[0].measurement or {}).get("parameters"),
    }


def _by_task(key: str, names: Sequence[str], figures: Sequence[Bounded]) -> dict[str, Any]:
    return {
        key: {name: each.value for name, each in zip(names, figures, strict=True)},
        f"{key}_ci": {name: [each.low, each.high] for name, each in zip(names, figures, strict=True)},
    }


def _bounded(key: str, figure: Bounded) -> dict[str, Any]:
    return {key: figure.value, f"{key}_ci": [figure.low, figure.high]}


def _notes(searches: Sequence[SearchRecord]) -> list[str]:
    """What differs between the searches and is no difference of tasks."""
    notes = []
    for what, values in (
        ("model", [search.facts["model"] for search in searches]),
        ("--steps", [search.spec["steps"] for search in searches]),
        ("--learning-rate", [search.spec["learning_rate"] for search in searches]),
        ("--alpha", [search.alpha for search in searches]),
        ("--label-weight", [search.label_weight for search in searches]),
        ("--batch-size", [search.spec.get("batch_size") for search in searches]),
        ("--accumulate", [search.spec.get("accumulate") for search in searches]),
        ("--max-tokens", [search.spec.get("max_tokens") for search in searches]),
        ("--template", [search.facts.get("template") for search in searches]),
        ("--seed", [search.spec["seed"] for search in searches]),
        ("device", [(search.base or {}).get("device") for search in searches]),
    ):
        if len(set(values)) > 1:
            pairs = ", ".join(f"{value} in {search.name}" for value, search in zip(values, searches, strict=True))
            notes.append(f"the searches differ in {what}: {pairs}")
    by_data: dict[str, list[str]] = {}
    for search in searches:
        by_data.setdefault(search.facts.get("data_hash") or search.name, []).append(search.name)
    notes += [
        f"searches {', '.join(names)} are of the same data: intervals over tasks take their rows for "
        "different ones, and may be too narrow"
        for names in by_data.values()
        if len(names) > 1
    ]
    notes += [
        f"search {search.name} is {search.status}: placements may be missing"
        for search in searches
        if search.status != "complete"
    ]
    return notes

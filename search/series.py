"""A series of searches of one question, as the nights of a schedule are: what one of them knows from those before it.

Searches of a series ask the same question as long as model, data and settings are the same. What they measured is known
to the next one at no cost; each trains under a seed of its own, so that a placement measured again is measured anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from statistics import fmean
from typing import TYPE_CHECKING, Any

from objectives.errors import RequestError, counted
from objectives.placement import Placement
from search.catalog.champions import decided_in
from search.catalog.records import SearchRecord, TrialRecord
from search.catalog.store import Catalog
from search.spec import LARGEST_SEED, SearchSpec

if TYPE_CHECKING:
    from search.prepare import Prepared

#: So many searches back, measurements count.
_LOOK_BACK = 30
#: A placement that was measured so often is known well: its rows leave more doubt than its seeds.
_WELL = 3
#: Status of trials that tell something of their placement. What failed is not known: another seed may do.
_TELLING = ("complete", "stopped", "infeasible")
#: Settings that decide what a figure means, or which placements are allowed.
_SETTINGS = (
    "task", "metric", "steps", "ranks", "alpha", "bands", "batch_size", "accumulate", "learning_rate", "label_weight",
    "max_tokens", "engine", "endpoint", "max_tpot_ratio", "max_adapter_mb", "groups",
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A placement that earlier searches measured ``times`` times to the end; figures are means over these.

    ``accuracy`` (on validation) and its standard error are None for one that was never trained to the end: ``losses``
    and ``final`` loss are then those of the newest measurement.
    """

    placement: Placement
    times: int
    ratio: float
    accuracy: float | None
    standard_error: float | None
    losses: tuple[tuple[int, float], ...]
    final: float | None


@dataclass(frozen=True)
class Before:
    """What a search knows of the earlier ones of its series; nothing, if it is in none or the first one.

    ``champion`` is the trial of which the series' champion is the adapter. ``changed`` says, in a sentence, why nothing
    of the earlier searches holds any more.
    """

    searches: tuple[str, ...] = ()  # newest first
    known: tuple[Known, ...] = ()
    champion: TrialRecord | None = None
    changed: str | None = None

    def again(self, budget: int) -> list[Placement]:
        """What is to be measured again: the champion first, then what may be better than it and is known little.

        That is what at most half of a budget goes to. Without a champion the most accurate one stands in for it.
        """
        trained = {each.placement: each for each in self.known if each.accuracy is not None}
        if not trained:
            return []
        if self.champion is not None and self.champion.placement in trained:
            first = trained.pop(self.champion.placement)
        else:
            first = trained.pop(max(trained, key=lambda p: (trained[p].accuracy, p)))
        rivals = [each for each in trained.values() if each.times < _WELL and _reaches(each, first)]
        rivals.sort(key=lambda each: (each.times, -(each.accuracy or 0.0), each.placement))
        return [first.placement, *(each.placement for each in rivals[: (budget - 1) // 2])]

    def notes(self, series: str, budget: int) -> list[str]:
        """For people, what a search begins with."""
        if self.changed is not None:
            return [f"series {series}: {self.changed}"]
        if not self.searches:
            return []
        note = f"series {series}: placements that earlier searches measured are known at no cost: {len(self.known)}"
        if again := self.again(budget):
            is_champion = self.champion is not None and again[0] == self.champion.placement
            note += f"; {f'the champion {again[0].label}' if is_champion else 'the most accurate of them'}"
            note += " is measured again first"
            others = counted(len(again) - 1, "other")
            note += f", then {others} known little that may be better" if len(again) > 1 else ""
        return [note]


def _reaches(known: Known, champion: Known) -> bool:
    """Whether one standard error leaves it open which of the two is better."""
    return (known.accuracy or 0.0) + (known.standard_error or 0.0) >= (champion.accuracy or 0.0)


def seeded(catalog: Catalog, spec: SearchSpec) -> SearchSpec:
    """The request with a training seed that no earlier search of its series had, unless it names one.

    Raises RequestError while another search of the series is being run.
    """
    if spec.series is None:
        return spec
    if held := catalog.held_in(spec.series):
        name, holder = held
        raise RequestError(
            f"search {name} of series {spec.series} is being run by {holder}: wait for it, or stop it first"
        )
    earlier = catalog.searches(spec.series)
    if spec.training_seed is not None:
        return spec
    had = {search.spec.get("training_seed", search.spec["seed"]) for search in earlier}
    seeds = ((spec.seed + i) % (LARGEST_SEED + 1) for i in range(len(earlier) + 1))
    return replace(spec, training_seed=next(seed for seed in seeds if seed not in had))


def following(catalog: Catalog, prepared: Prepared, began: datetime | None = None) -> Prepared:
    """With what is known from the searches of its series that began before it; notes say what that is."""
    if prepared.spec.series is None:
        return prepared
    series = catalog.searches(prepared.spec.series)
    earlier = [search for search in series if began is None or search.created_at < began]
    before = _before(catalog, earlier[:_LOOK_BACK], _question(prepared.facts, prepared.spec.to_json()))
    notes = before.notes(prepared.spec.series, prepared.spec.budget)
    return replace(prepared, before=before, facts=prepared.facts | {"notes": [*prepared.facts["notes"], *notes]})


def _before(catalog: Catalog, earlier: Sequence[SearchRecord], question: Mapping[str, str]) -> Before:
    if not earlier:
        return Before()
    last = earlier[0]
    if different := _differences(_question(last.facts, last.spec), question):
        return Before(changed=f"{different} changed since search {last.name}: it starts afresh")
    same = list(takewhile(lambda search: _question(search.facts, search.spec) == question, earlier))
    trials = [trial for search in same for trial in catalog.trials(search.id)]
    decided = next((found for search in same if (found := decided_in(catalog, search.id))), None)
    champion = None if decided is None else catalog.trial(decided.champion_search, decided.champion_trial)
    return Before(tuple(search.name for search in same), tuple(_known(trials)), champion)


def _question(facts: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, str]:
    """As text, since what has been in a database has lists for tuples."""
    parts = {
        "the data": facts.get("data_hash"),
        "the model": (facts.get("structure"), facts.get("model_digest")),
        "the template": (facts.get("template"), facts.get("scoring")),
        "the kind of device": "GPU" if spec.get("gpus_per_trial") else "CPU",
        **{"--" + name.replace("_", "-"): spec.get(name, getattr(SearchSpec, name)) for name in _SETTINGS},
    }
    return {name: json.dumps(part) for name, part in parts.items()}


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """``the data and --steps (100, now 200)``, or nothing."""
    changed = [
        f"{name} ({old[name]}, now {new[name]})" if name.startswith("--") else name
        for name in new
        if old[name] != new[name]
    ]
    return " and ".join(changed)


def _known(trials: Iterable[TrialRecord]) -> list[Known]:
    """By placement, of trials of which the newest search's come first."""
    by_placement: dict[Placement, list[TrialRecord]] = {}
    for trial in trials:
        if trial.latency.get("ratio") is not None and trial.status in _TELLING:
            by_placement.setdefault(trial.placement, []).append(trial)
    return [_known_of(placement, found) for placement, found in sorted(by_placement.items())]


def _known_of(placement: Placement, trials: Sequence[TrialRecord]) -> Known:
    complete = [trial for trial in trials if trial.status == "complete"]
    measured = [trial.measurement or {} for trial in complete or trials[:1]]
    losses = tuple((step, loss) for step, loss in measured[0].get("losses", []))
    validations = [each["validation"] for each in measured if complete]
    return Known(
        placement,
        times=len(complete),
        ratio=fmean(each["latency"]["ratio"] for each in measured),
        accuracy=fmean(each["accuracy"] for each in validations) if complete else None,
        standard_error=fmean(each["standard_error"] for each in validations) if complete else None,
        losses=() if any(loss is None for _, loss in losses) else losses,
        final=fmean(each["loss"] for each in validations) if complete else None,
    )

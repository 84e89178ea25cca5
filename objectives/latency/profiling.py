"""The latency of all placements of a model from a dozen of them: measure, fit, predict, check.

Measured are the base model against itself, each part alone, all parts, and the reference placements; those of three
parts and more are first predicted and then measured, which shows how good predictions are on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from objectives.latency.additive import AdditiveModel
from objectives.latency.classes import LatencyClass, class_of
from objectives.latency.context import good_enough, is_settled, profile_context, profile_key
from objectives.latency.engine import Engine
from objectives.latency.paired import Ratio
from objectives.latency.rounds import measure_in_rounds
from objectives.latency.settings import LatencySettings
from objectives.modules import ModuleSpace
from objectives.placement import BASE, Placement
from objectives.references import references

#: All placements of seven groups; of more groups only the smallest ones are listed.
MOST_ROWS = 127


@dataclass(frozen=True)
class Shelf:
    """Where profiles are kept between commands: two functions of the catalog."""

    get: Callable[[str], dict[str, Any] | None] = lambda key: None
    put: Callable[[str, dict[str, Any]], None] = lambda key, profile: None


@dataclass(frozen=True)
class Profiles:
    """``base`` is the base model against itself, ``rows`` every placement's profile, ``checks`` how predictions did."""

    base: dict[str, Any]
    rows: list[dict[str, Any]]
    checks: list[dict[str, Any]]


def profile_model(
    engine: Engine,
    space: ModuleSpace,
    ranks: Sequence[int],
    settings: LatencySettings,
    *,
    seed: int,
    shelf: Shelf | None = None,
    visited: Callable[[Placement, int, float], None] = lambda placement, number, share: None,
) -> Profiles:
    """``visited`` is told as measuring goes on, see :func:`~objectives.latency.rounds.measure_in_rounds`.

    Raises RequestError where the engine refuses.
    """
    shelf = shelf or Shelf()
    measured = [p for rank in ranks for p in [*design(space, rank), *held_out(space, rank)]]
    classes = {placement: class_of(space, placement, engine) for placement in [BASE, *measured]}
    known = _measure(engine, space, classes, settings, seed, shelf, visited)
    rows, checks = [], []
    for rank in ranks:
        fitted = {classes[p] for p in design(space, rank)}
        held = {classes[p] for p in held_out(space, rank)} - fitted
        model = AdditiveModel(_ratios(known, fitted))
        checks += [_check(model, each, known[each]) for each in sorted(held, key=lambda each: each.name)]
        model = AdditiveModel(_ratios(known, fitted | held))
        rows += [_row(space, engine, placement, known, model) for placement in _listed(space, rank, measured)]
    return Profiles(known[classes[BASE]], rows, checks)


def design(space: ModuleSpace, rank: int) -> list[Placement]:
    """Each group alone, all groups, and the reference placements of two groups."""
    names = [(group.name,) for group in space.groups]
    pairs = [reference.groups for reference in references(space) if len(reference.groups) == 2]
    every = tuple(group.name for group in space.groups)
    return list(dict.fromkeys(Placement.of(groups, rank) for groups in [*names, *pairs, every]))


def held_out(space: ModuleSpace, rank: int) -> list[Placement]:
    """Predicted first, then measured: the other reference placements, or all groups but one where there are none."""
    fitted = set(design(space, rank))
    names = [group.name for group in space.groups]
    others = [Placement.of(reference.groups, rank) for reference in references(space)]
    if not set(others) - fitted and len(names) > 3:
        others = [Placement.of(names[1:], rank), Placement.of(names[:-1], rank)]
    return [placement for placement in others if placement not in fitted]


def _listed(space: ModuleSpace, rank: int, measured: Sequence[Placement]) -> Iterator[Placement]:
    """What was measured, then the placements of few groups, as many as are listed."""
    seen = {placement for placement in measured if placement.rank == rank}
    yield from sorted(seen, key=lambda p: (len(p.groups), p))
    names = [group.name for group in space.groups]
    left = MOST_ROWS - len(seen)
    for size in range(1, len(names) + 1):
        for groups in combinations(names, size):
            if left <= 0:
                return
            placement = Placement.of(groups, rank)
            if placement not in seen:
                left -= 1
                yield placement


def _measure(
    engine: Engine,
    space: ModuleSpace,
    classes: Mapping[Placement, LatencyClass],
    settings: LatencySettings,
    seed: int,
    shelf: Shelf,
    visited: Callable[[Placement, int, float], None],
) -> dict[LatencyClass, dict[str, Any]]:
    """A profile of every class, from the shelf or by one placement of it."""
    context = profile_context(space, engine.facts, settings)
    known: dict[LatencyClass, dict[str, Any]] = {}
    for each in dict.fromkeys(classes.values()):
        kept = shelf.get(profile_key(context, each.name))
        if kept is not None and good_enough(kept, settings):
            known[each] = kept | {"cached": True, "settled": is_settled(kept, settings)}
    todo: dict[LatencyClass, Placement] = {}
    for placement, each in classes.items():
        if each not in known:
            todo.setdefault(each, placement)
    if todo:
        profiles = measure_in_rounds(engine, list(todo.values()), settings, seed=seed, visited=visited)
        for each, placement in todo.items():
            known[each] = profiles[placement]
            shelf.put(profile_key(context, each.name), profiles[placement])
    return known


def _ratios(known: Mapping[LatencyClass, dict[str, Any]], classes: set[LatencyClass]) -> dict[frozenset[str], Ratio]:
    ordered = sorted(classes, key=lambda each: each.name)
    return {frozenset(each.parts): Ratio(known[each]["ratio"], *known[each]["ratio_ci"]) for each in ordered}


def _check(model: AdditiveModel, each: LatencyClass, profile: dict[str, Any]) -> dict[str, Any]:
    predicted = model.predict(frozenset(each.parts))
    return {
        "class": each.name,
        "predicted": predicted.value,
        "predicted_ci": [predicted.low, predicted.high],
        "measured": profile["ratio"],
        "error": abs(predicted.value / profile["ratio"] - 1),
    }


def _row(
    space: ModuleSpace,
    engine: Engine,
    placement: Placement,
    known: Mapping[LatencyClass, dict[str, Any]],
    model: AdditiveModel,
) -> dict[str, Any]:
    each = class_of(space, placement, engine)
    row: dict[str, Any] = {"targets": list(placement.groups), "rank": placement.rank, "class": each.name}
    if each in known:
        return row | known[each] | {"source": "measured"}
    ratio = model.predict(frozenset(each.parts))
    shape = {key: known[class_of(space, BASE, engine)][key] for key in ("axis", "concurrency", "mode")}
    return row | shape | {"ratio": ratio.value, "ratio_ci": [ratio.low, ratio.high], "source": "predicted"}

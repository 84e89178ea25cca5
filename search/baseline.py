"""What is gained over the placement that is used today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from objectives.errors import RequestError
from search.catalog.records import SearchRecord, TrialRecord
from search.comparison import Measured, lead
from search.spec import parse_placement

#: A sentence names so many placements.
_NAMED = 5


def against_baseline(
    search: SearchRecord, trials: Sequence[TrialRecord], recommended: int | None
) -> dict[str, Any] | None:
    """The baseline as this search measured it, and the lead of what is recommended; None if none was named.

    ``difference`` is in accuracy on the test split, whose rows both were scored on; None where they were not, or are
    the same trial.
    """
    if (label := search.spec.get("baseline")) is None:
        return None
    by_number = {trial.number: trial for trial in trials}
    own = next((trial for trial in trials if trial.placement.label == label), None)
    chosen = by_number.get(-1 if recommended is None else recommended)
    found: dict[str, Any] = {
        "label": label,
        "trial": own and own.number,
        "status": own and own.status,
        "reason": own and own.reason,
        "accuracy": None,
        "accuracy_ci": None,
        "validation_accuracy": own and own.validation.get("accuracy"),
        "tpot_ratio": own and own.latency.get("ratio"),
        "tpot_ratio_ci": own and own.latency.get("ratio_ci"),
        "difference": None,
        "difference_ci": None,
        "test_rows": None,
    }
    if own and own.test:
        found |= {"accuracy": own.test["accuracy"], "accuracy_ci": own.test["accuracy_ci"]}
        if chosen and chosen.test and chosen is not own:
            gained = lead(Measured.of(chosen.test), Measured.of(own.test))
            found |= {"difference": gained.value, "difference_ci": [gained.low, gained.high]}
            found["test_rows"] = own.test["rows"]
    return found


def baseline_among(
    compared: Sequence[Mapping[str, Any]], searches: Sequence[SearchRecord], asked: str | None
) -> dict[str, Any] | None:
    """The placement of several searches that was ``asked`` for as people see it, by its groups in any order or by the
    name of a reference; else the one that all of the ``searches`` had as their baseline, if it is among them.

    Raises RequestError where what was asked for is none of them, or several.
    """
    if asked is None:
        (label, *others) = {search.spec.get("baseline") for search in searches}
        return None if others else next((dict(each) for each in compared if each["label"] == label), None)
    groups, rank = parse_placement("--baseline", asked)
    found = [each for each in compared if rank in (None, each["rank"]) and set(groups) in _names(each)]
    if len(found) == 1:
        return dict(found[0])
    labels = [repr(each["label"]) for each in found or compared]
    some = ", ".join(labels[:_NAMED]) + (f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else "")
    what = "may be several of" if found else "is none of"
    raise RequestError(f"--baseline {asked} {what} the placements that all searches completed: choose from {some}")


def _names(placement: Mapping[str, Any]) -> list[set[str]]:
    return [
        set(parse_placement("--baseline", name)[0]) for name in (placement["label"], placement["reference"]) if name
    ]

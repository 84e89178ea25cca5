"""What is gained over the placement that is used today."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.catalog.records import SearchRecord, TrialRecord
from search.comparison import lead


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
            gained = lead(chosen.test, own.test)
            found |= {"difference": gained.value, "difference_ci": [gained.low, gained.high]}
            found["test_rows"] = own.test["rows"]
    return found

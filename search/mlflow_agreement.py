"""What MLflow should have of a search, what it has, and how the two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from search.catalog.outbox import waiting
from search.catalog.records import SearchRecord, TrialRecord
from search.catalog.store import Catalog
from search.mlflow_store import RunState

_SEARCH = {"running": "RUNNING", "complete": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


def key_of(search_id: str, number: int | None) -> str:
    """Of a trial, or of the search itself."""
    return search_id if number is None else f"{search_id}/{number}"


def status_of(record: SearchRecord | TrialRecord) -> str:
    """In MLflow's words; a trial has a run only when it has ended."""
    if isinstance(record, SearchRecord):
        return _SEARCH[record.status]
    return "FAILED" if record.status == "failed" else "FINISHED"


def is_over(trial: TrialRecord) -> bool:
    """Whether it has a run: what stopped on the way has one once it has been given up."""
    return trial.status != "running" and (trial.status != "stopped" or trial.reason is not None)


@dataclass(frozen=True)
class Disagreement:
    """By numbers of trials, None for the search itself."""

    missing: Sequence[int | None]
    doubled: Sequence[int | None]
    differing: Sequence[int | None]  # running though they have ended, ended otherwise, or nested elsewhere

    @property
    def all(self) -> set[int | None]:
        return {*self.missing, *self.doubled, *self.differing}

    def sentences(self) -> list[str]:
        told = {
            "MLflow has no run of": self.missing,
            "MLflow has more than one run of": self.doubled,
            "MLflow does not know how it ended, or within which search:": self.differing,
        }
        return [f"{words} {_listed(numbers)}" for words, numbers in told.items() if numbers]


def disagreement(catalog: Catalog, search: SearchRecord, runs: Mapping[str, Sequence[RunState]]) -> Disagreement:
    """``runs`` of MLflow by key, newest first, read before this is called. What waits in the outbox may be missing."""
    trials = catalog.trials(search.id)
    waits = waiting(catalog, search.id)
    missing: list[int | None] = []
    doubled: list[int | None] = []
    differing: list[int | None] = []
    parent: str | None = None
    records: list[SearchRecord | TrialRecord] = [search, *filter(is_over, trials)]
    for record in records:
        number = record.number if isinstance(record, TrialRecord) else None
        found = runs.get(key_of(search.id, number), ())
        kept = next((run for run in found if run.id == record.mlflow_run_id), found[-1] if found else None)
        if number is None:
            parent = kept.id if kept else None
        if len(found) > 1:
            doubled.append(number)
        if number in waits:
            continue
        if kept is None:
            missing.append(number)
        elif kept.status != status_of(record) or (number is not None and kept.parent != parent):
            differing.append(number)
    return Disagreement(missing, doubled, differing)


def _listed(numbers: Sequence[int | None]) -> str:
    trials = [number for number in numbers if number is not None]
    parts = ["the search itself"] * (None in numbers) + [f"trials {trials}"] * bool(trials)
    return " and ".join(parts)

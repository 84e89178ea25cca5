"""What the catalog hands out: plain, frozen values that outlive the transaction and may cross threads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from objectives.placement import Placement

Record = TypeVar("Record")


def record_of(kind: type[Record], row: object) -> Record:
    """``kind`` is a dataclass whose fields are columns of ``row``."""
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class SearchRecord:
    """`status` is running, complete, interrupted or failed; `elapsed_s` (seconds) adds up over resumes."""

    id: str
    name: str
    spec: dict[str, Any]
    facts: dict[str, Any]
    status: str
    reason: str | None
    base: dict[str, Any] | None
    created_at: datetime
    ended_at: datetime | None
    elapsed_s: float
    mlflow_experiment_id: str | None
    mlflow_run_id: str | None


@dataclass(frozen=True)
class TrialRecord:
    """`status` is running, complete, stopped, failed or infeasible; `attempts` counts processes that worked on it."""

    search_id: str
    number: int
    groups: list[str]
    rank: int
    digest: str
    reference: str | None
    status: str
    reason: str | None
    measurement: dict[str, Any] | None
    test: dict[str, Any] | None
    steps: int
    adapter: str | None
    adapter_sha256: str | None
    asked_at: datetime
    ended_at: datetime | None
    attempts: int
    mlflow_run_id: str | None

    @property
    def placement(self) -> Placement:
        return Placement.of(self.groups, self.rank)


@dataclass(frozen=True)
class OutboxRecord:
    """`kind` is search, trial or result; `trial` is the number of the trial for the kind trial alone."""

    id: int
    search_id: str
    kind: str
    trial: int | None
    created_at: datetime
    attempts: int
    error: str | None

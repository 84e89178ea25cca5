"""What the catalog hands out: plain, frozen values that outlive the transaction and may cross threads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

from objectives.placement import Alpha, Placement

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

    @property
    def alpha(self) -> str:
        """As ``--alpha`` takes it."""
        return str(self.spec["alpha"])

    def alpha_at(self, rank: int) -> int:
        """The LoRA alpha of its trials of this rank."""
        return Alpha.parse(self.alpha).at(rank)

    @property
    def label_weight(self) -> float:
        return float(self.spec["label_weight"])

    @property
    def base_latency(self) -> dict[str, Any]:
        """The base model's profile, against itself; empty until it was measured."""
        return (self.base or {}).get("latency") or {}


@dataclass(frozen=True)
class TrialRecord:
    """`status` is running, complete, stopped, failed or infeasible; `attempts` counts processes that worked on it.

    Those that ended in order do not count. `lease` is the owner's who runs it or ran it last; `late` counts results
    that came from an owner who had lost it.
    """

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
    lease: str | None
    late: int
    mlflow_run_id: str | None

    @property
    def placement(self) -> Placement:
        return Placement.of(self.groups, self.rank)

    @property
    def latency(self) -> dict[str, Any]:
        """Its profile; empty where none was measured."""
        return (self.measurement or {}).get("latency") or {}

    @property
    def validation(self) -> dict[str, Any]:
        """Its figures on that split; empty where it was not trained to the end."""
        return (self.measurement or {}).get("validation") or {}


@dataclass(frozen=True)
class OutboxRecord:
    """`kind` is search, trial, result or again; `trial` is the number of a trial, None where it is of the search."""

    id: int
    search_id: str
    kind: str
    trial: int | None
    created_at: datetime
    attempts: int
    error: str | None


@dataclass(frozen=True)
class ScheduleRecord:
    """`flags` are those of ``run``, read in `folder`; `misfire` is once or skip; `notify` is a secret."""

    name: str
    cron: str
    timezone: str
    misfire: str
    flags: list[str]
    folder: str
    notify: str | None
    paused: bool
    created_at: datetime
    next_at: datetime


@dataclass(frozen=True)
class NightRecord:
    """`status` is running, interrupted, ended or skipped; `seconds` and `steps` are the cost of its search."""

    schedule: str
    tick: datetime
    search: str
    status: str
    result: str | None
    owner: str | None
    heartbeat_at: datetime | None
    attempts: int
    started_at: datetime | None
    ended_at: datetime | None
    seconds: float | None
    steps: int | None


@dataclass(frozen=True)
class ChampionRecord:
    """`verdict` is crowned (the first, or afresh), changed or kept.

    `champion_search` (an id) and `champion_trial` name the trial whose adapter is the champion; `figures` are those of
    the search that decided.
    """

    search_id: str
    series: str
    verdict: str
    champion_search: str
    champion_trial: int
    why: str
    figures: dict[str, Any]
    decided_at: datetime

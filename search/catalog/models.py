"""Tables. Their names start with ``catalog_`` because Optuna keeps a table ``trials`` in the same database."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Double, ForeignKey, Index, MetaData, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on every database: SQLite would drop the zone, PostgreSQL answers in the session's."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


class Prose(TypeDecorator[str]):
    """Text of any origin, such as an exception's: PostgreSQL refuses NUL, and no encoding holds a lone surrogate."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value and value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def to_json(value: Any) -> str:
    """Strict JSON: a figure that is not finite becomes null, since PostgreSQL refuses NaN and no reader expects it."""
    return json.dumps(_finite(value), allow_nan=False, ensure_ascii=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime,
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
        str: Prose,
    }


class Search(Base):
    __tablename__ = "catalog_searches"
    __table_args__ = (Index(None, "series", "created_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    spec: Mapped[dict[str, Any]]
    #: As in `spec`: to be found by, which JSON of any origin is not on PostgreSQL.
    series: Mapped[str | None] = mapped_column(String(100))
    facts: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None]
    base: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    elapsed_s: Mapped[float] = mapped_column(Double, default=0.0)
    mlflow_experiment_id: Mapped[str | None] = mapped_column(String(64))
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))


class Trial(Base):
    __tablename__ = "catalog_trials"
    __table_args__ = (Index(None, "search_id", "digest", unique=True),)

    search_id: Mapped[str] = mapped_column(ForeignKey("catalog_searches.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    groups: Mapped[list[str]]
    rank: Mapped[int]
    digest: Mapped[str] = mapped_column(String(16))
    reference: Mapped[str | None]
    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None]
    measurement: Mapped[dict[str, Any] | None]
    test: Mapped[dict[str, Any] | None]
    steps: Mapped[int] = mapped_column(default=0)
    adapter: Mapped[str | None]
    adapter_sha256: Mapped[str | None] = mapped_column(String(64))
    asked_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(default=1)
    lease: Mapped[str | None] = mapped_column(String(32))
    late: Mapped[int] = mapped_column(default=0, server_default="0")
    mlflow_run_id: Mapped[str | None] = mapped_column(String(64))


class Lease(Base):
    """The owner of a search; its moments are by the database's clock."""

    __tablename__ = "catalog_leases"

    search_id: Mapped[str] = mapped_column(ForeignKey("catalog_searches.id"), primary_key=True)
    id: Mapped[str] = mapped_column(String(32))
    host: Mapped[str]
    machine: Mapped[str]
    pid: Mapped[int]
    heartbeat_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class LatencyProfile(Base):
    __tablename__ = "catalog_latency_profiles"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    profile: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class Outbox(Base):
    """What MLflow has yet to hear: a row says *look again at this search or trial*, and carries no figures itself."""

    __tablename__ = "catalog_outbox"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    search_id: Mapped[str] = mapped_column(ForeignKey("catalog_searches.id"))
    kind: Mapped[str] = mapped_column(String(16))
    trial: Mapped[int | None]
    created_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None]


class Schedule(Base):
    __tablename__ = "catalog_schedules"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    cron: Mapped[str] = mapped_column(String(255))
    timezone: Mapped[str] = mapped_column(String(64))
    misfire: Mapped[str] = mapped_column(String(8))
    flags: Mapped[list[str]]
    folder: Mapped[str]
    notify: Mapped[str | None]
    paused: Mapped[bool]
    created_at: Mapped[datetime]
    next_at: Mapped[datetime]


class Night(Base):
    """One tick of a schedule: the key lets no two daemons run the same one."""

    __tablename__ = "catalog_nights"
    __table_args__ = (Index(None, "status", "tick"),)

    schedule: Mapped[str] = mapped_column(ForeignKey("catalog_schedules.name"), primary_key=True)
    tick: Mapped[datetime] = mapped_column(primary_key=True)
    search: Mapped[str] = mapped_column(String(255))
    status: Mapped[str] = mapped_column(String(16))
    result: Mapped[str | None]
    owner: Mapped[str | None] = mapped_column(String(64))
    heartbeat_at: Mapped[datetime | None]
    attempts: Mapped[int]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    seconds: Mapped[float | None] = mapped_column(Double)
    steps: Mapped[int | None]


class Champion(Base):
    """What one search of a series decided: `champion_search` and `champion_trial` name the trial whose adapter is the
    series' champion from then on."""

    __tablename__ = "catalog_champions"
    __table_args__ = (Index(None, "series", "decided_at"),)

    search_id: Mapped[str] = mapped_column(ForeignKey("catalog_searches.id"), primary_key=True)
    series: Mapped[str] = mapped_column(String(100))
    verdict: Mapped[str] = mapped_column(String(16))
    champion_search: Mapped[str] = mapped_column(ForeignKey("catalog_searches.id"))
    champion_trial: Mapped[int]
    why: Mapped[str]
    figures: Mapped[dict[str, Any]]
    decided_at: Mapped[datetime]


class Token(Base):
    """A bearer token of the API. `digest` is the SHA-256 of its secret, which is kept nowhere."""

    __tablename__ = "catalog_tokens"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scope: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]


class Submission(Base):
    """What the API was asked to run, under the name of its search; it outlives the server."""

    __tablename__ = "catalog_submissions"
    __table_args__ = (Index(None, "status", "submitted_at"),)

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    kind: Mapped[str] = mapped_column(String(8))
    settings: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16))
    error: Mapped[str | None]
    token: Mapped[str] = mapped_column(String(100))
    submitted_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

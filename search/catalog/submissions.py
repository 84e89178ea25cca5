"""What the API was asked to run and in which order: a queue in the catalog, so that a restart of the server loses none.

queued -> running -> ended, failed or canceled
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from objectives.errors import RequestError
from search.catalog.models import Submission
from search.catalog.records import record_of
from search.catalog.store import Catalog

OPEN = ("queued", "running")


@dataclass(frozen=True)
class SubmissionRecord:
    """`kind` is run or resume; `settings` are those of a SearchSpec; `token` is the name of who asked."""

    name: str
    kind: str
    settings: dict[str, Any]
    status: str
    error: str | None
    token: str
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


def submit(catalog: Catalog, name: str, kind: str, settings: dict[str, Any], token: str) -> SubmissionRecord:
    """Queues it, in place of an earlier one of that name that is over.

    Raises RequestError if that one is still queued or running.
    """
    asked = {"kind": kind, "settings": settings, "token": token, "submitted_at": _now()}
    begins = {"status": "queued", "error": None, "started_at": None, "ended_at": None}
    try:
        with catalog.writing() as session:
            row = session.get(Submission, name, with_for_update=True)
            if row is not None and row.status in OPEN:
                raise RequestError(f"search {name} is {row.status} already: wait for it, or choose another name")
            if row is None:
                # Not by a merge, which would look again, and overwrite what another request has inserted since.
                row = Submission(name=name)
                session.add(row)
            for column, value in (asked | begins).items():
                setattr(row, column, value)
            session.flush()
            return record_of(SubmissionRecord, row)
    except IntegrityError:  # another request for this name, at the same moment
        raise RequestError(f"search {name} is queued already: wait for it, or choose another name") from None


def submissions(catalog: Catalog, status: str | None = None) -> list[SubmissionRecord]:
    """Oldest first."""
    wanted = select(Submission).order_by(Submission.submitted_at, Submission.name)
    if status is not None:
        wanted = wanted.where(Submission.status == status)
    with catalog.reading() as session:
        return [record_of(SubmissionRecord, row) for row in session.scalars(wanted)]


def submission(catalog: Catalog, name: str) -> SubmissionRecord | None:
    with catalog.reading() as session:
        row = session.get(Submission, name)
        return None if row is None else record_of(SubmissionRecord, row)


def move(catalog: Catalog, name: str, before: str, after: str, error: str | None = None) -> bool:
    """From one status to another; False, and nothing changes, if it has another by now."""
    values: dict[str, Any] = {"status": after, "error": error}
    if after == "running":
        values["started_at"] = _now()
    elif after != "queued":
        values["ended_at"] = _now()
    with catalog.writing() as session:
        mine = (Submission.name == name, Submission.status == before)
        return session.scalar(update(Submission).where(*mine).values(**values).returning(Submission.name)) is not None


def _now() -> datetime:
    return datetime.now(UTC)

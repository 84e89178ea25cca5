"""What MLflow is to be told, in order: each change of the catalog leaves a row, there until it was delivered."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session

from search.catalog.models import Outbox, Search
from search.catalog.records import OutboxRecord, record_of
from search.catalog.retry import retried
from search.catalog.store import Catalog

#: The kind of a row by which MLflow is left with one run of what the row names, in its present state.
AGAIN = "again"


@retried
def pending(catalog: Catalog, limit: int = 100, tracking: str | None = None) -> list[OutboxRecord]:
    """Oldest first; of all searches, or of those that write to this MLflow and those of which that is not known."""
    with catalog.reading() as session:
        rows = session.scalars(select(Outbox).where(*_waits(session, tracking)).order_by(Outbox.id).limit(limit))
        return [record_of(OutboxRecord, row) for row in rows]


@retried
def backlog(catalog: Catalog, tracking: str | None = None) -> int:
    """How many rows are pending."""
    with catalog.reading() as session:
        return session.scalar(select(func.count()).select_from(Outbox).where(*_waits(session, tracking))) or 0


@retried
def delivered(catalog: Catalog, outbox_id: int) -> None:
    with catalog.writing() as session:
        session.execute(delete(Outbox).where(Outbox.id == outbox_id))


@retried
def undelivered(catalog: Catalog, outbox_id: int, error: str) -> None:
    """The row stays pending."""
    with catalog.writing() as session:
        row = update(Outbox).where(Outbox.id == outbox_id)
        session.execute(row.values(attempts=Outbox.attempts + 1, error=error))


@retried
def waiting(catalog: Catalog, search_id: str) -> list[int | None]:
    """What the pending rows of a search name: numbers of trials, None for the search itself."""
    with catalog.reading() as session:
        return list(session.scalars(select(Outbox.trial).where(Outbox.search_id == search_id)))


@retried
def queue_again(catalog: Catalog, search_id: str, numbers: Collection[int | None]) -> None:
    """Trials by number, then the search itself, since its result marks the runs of trials."""
    ordered = [*sorted(number for number in numbers if number is not None), None]
    with catalog.writing() as session:
        session.add_all(
            Outbox(search_id=search_id, kind=AGAIN, trial=number, created_at=datetime.now(UTC)) for number in ordered
        )


def _waits(session: Session, tracking: str | None) -> list[ColumnElement[bool]]:
    if tracking is None:
        return []
    # Not by JSON functions of the database: PostgreSQL's refuse all rows for a NUL or half a surrogate pair in one of
    # them, as in a path of another encoding, or in a label that was cut.
    waiting = select(Search.id, Search.facts).where(Search.id.in_(select(Outbox.search_id)))
    same = [each for each, facts in session.execute(waiting) if facts.get("tracking") in (None, tracking)]
    return [Outbox.search_id.in_(same)]

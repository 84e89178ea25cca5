"""What waits in the outbox, and what is to be told again."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from sqlalchemy import select

from search.catalog.models import Outbox
from search.catalog.store import Catalog

#: The kind of a row by which MLflow is left with one run of what the row names, in its present state.
AGAIN = "again"


def waiting(catalog: Catalog, search_id: str) -> list[int | None]:
    """What the pending rows of a search name: numbers of trials, None for the search itself."""
    with catalog.reading() as session:
        pending = (Outbox.search_id == search_id, Outbox.delivered_at.is_(None))
        return list(session.scalars(select(Outbox.trial).where(*pending)))


def queue_again(catalog: Catalog, search_id: str, numbers: Collection[int | None]) -> None:
    """Trials by number, then the search itself, since its result marks the runs of trials."""
    ordered = [*sorted(number for number in numbers if number is not None), None]
    with catalog.writing() as session:
        session.add_all(
            Outbox(search_id=search_id, kind=AGAIN, trial=number, created_at=datetime.now(UTC)) for number in ordered
        )

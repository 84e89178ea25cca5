"""Deleting the rows of a search."""

from __future__ import annotations

from sqlalchemy import delete, or_, select

from search.catalog.models import Champion, Lease, Outbox, Search, Submission, Trial
from search.catalog.retry import retried
from search.catalog.store import Catalog


@retried
def delete_search(catalog: Catalog, search_id: str) -> None:
    """With decisions on champions that name it, also of other searches. Latency profiles are of no search, and stay.

    Raises LeaseLost if another process has taken the search.
    """
    with catalog.writing_as_owner(search_id) as session:
        named = or_(Champion.search_id == search_id, Champion.champion_search == search_id)
        session.execute(delete(Champion).where(named))
        name = select(Search.name).where(Search.id == search_id).scalar_subquery()
        session.execute(delete(Submission).where(Submission.name == name))
        for rows in (Outbox, Trial, Lease):
            session.execute(delete(rows).where(rows.search_id == search_id))
        session.execute(delete(Search).where(Search.id == search_id))

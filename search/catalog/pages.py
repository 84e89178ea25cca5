"""Searches page by page: of thousands, with their trials, a list takes seconds."""

from __future__ import annotations

from sqlalchemy import select, tuple_

from search.catalog.models import Search
from search.catalog.records import SearchRecord, record_of
from search.catalog.retry import retried
from search.catalog.store import Catalog


@retried
def page(catalog: Catalog, limit: int, after: str | None = None) -> tuple[list[SearchRecord], bool]:
    """At most `limit` searches, the newest first, and whether older ones follow; those that follow the search `after`.

    What is begun meanwhile moves no page. Raises UnknownSearch where `after` names none.
    """
    moment = (Search.created_at, Search.id)  # two may begin in one moment
    wanted = select(Search).order_by(*(column.desc() for column in moment)).limit(limit + 1)
    if after is not None:
        last = catalog.search(after)
        wanted = wanted.where(tuple_(*moment) < (last.created_at, last.id))
    with catalog.reading() as session:
        found = [record_of(SearchRecord, row) for row in session.scalars(wanted)]
    return found[:limit], len(found) > limit

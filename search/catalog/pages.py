"""Searches and submissions page by page, the newest first: of thousands, with their trials, a list takes seconds.

What is begun meanwhile moves no page.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select, tuple_

from search.catalog.models import Search, Submission
from search.catalog.records import Record, SearchRecord, record_of
from search.catalog.retry import retried
from search.catalog.store import Catalog
from search.catalog.submissions import SubmissionRecord


@retried
def page(catalog: Catalog, limit: int, after: str | None = None) -> tuple[list[SearchRecord], bool]:
    """At most `limit` searches, and whether older ones follow; those that follow the search `after`.

    Raises UnknownSearch where `after` names none.
    """
    last = None
    if after is not None:
        known = catalog.search(after)
        last = (known.created_at, known.id)
    moment = (Search.created_at, Search.id)  # two may begin in one moment
    return _page(catalog, Search, SearchRecord, moment, limit, last)


@retried
def submissions_page(
    catalog: Catalog, limit: int, after: SubmissionRecord | None = None
) -> tuple[list[SubmissionRecord], bool]:
    """At most `limit` submissions, and whether older ones follow; those that follow `after`.

    One that is submitted again is new, so who follows it sees others twice, and misses none.
    """
    last = None if after is None else (after.submitted_at, after.name)
    return _page(catalog, Submission, SubmissionRecord, (Submission.submitted_at, Submission.name), limit, last)


def _page(
    catalog: Catalog, row: Any, kind: type[Record], moment: Any, limit: int, last: tuple[datetime, str] | None
) -> tuple[list[Record], bool]:
    wanted = select(row).order_by(*(column.desc() for column in moment)).limit(limit + 1)
    if last is not None:
        wanted = wanted.where(tuple_(*moment) < last)
    with catalog.reading() as session:
        found = [record_of(kind, each) for each in session.scalars(wanted)]
    return found[:limit], len(found) > limit

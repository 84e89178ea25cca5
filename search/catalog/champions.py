"""Champions of series of searches, each decided once by the search that it was decided in."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from search import outside
from search.catalog.clock import database_now
from search.catalog.models import Champion, Search
from search.catalog.records import ChampionRecord, SearchRecord, TrialRecord, record_of
from search.catalog.retry import retried
from search.catalog.store import Catalog


@retried
def decide(
    catalog: Catalog,
    search_id: str,
    series: str,
    verdict: str,
    champion: TrialRecord,
    why: str,
    figures: dict[str, Any],
) -> ChampionRecord:
    """What was decided in this search before stands, and is returned. Raises LeaseLost if the search was taken over."""
    with catalog.writing_as_owner(search_id) as session:
        row = session.get(Champion, search_id)
        if row is None:
            row = Champion(
                search_id=search_id,
                series=series,
                verdict=verdict,
                champion_search=champion.search_id,
                champion_trial=champion.number,
                why=why,
                figures=figures,
                decided_at=database_now(session),
            )
            session.add(row)
            session.flush()
        return record_of(ChampionRecord, row)


@retried
def decided_in(catalog: Catalog, search_id: str) -> ChampionRecord | None:
    with catalog.reading() as session:
        row = session.get(Champion, search_id)
        return None if row is None else record_of(ChampionRecord, row)


@retried
def champions(catalog: Catalog, series: str) -> list[ChampionRecord]:
    """Newest first: the first one is the champion now."""
    with catalog.reading() as session:
        return [record_of(ChampionRecord, row) for row in session.scalars(_of(series))]


@retried
def current(catalog: Catalog, series: str) -> ChampionRecord | None:
    with catalog.reading() as session:
        row = session.scalar(_of(series).limit(1))
        return None if row is None else record_of(ChampionRecord, row)


def registered(catalog: Catalog, search: SearchRecord, recommended: int | None) -> tuple[str, TrialRecord] | None:
    """The name and the trial of the adapter that a registry is to have as the champion, once the search has ended.

    Of a series its champion now, under its name; of another search what it recommends, under its own name unless a
    series has that.
    """
    series = search.spec.get("series")
    found = current(catalog, series or search.name)
    if series is not None:
        return None if found is None else (series, catalog.trial(found.champion_search, found.champion_trial))
    if found is not None or recommended is None or search.status != "complete" or not outside.is_name(search.name):
        return None
    return search.name, catalog.trial(search.id, recommended)


def _of(series: str) -> Any:
    # By the searches, as their series goes: one that is resumed late knows nothing of what was decided after it began.
    searches = select(Champion).join(Search, Search.id == Champion.search_id)
    return searches.where(Champion.series == series).order_by(Search.created_at.desc())

"""Every read and write of schedules and nights, each in one transaction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from objectives.errors import RequestError
from search.catalog import leases
from search.catalog.clock import database_now
from search.catalog.models import Night, Schedule, Search
from search.catalog.records import NightRecord, ScheduleRecord, record_of
from search.catalog.store import Catalog
from search.cron import due, next_tick, zone
from search.outside import is_text

#: A tick that a daemon saw so much later than it was due was missed.
GRACE = timedelta(minutes=5)
#: Of the ticks that an outage missed so many are recorded, the last ones.
RECORDED = 100


def add_schedule(
    catalog: Catalog,
    name: str,
    cron: str,
    timezone: str,
    misfire: str,
    flags: Sequence[str],
    folder: str,
    now: datetime,
    notify: str | None = None,
    home_flags: str = "",
) -> ScheduleRecord:
    """Raises RequestError if the name is taken, or the cron expression or time zone is none; ``home_flags``, those of
    :meth:`Home.flags`, are for the remedy that it names."""
    row = Schedule(
        name=name,
        cron=cron,
        timezone=timezone,
        misfire=misfire,
        flags=list(flags),
        folder=folder,
        notify=notify,
        paused=False,
        created_at=now,
        next_at=next_tick(cron, timezone, now),
    )
    try:
        with catalog.writing() as session:
            session.add(row)
            session.flush()
            return record_of(ScheduleRecord, row)
    except IntegrityError:
        raise RequestError(
            f"a schedule named {name!r} exists already: choose another name, "
            f"or end it with `python -m search schedule remove {name}{home_flags}`"
        ) from None


def all_schedules(catalog: Catalog) -> list[ScheduleRecord]:
    """By name."""
    with catalog.reading() as session:
        return [record_of(ScheduleRecord, row) for row in session.scalars(select(Schedule).order_by(Schedule.name))]


def remove_schedule(catalog: Catalog, name: str) -> None:
    """With its history; the searches of its nights stay. Raises RequestError for an unknown name."""
    with catalog.writing() as session:
        row = _schedule(session, name, lock=True)
        session.execute(delete(Night).where(Night.schedule == name))
        session.delete(row)


def pause(catalog: Catalog, name: str, paused: bool, now: datetime) -> None:
    """Ticks that pass meanwhile are not missed: they do not count. Raises RequestError for an unknown name."""
    with catalog.writing() as session:
        row = _schedule(session, name, lock=True)
        if row.paused and not paused and row.next_at <= now:  # else by a clock that is behind a tick could come again
            row.next_at = next_tick(row.cron, row.timezone, now)
        row.paused = paused


def nights(catalog: Catalog, name: str, limit: int | None = None) -> list[NightRecord]:
    """Newest first, at most `limit`. Raises RequestError for an unknown schedule."""
    with catalog.reading() as session:
        _schedule(session, name)
        newest = select(Night).where(Night.schedule == name).order_by(Night.tick.desc()).limit(limit)
        rows = session.scalars(newest)
        return [record_of(NightRecord, row) for row in rows]


# What daemons do


def claim(catalog: Catalog, name: str, owner: str, now: datetime) -> NightRecord | None:
    """The night that `owner` is to start now; of several ticks missed, the last.

    Others are recorded as skipped: the last `RECORDED` of them, the first of which says since when there were more.
    """
    with catalog.writing() as session:
        row = session.get(Schedule, name, with_for_update=True)
        if row is None or row.paused or row.next_at > now:
            return None
        since = row.next_at
        *missed, last = due(row.cron, row.timezone, since, now, RECORDED + 1)
        row.next_at = next_tick(row.cron, row.timezone, now)
        for tick in missed:
            more = tick == missed[0] > since
            result = f"skipped: missed, as all since {since:%Y-%m-%d %H:%M} UTC" if more else "skipped: missed"
            session.add(_skipped(row, tick, result))
        open_night = select(Night.tick).where(Night.schedule == name, Night.status.in_(("running", "interrupted")))
        if session.scalar(open_night.limit(1)) is not None:
            session.add(_skipped(row, last, "skipped: overrun"))
            return None
        if row.misfire == "skip" and now - last > GRACE:
            session.add(_skipped(row, last, "skipped: missed"))
            return None
        night = Night(
            schedule=name,
            tick=last,
            search=_free_name(session, _search_name(row, last)),
            status="running",
            owner=owner,
            heartbeat_at=database_now(session),
            attempts=1,
            started_at=now,
        )
        session.add(night)
        session.flush()
        return record_of(NightRecord, night)


def adopt(catalog: Catalog, owner: str, lease_s: float) -> NightRecord | None:
    """A night to go on with: its daemon gave it back, or has not been heard of for `lease_s` seconds.

    Not one whose search is being run: by the child of a daemon that was stopped for a while, or by a person.
    """
    with catalog.writing() as session:
        now = database_now(session)
        dead = (Night.status == "running") & (Night.heartbeat_at < now - timedelta(seconds=lease_s))
        left = select(Night).where((Night.status == "interrupted") | dead).order_by(Night.tick)
        nights = session.scalars(left.with_for_update(skip_locked=True))
        night = next((night for night in nights if not _is_run(session, night.search)), None)
        if night is None:
            return None
        night.status, night.owner, night.heartbeat_at = "running", owner, now
        night.attempts += 1
        session.flush()
        return record_of(NightRecord, night)


def heartbeat(catalog: Catalog, night: NightRecord) -> bool:
    """False if the night is no longer its owner's: another daemon took it, or its schedule was removed."""
    with catalog.writing() as session:
        return _change(session, night, heartbeat_at=database_now(session))


def give_back(catalog: Catalog, night: NightRecord) -> None:
    """Interrupted: the next daemon goes on with it."""
    with catalog.writing() as session:
        _change(session, night, status="interrupted", owner=None)


def end_night(
    catalog: Catalog, night: NightRecord, result: str, now: datetime, seconds: float | None, steps: int | None
) -> bool:
    """With its cost in seconds and training steps, if there was any; False if it is no longer its owner's."""
    with catalog.writing() as session:
        return _change(session, night, status="ended", result=result, ended_at=now, seconds=seconds, steps=steps)


def _schedule(session: Session, name: str, *, lock: bool = False) -> Schedule:
    row = session.get(Schedule, name, with_for_update=lock) if is_text(name) else None
    if row is None:
        raise RequestError(f"no schedule is named {name!r}: `schedule list` shows those there are")
    return row


def _is_run(session: Session, search: str) -> bool:
    found = session.scalar(select(Search.id).where(Search.name == search))
    return found is not None and leases.holder(session, found) is not None


def _change(session: Session, night: NightRecord, **values: object) -> bool:
    mine = (Night.schedule == night.schedule, Night.tick == night.tick, Night.owner == night.owner)
    return session.scalar(update(Night).where(*mine).values(**values).returning(Night.attempts)) is not None


def _skipped(row: Schedule, tick: datetime, result: str) -> Night:
    return Night(
        schedule=row.name, tick=tick, search=_search_name(row, tick), status="skipped", result=result, attempts=0
    )


def _free_name(session: Session, stem: str) -> str:
    """With a number where a search has the name: one of a schedule that was removed, for example."""
    taken = set(session.scalars(select(Search.name).where(Search.name.startswith(stem, autoescape=True))))
    return next(name for i in itertools.count(1) if (name := stem if i == 1 else f"{stem}-{i}") not in taken)


def _search_name(row: Schedule, tick: datetime) -> str:
    """With the day there; where the schedule is due more than once that day, later ticks have date and time in UTC."""
    local = tick.astimezone(zone(row.timezone))
    day = local.replace(hour=0, minute=0, fold=0)
    if next_tick(row.cron, row.timezone, day - timedelta(minutes=1)) == tick:
        return f"{row.name}-{local:%Y-%m-%d}"
    return f"{row.name}-{tick:%Y-%m-%d-%H%M}"

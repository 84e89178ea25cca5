"""One owner of a search at a time: a row that the owner renews, by the clock of the database."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from search.catalog.clock import database_now
from search.catalog.models import Lease, Search, Trial

EXPIRY_S = 30.0


def take(session: Session, search_id: str) -> tuple[str, str | None]:
    """The id of the new lease and None; or, of a search that a living process holds, its id and who that is.

    The lease of a process that has died on this machine is taken at once, any other when it has expired. The
    transaction's end raises IntegrityError if another process has taken a search that had no lease.
    """
    now = database_now(session)
    row = session.get(Lease, search_id, with_for_update=True)
    if row is not None and (other := _living(row, now)):
        return row.id, other
    if row is None:
        # Not by a merge, which would look again, and overwrite what another has inserted since.
        row = Lease(search_id=search_id)
        session.add(row)
    row.id = uuid.uuid4().hex
    row.host, row.machine, row.pid = socket.gethostname(), _machine(), os.getpid()
    row.heartbeat_at, row.expires_at = now, now + timedelta(seconds=EXPIRY_S)
    return row.id, None


def holder(session: Session, search_id: str) -> str | None:
    """Who holds the search now, in words."""
    row = session.get(Lease, search_id)
    return None if row is None else _living(row, database_now(session))


def held_in(session: Session, series: str) -> tuple[str, str] | None:
    """A search of the series that is held now, by its name, and by whom."""
    now = database_now(session)
    named = select(Search.name, Lease).join(Search, Search.id == Lease.search_id).where(Search.series == series)
    held = ((name, _living(lease, now)) for name, lease in session.execute(named))
    return next(((name, holder) for name, holder in held if holder), None)


def renew(session: Session, search_id: str, lease_id: str) -> bool:
    """False if another process has taken the search since; one that merely expired is good again."""
    now = database_now(session)
    mine = (Lease.search_id == search_id, Lease.id == lease_id)
    renewed = update(Lease).where(*mine).values(heartbeat_at=now, expires_at=now + timedelta(seconds=EXPIRY_S))
    return session.scalar(renewed.returning(Lease.id)) is not None


def release(session: Session, search_id: str, lease_id: str) -> None:
    """An orderly end: what was running is to be run again, and it does not count as an interruption."""
    if is_held(session, search_id, lease_id):
        session.delete(session.get_one(Lease, search_id))
        running = (Trial.search_id == search_id, Trial.status == "running")
        session.execute(update(Trial).where(*running).values(lease=None))


def is_held(session: Session, search_id: str, lease_id: str) -> bool:
    """Whether the lease is the search's, which it stays until the transaction ends."""
    mine = (Lease.search_id == search_id, Lease.id == lease_id)
    return session.scalar(select(Lease.id).where(*mine).with_for_update(read=True)) is not None


def _living(row: Lease, now: datetime) -> str | None:
    """Whose lease it is, in words, unless it has expired or its process has died."""
    if row.expires_at <= now or _has_died(row):
        return None
    return f"process {row.pid} on {row.host}, which holds it until {row.expires_at:%H:%M:%S} UTC"


def _machine() -> str:
    """Within it a process id means one process: containers of one machine have their own, and may share a name."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115  # no path, a name
    return " ".join(parts)


def _has_died(row: Lease) -> bool:
    if row.machine != _machine():
        return False
    try:
        os.kill(row.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False

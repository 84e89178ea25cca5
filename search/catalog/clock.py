"""The database's own clock: machines that share a database need not agree on the time."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search.catalog.models import UtcDateTime


def database_now(session: Session) -> datetime:
    """Aware, in UTC; moves on within a transaction."""
    if session.get_bind().dialect.name == "sqlite":
        text: str = session.scalars(select(func.strftime("%Y-%m-%d %H:%M:%f", "now"))).one()
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    return session.scalars(select(func.clock_timestamp(type_=UtcDateTime))).one()

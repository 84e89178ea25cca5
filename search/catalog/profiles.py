"""Latency profiles by their key, which is a digest of what was measured and where: searches share them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from search.catalog.models import LatencyProfile
from search.catalog.retry import retried
from search.catalog.store import Catalog


@retried
def profile_of(catalog: Catalog, key: str) -> dict[str, Any] | None:
    with catalog.reading() as session:
        return session.scalar(select(LatencyProfile.profile).where(LatencyProfile.key == key))


@retried
def store_profile(catalog: Catalog, key: str, profile: dict[str, Any]) -> None:
    """Keeps the profile that is there already, if any: the first measurement stands."""
    try:
        with catalog.writing() as session:
            session.add(LatencyProfile(key=key, profile=profile, created_at=datetime.now(UTC)))
    except IntegrityError:
        return


@retried
def replace_profile(catalog: Catalog, key: str, profile: dict[str, Any]) -> None:
    """In place of the profile that is there, if any: of two, the one that was asked for anew stands."""
    with catalog.writing() as session:
        session.merge(LatencyProfile(key=key, profile=profile, created_at=datetime.now(UTC)))

"""Latency profiles by their key, which is a digest of what was measured and where: searches share them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from objectives.latency.context import good_enough
from objectives.latency.settings import LatencySettings
from search.catalog.models import LatencyProfile
from search.catalog.retry import retried
from search.catalog.store import Catalog

#: What workers measure by.
_WORKERS = LatencySettings()


@retried
def profile_of(catalog: Catalog, key: str) -> dict[str, Any] | None:
    with catalog.reading() as session:
        return session.scalar(select(LatencyProfile.profile).where(LatencyProfile.key == key))


def good_profile(catalog: Catalog, key: str, settings: LatencySettings = _WORKERS) -> dict[str, Any] | None:
    """None also for a profile that another command was content with, and ``settings`` are not."""
    kept = profile_of(catalog, key)
    return kept if kept is not None and good_enough(kept, settings) else None


@retried
def store_profile(catalog: Catalog, key: str, profile: dict[str, Any]) -> None:
    """Of a worker. Keeps a profile that is there already and good enough: the first such measurement stands."""
    with contextlib.suppress(IntegrityError):  # another has stored one in the same moment
        _put(catalog, key, profile, unless=lambda kept: good_enough(kept, _WORKERS))


@retried
def replace_profile(catalog: Catalog, key: str, profile: dict[str, Any]) -> None:
    """In place of the profile that is there, if any: of two, the one that was asked for anew stands."""
    try:
        _put(catalog, key, profile)
    except IntegrityError:  # another has stored the first one in the same moment, which is there now
        _put(catalog, key, profile)


def _put(
    catalog: Catalog, key: str, profile: dict[str, Any], *, unless: Callable[[dict[str, Any]], bool] = lambda _: False
) -> None:
    """Unless the one that is there keeps its place. Raises IntegrityError where there was none a moment ago."""
    with catalog.writing() as session:
        row = session.get(LatencyProfile, key, with_for_update=True)
        if row is None:
            row = LatencyProfile(key=key)
            session.add(row)
        elif unless(row.profile):
            return
        row.profile, row.created_at = profile, datetime.now(UTC)

"""What is asked every few seconds, or by every night, does not cost more with every year of nights."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, make_url

from objectives.errors import RequestError
from search.catalog import Catalog
from search.catalog.migrate import config
from search.catalog.schedules import add_schedule, adopt
from search.catalog.submissions import submissions
from search.lease import Lease
from search.schedule import Daemon
from search.series import seeded
from search.spec import SearchSpec
from tests.statements import statements

BEGIN = datetime(2026, 11, 1, 1, 30, tzinfo=UTC)


def test_a_daemon_asks_as_much_for_many_schedules_as_for_one(catalog: Catalog, tmp_path: Path) -> None:
    """A transaction that writes for each of hundreds, every five seconds, kept others from writing."""
    daemon = Daemon(catalog, tmp_path, lambda *_: [], now=lambda: BEGIN + timedelta(minutes=1))
    asked = []
    for count in (1, 4):
        for number in range(count):
            add_schedule(catalog, f"{count}-{number}", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
        with statements() as found:
            daemon._start_what_is_due()
        asked.append(len(found))
    assert asked[0] == asked[1]


def test_a_night_asks_as_much_after_many_others_as_after_one(catalog: Catalog) -> None:
    spec = SearchSpec(series="s")
    asked = []
    for count in (1, 4):
        for number in range(count):
            catalog.create_search(f"{count}-{number}", spec.to_json(), {})
        with statements() as found:
            seeded(catalog, spec)
        asked.append(len(found))
    assert asked[0] == asked[1]
    others = catalog.create_search("other", SearchSpec(series="t").to_json(), {})
    last = catalog.search("4-2")
    with Lease(catalog, others.id, "other"):
        seeded(catalog, spec)
        with Lease(catalog, last.id, "4-2"), pytest.raises(RequestError, match=r"^search 4-2 of series s is being run"):
            seeded(catalog, spec)
    assert [search.name for search in catalog.searches("t")] == ["other"]


@pytest.mark.parametrize(
    ("ask", "table"),
    [
        (lambda catalog: adopt(catalog, "me", 60.0), "catalog_nights"),
        (lambda catalog: submissions(catalog, "queued"), "catalog_submissions"),
        (lambda catalog: catalog.searches("s"), "catalog_searches"),
        (lambda catalog: catalog.held_in("s"), "catalog_searches"),
    ],
)
def test_what_is_asked_often_walks_no_table_that_grows(
    sqlite: str, ask: Callable[[Catalog], object], table: str
) -> None:
    with closing(Catalog(sqlite)) as catalog:
        with statements() as found:
            ask(catalog)
        file = make_url(sqlite).database
    assert file is not None
    about = [(statement, parameters) for statement, parameters in found if f"FROM {table}" in statement]
    about += [(statement, parameters) for statement, parameters in found if f"JOIN {table}" in statement]
    assert about
    with closing(sqlite3.connect(file)) as connection:
        for statement, parameters in about:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            assert not [step for step in plan if step.startswith(f"SCAN {table}")], plan


def test_searches_of_earlier_versions_are_found_by_their_series(storage: str) -> None:
    with closing(Catalog(storage)) as catalog:
        for name, settings in (("of", {"series": "s"}), ("none", {"series": None}), ("older", {})):
            catalog.create_search(name, {"seed": 0, **settings}, {"labels": ["\0", "\ud800"]})
        engine = create_engine(catalog.url)
    with engine.begin() as connection:
        command.downgrade(config(connection), "0006")
    with closing(Catalog(storage)) as catalog:
        assert [search.name for search in catalog.searches("s")] == ["of"]
        assert len(catalog.searches()) == 3
    engine.dispose()

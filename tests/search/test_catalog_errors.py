"""What a server, file or disk refuses is one clear sentence, and loses nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from sqlalchemy import create_engine, event, text

from objectives.errors import StoreError
from search.admission import create
from search.catalog import Catalog
from search.catalog.outbox import backlog
from search.doctor import _examine
from search.home import Home
from search.prepare import Prepared
from search.spec import SearchSpec

LIKE = "write it like sqlite:///folder/search.db or postgresql://user@host/database."


@pytest.mark.parametrize(
    ("storage", "sentence"),
    [
        ("searches", f"storage 'searches' is not a database URL: {LIKE}"),
        ("", f"storage '' is not a database URL: {LIKE}"),
        ("postgresql://a:secret@h:x/d", f"storage 'postgresql://***@h:x/d' is not a database URL: {LIKE}"),
        ("mysql://a:my secret's@h/d", f"storage 'mysql://***@h/d' is neither SQLite nor PostgreSQL: {LIKE}"),
        ("mysql://a:secret@h/d", f"storage 'mysql://***@h/d' is neither SQLite nor PostgreSQL: {LIKE}"),
        ("sqlite://", f"storage 'sqlite://' names no file, so nothing could be resumed: {LIKE}"),
        ("sqlite:///:memory:", f"storage 'sqlite:///:memory:' names no file, so nothing could be resumed: {LIKE}"),
    ],
)
def test_a_url_that_cannot_be_used(storage: str, sentence: str) -> None:
    with pytest.raises(StoreError) as refusal:
        Catalog(storage)
    assert str(refusal.value) == sentence


def test_an_option_whose_value_makes_no_sense(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    with pytest.raises(StoreError) as refusal:
        Catalog(f"{url}?timeout=long")
    assert str(refusal.value) == (
        f"storage {url!r} has an option that SQLite does not take (could not convert string to float: 'long'): "
        "leave it out."
    )


def test_an_option_that_the_driver_does_not_know() -> None:
    with pytest.raises(StoreError) as refusal:
        Catalog("postgresql://a:secret@localhost/d?foo=bar")
    assert str(refusal.value) == (
        "storage 'postgresql+psycopg://a:***@localhost/d': invalid connection option \"foo\": leave it out."
    )


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError) as refusal:
        Catalog("postgresql://a:secret@localhost/d")
    assert str(refusal.value) == (
        "storage 'postgresql+psycopg://a:***@localhost/d' needs the PostgreSQL driver: "
        "pip install 'lora-target-search[postgres]'."
    )


@pytest.mark.parametrize(
    "storage", ["postgresql://a:secret@127.0.0.1:1/d", "postgresql://127.0.0.1:1/d?password=secret"]
)
def test_a_server_that_is_not_there(storage: str) -> None:
    with pytest.raises(StoreError, match=r"the server did not answer .*refused.*: check that it runs") as refusal:
        Catalog(storage)
    assert "secret" not in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_database_that_is_not_there(postgres_server: str) -> None:
    with pytest.raises(StoreError, match='database "nowhere" does not exist'):
        Catalog(postgres_server.replace("/postgres?", "/nowhere?"))


@pytest.mark.parametrize(
    ("grant", "cause"),
    [("USAGE", "permission denied for schema public"), (None, "no schema has been selected to create in")],
)
def test_a_user_without_rights(postgres: str, grant: str | None, cause: str) -> None:
    with create_engine(postgres).begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS reader"))
        connection.execute(text("CREATE ROLE reader LOGIN"))
        if grant:
            connection.execute(text(f"GRANT {grant} ON SCHEMA public TO public"))
    with pytest.raises(StoreError, match=rf"{cause}\): grant this user the right to create and write tables\.$"):
        Catalog(postgres.replace("//postgres:", "//reader:"))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "search.db"
    file.write_text("Dear diary, " * 100)
    with pytest.raises(StoreError) as refusal:
        Catalog(f"sqlite:///{file}")
    assert str(refusal.value) == (
        f"database 'sqlite:///{file}': the file is something else than a SQLite database: "
        "choose another --home or --storage."
    )
    assert file.read_text().startswith("Dear diary")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="it cannot be opened: check that it is a file, and that its folder can be"):
        Catalog(f"sqlite:///{tmp_path}")


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(StoreError) as refusal:
        Catalog(f"sqlite:///{tmp_path}/home/search.db")
    assert str(refusal.value) == (
        f"folder '{tmp_path}/home' for the database cannot be made (File exists): choose another --home."
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="choose another --home"):
        Catalog(f"sqlite:///{tmp_path}/search.db")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Catalog]:
    """A catalog whose file can grow no further from its next connection on."""
    catalog = Catalog(f"sqlite:///{tmp_path}/search.db")
    catalog.create_search("first", {}, {})
    catalog.close()
    event.listen(catalog._engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 1"))
    yield catalog
    catalog.close()


def test_a_full_disk_loses_nothing(full: Catalog) -> None:
    with pytest.raises(StoreError, match="the disk is full: free some space, then resume; nothing already recorded"):
        full.create_search("second", {"long": "x" * 100_000}, {})
    assert [search.name for search in full.searches()] == ["first"]
    assert backlog(full) == 1


def test_a_search_that_nobody_named_ends_on_a_full_disk(full: Catalog, tmp_path: Path) -> None:
    """And does not go on to look for a free name."""
    prepared = SimpleNamespace(spec=SearchSpec(), facts={"model": "m", "data": "d", "long": "x" * 100_000})
    with pytest.raises(StoreError, match="the disk is full"):
        create(full, SearchSpec(), cast(Prepared, prepared), Home(tmp_path, full.url, None))


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Catalog]:
    """A catalog whose file became read-only after its first search."""
    catalog = Catalog(f"sqlite:///{tmp_path}/search.db")
    catalog.create_search("first", {}, {})
    catalog.close()
    event.listen(catalog._engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only = ON"))
    yield catalog
    catalog.close()


def test_a_file_that_became_read_only(unwritable: Catalog) -> None:
    with pytest.raises(StoreError, match="the file or its folder is read-only: allow writing to both"):
        unwritable.create_search("a", {}, {})
    assert [search.name for search in unwritable.searches()] == ["first"]


def test_doctor_takes_a_file_that_it_cannot_write_for_no_other_process(unwritable: Catalog, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the file or its folder is read-only"):
        _examine(unwritable, Home(tmp_path, unwritable.url, None), unwritable.search("first"), fix=True)


def test_more_threads_than_connections_while_the_database_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(f"sqlite:///{tmp_path}/s.db")
    monkeypatch.setattr(catalog._engine.pool, "_timeout", 0.01)
    with ExitStack() as taken:
        for _ in range(15):
            taken.enter_context(catalog._engine.connect())
        with pytest.raises(StoreError) as refusal:
            catalog.searches()
    assert str(refusal.value) == (
        f"database 'sqlite:///{tmp_path}/s.db': all connections of this process waited for it too long: try again, and "
        "end what keeps it locked or away."
    )
    assert catalog.searches() == []
    catalog.close()


def test_what_fails_under_a_lock_is_not_the_databases_fault(sqlite: str) -> None:
    catalog = Catalog(sqlite)
    with pytest.raises(OSError, match="no room for a figure") as failure, catalog.sole("tracking"):
        raise OSError("no room for a figure")
    assert not isinstance(failure.value, StoreError)
    catalog.close()

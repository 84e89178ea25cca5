"""From a storage URL to a database that is ready to use, and from a driver's exception to one clear sentence."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    PendingRollbackError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.pool import ConnectionPoolEntry

from objectives.errors import StoreError, first_line
from objectives.secrets import SECRET
from search.catalog.models import to_json
from search.catalog.retry import CROWDED

BUSY_TIMEOUT_S = 30
#: Execution options of a connection that is going to write. SQLite's plain transaction fails at once, without the
#: busy timeout, if it reads and then writes while another has written. PostgreSQL knows no such option.
WRITES = {"begin": "BEGIN IMMEDIATE"}
#: What the catalog's row locks and Optuna are written for, whatever a server or role has as default: under a stricter
#: one searches on one database would refuse each other.
POSTGRES_ISOLATION = "READ COMMITTED"
_EXAMPLES = "sqlite:///folder/search.db or postgresql://user@host/database"


def parse(storage: str) -> URL:
    """Raises StoreError for anything but a SQLite file or a PostgreSQL database."""
    named = re.sub(r"//.*@", f"//{SECRET}@", storage)  # all of it is the URL, whatever a password holds
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError) as error:
        raise StoreError(f"storage {named!r} is not a database URL: write it like {_EXAMPLES}.") from error
    backend = url.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(f"storage {named!r} is neither SQLite nor PostgreSQL: write it like {_EXAMPLES}.")
    if url.database in (None, "", ":memory:") or "uri" in url.query:
        raise StoreError(f"storage {named!r} names no file, so nothing could be resumed: write it like {_EXAMPLES}.")
    return url.set(drivername="sqlite")


def is_same_database(one: URL, other: str) -> bool:
    """Whether the URL ``other``, of whatever kind, leads to the tables of ``one``, by what stands in both."""
    try:
        url = parse(other)
    except StoreError:
        return False
    if url.get_backend_name() != one.get_backend_name():
        return False
    if url.get_backend_name() == "sqlite":
        return Path(url.database or "").resolve() == Path(one.database or "").resolve()
    local = {None, "localhost", "127.0.0.1", "::1"}
    hosts = {url.host, one.host}
    return (
        (len(hosts) == 1 or hosts <= local)
        and (url.port or 5432) == (one.port or 5432)
        and (url.database, url.query) == (one.database, one.query)
    )


def connect(url: URL) -> Engine:
    """Opens nothing yet, but makes the folder of a SQLite file. One in a folder that cannot be written is only read.

    Raises StoreError if the driver is missing or the folder cannot be made.
    """
    if url.get_backend_name() == "sqlite":
        folder = sqlite_file(url).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"folder {str(folder)!r} for the database cannot be made ({error.strerror}): choose another --home."
            ) from error
        how = {"creator": lambda: _open_to_read(sqlite_file(url))} if is_read_only(url) else {}
        try:
            engine = create_engine(url, json_serializer=to_json, connect_args={"timeout": BUSY_TIMEOUT_S}, **how)
        except ValueError as error:
            raise StoreError(
                f"storage {shown(url)!r} has an option that SQLite does not take ({error}): leave it out."
            ) from error
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        return create_engine(
            url,
            json_serializer=to_json,
            pool_pre_ping=True,
            isolation_level=POSTGRES_ISOLATION,
            connect_args={"connect_timeout": 10},
        )
    except ImportError as error:
        raise StoreError(
            f"storage {shown(url)!r} needs the PostgreSQL driver: pip install 'lora-target-search[postgres]'."
        ) from error


def is_read_only(url: URL) -> bool:
    """Whether it is a SQLite file that is there, in a folder that this user cannot write."""
    return url.get_backend_name() == "sqlite" and is_there(url) and not os.access(sqlite_file(url).parent, os.W_OK)


def _open_to_read(file: Path) -> sqlite3.Connection:
    """SQLite makes files beside a database that it reads, unless told that nobody writes: nobody does without a log."""
    immutable = "" if file.with_name(f"{file.name}-wal").exists() else "&immutable=1"
    uri = f"{file.absolute().as_uri()}?mode=ro{immutable}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    # Python's sqlite3 would begin transactions late and commit before DDL: _begin_sqlite does it instead.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    if begin := connection.get_execution_options().get("begin", "BEGIN"):
        connection.exec_driver_sql(begin)


def is_there(url: URL) -> bool:
    """Whether anything may be in it: not in a SQLite file that was never made."""
    return url.get_backend_name() != "sqlite" or sqlite_file(url).exists()


def refuse_if_gone(storage: str) -> None:
    """Raises StoreError where a SQLite file is not where it was: an open connection follows one that is moved, and a
    process that is begun would make another in its old place."""
    if not is_there(url := parse(storage)):
        raise StoreError(
            f"database {shown(url)!r} is not there any more: move it back, or begin this command again with the --home "
            "or --storage that it has."
        )


def sqlite_file(url: URL) -> Path:
    assert url.database
    return Path(url.database)


def shown(url: URL) -> str:
    """Without a password, wherever the URL carries it."""
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def sole(engine: Engine, purpose: str, *, wait: bool = True) -> Iterator[bool]:
    """Holds a lock among all processes on this database; it falls with the process, whatever kills that.

    Yields whether the lock is held: always, unless `wait` is false and another process has it.
    """
    if engine.dialect.name == "sqlite":
        file = sqlite_file(engine.url)
        lock = FileLock(file.with_name(f"{file.name}.{purpose.replace(' ', '-')}.lock"), timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
        return
    with advisory_lock(engine, purpose, wait=wait) as connection:
        yield connection is not None


#: A server may limit how long a statement or a lock waits, and how long a connection may be silent: not ours that waits
#: for another process, and then holds a lock. By the names that it knows, since older ones lack the last.
_PATIENT = text(
    "SELECT set_config(name, '0', false) FROM pg_settings "
    "WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_session_timeout')"
)


@contextmanager
def advisory_lock(engine: Engine, purpose: str, *, wait: bool) -> Iterator[Connection | None]:
    """As :func:`sole` on PostgreSQL: the connection that holds the lock, for as long as the server keeps that one."""
    key = int.from_bytes(hashlib.sha256(f"lora-target-search {purpose}".encode()).digest()[:8], signed=True)
    function = "pg_advisory_lock" if wait else "pg_try_advisory_lock"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()  # it ends here, and its settings with it
        connection.execute(_PATIENT)
        held = connection.scalar(text(f"SELECT {function}(:key)"), {"key": key}) is not False
        try:
            yield connection if held else None
        finally:
            if held:
                # A connection that is gone holds no lock any more.
                with suppress(OperationalError, PendingRollbackError):
                    connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})


@contextmanager
def clear_errors(url: URL) -> Iterator[None]:
    """Turns what a server, file or disk refuses into StoreError; our own mistakes pass as they are."""
    try:
        yield
    except (IntegrityError, DataError):
        raise
    except NoConnectionFree as error:
        raise StoreError(
            f"database {shown(url)!r}: all connections of this process waited for it too long: try again, and end what "
            "keeps it locked or away."
        ) from error
    except DBAPIError as error:
        if isinstance(error, ProgrammingError) and getattr(error.orig, "sqlstate", None) not in _DENIED:
            if "connection option" in str(error.orig):
                raise StoreError(f"storage {shown(url)!r}: {first_line(error.orig or error)}: leave it out.") from error
            raise
        raise StoreError(f"database {shown(url)!r}: {_explain(url, error.orig or error)}") from error
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"database {shown(url)!r}: its folder refuses ({error.strerror}): choose another --home or --storage."
        ) from error


def _explain(url: URL, error: BaseException) -> str:
    cause, line = str(error), first_line(error)
    if url.get_backend_name() == "sqlite":
        for symptom, sentence in _SQLITE.items():
            if symptom in cause:
                return sentence
        return f"SQLite refused ({line}): nothing already recorded is lost."
    for symptom, remedy in _POSTGRES.items():
        if symptom in cause:
            return f"the server refused ({line}): {remedy}."
    return f"the server did not answer as it should ({line}): check that it runs, and the user and password."


#: PostgreSQL's insufficient_privilege, and invalid_schema_name: no schema that this user may use.
_DENIED = {"42501", "3F000"}
_TABLES = "grant this user the right to create and write tables"
_CROWDED = "raise the limit there, or run fewer searches at once"
_SLOW = "raise statement_timeout and lock_timeout of this user"
_POSTGRES = {
    "permission denied": _TABLES,
    "no schema has been selected": _TABLES,
    **dict.fromkeys(CROWDED, _CROWDED),
    "due to statement timeout": _SLOW,
    "due to lock timeout": _SLOW,
}
_SQLITE = {
    "file is not a database": "the file is something else than a SQLite database: choose another --home or --storage.",
    "malformed": "the file is damaged: restore it from a copy, or choose another --home.",
    "disk is full": "the disk is full: free some space, then resume; nothing already recorded is lost.",
    "readonly database": "the file or its folder is read-only: allow writing to both, or choose another --home.",
    "unable to open database file": "it cannot be opened: check that it is a file, and that its folder can be written.",
    "database is locked": (
        f"another process kept it locked for {BUSY_TIMEOUT_S} seconds: end that process, then resume; "
        "nothing already recorded is lost."
    ),
    "disk I/O error": "the disk failed to read or write: check it, then resume; nothing already recorded is lost.",
}

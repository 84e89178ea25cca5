"""Being the only server on a catalog for days, on a database that restarts meanwhile."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import DBAPIError

from objectives.errors import LeaseLost
from search.catalog.connect import advisory_lock, clear_errors, connect, parse, sole

_PURPOSE = "api"
#: For PostgreSQL to end a session that it was told to.
_PATIENCE_S = 5.0
_SESSION = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = "


class Alone:
    """The lock of :func:`search.catalog.connect.sole`, held by one thread at a time until :meth:`close`.

    PostgreSQL ties it to a connection, and forgets it when it restarts or ends that. So its holder has to look now and
    then, and to take it again; where the network was cut, PostgreSQL may hold on for hours to the session of the old
    connection, and to its lock, so that is ended first. A file's lock stays with the process.
    """

    def __init__(self, storage: str) -> None:
        """Raises StoreError for a URL that is none of a catalog."""
        self._url = parse(storage)
        self._engine = connect(self._url)
        self._lock = ExitStack()
        self._connection: Connection | None = None
        self._session: Row[Any] | None = None  # that had the lock last

    def take(self) -> bool:
        """Whether no other process has it. Raises StoreError where the database does not answer."""
        self._let_go()
        with clear_errors(self._url):
            if self._engine.dialect.name == "sqlite":
                return self._lock.enter_context(sole(self._engine, _PURPOSE, wait=False))
            self._end_old_session()
            self._connection = self._lock.enter_context(advisory_lock(self._engine, _PURPOSE, wait=False))
            if self._connection is not None:
                self._session = self._connection.execute(text(f"{_SESSION} pg_backend_pid()")).one()
            return self._connection is not None

    def check(self) -> None:
        """Takes it again if it was lost.

        Raises LeaseLost if another process has it by then, StoreError while the database does not answer.
        """
        if self._engine.dialect.name == "sqlite":
            return
        if self._connection is not None:
            try:
                self._connection.execute(text("SELECT 1"))
                return
            except DBAPIError:
                pass  # and with the connection the lock is lost
        if not self.take():
            raise LeaseLost(
                "another server has taken this catalog over while the database was away: this one ends, and that one "
                "goes on with its searches"
            )

    def _end_old_session(self) -> None:
        if self._session is None:
            return
        # By its begin too, since another process of the server may have its id by now. Whoever owns it may end it.
        mine = "backend_start = :backend_start AND pid <> pg_backend_pid()"
        left = text(f"SELECT pg_terminate_backend(pid) FROM ({_SESSION} :pid) AS old WHERE {mine}")
        end = time.monotonic() + _PATIENCE_S
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while connection.scalar(left, self._session._asdict()) is not None and time.monotonic() < end:
                time.sleep(0.05)
        self._session = None

    def _let_go(self) -> None:
        self._connection = None
        self._lock.close()

    def close(self) -> None:
        """The lock is free then."""
        self._let_go()
        self._engine.dispose()

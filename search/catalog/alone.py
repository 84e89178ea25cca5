"""Being the only server on a catalog for days, on a database that restarts meanwhile."""

from __future__ import annotations

from contextlib import ExitStack

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from objectives.errors import LeaseLost
from search.catalog.connect import advisory_lock, clear_errors, connect, parse, sole

_PURPOSE = "api"


class Alone:
    """The lock of :func:`search.catalog.connect.sole`, held by one thread at a time until :meth:`close`.

    PostgreSQL ties it to a connection, and forgets it when it restarts or ends that. So its holder has to look now and
    then, and to take it again. A file's lock stays with the process.
    """

    def __init__(self, storage: str) -> None:
        """Raises StoreError for a URL that is none of a catalog."""
        self._url = parse(storage)
        self._engine = connect(self._url)
        self._lock = ExitStack()
        self._connection: Connection | None = None

    def take(self) -> bool:
        """Whether no other process has it. Raises StoreError where the database does not answer."""
        self._let_go()
        with clear_errors(self._url):
            if self._engine.dialect.name == "sqlite":
                return self._lock.enter_context(sole(self._engine, _PURPOSE, wait=False))
            self._connection = self._lock.enter_context(advisory_lock(self._engine, _PURPOSE, wait=False))
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

    def _let_go(self) -> None:
        self._connection = None
        self._lock.close()

    def close(self) -> None:
        """The lock is free then."""
        self._let_go()
        self._engine.dispose()

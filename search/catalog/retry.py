"""A database server that goes away for a while: wait for it, and find out what it had committed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from objectives.errors import StoreError

PATIENCE_S = 60.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
#: PostgreSQL ends its connections, or does not take any yet, or one was silent for too long, as where this process was
#: suspended; deadlock and serialization failure.
_PASSING = {"57P01", "57P02", "57P03", "57P05", "25P03", "40P01", "40001"}
#: What PostgreSQL answers that has no connection free.
CROWDED = ("too many clients", "too many connections", "connection slots are reserved")

P = ParamSpec("P")
T = TypeVar("T")


def retried(method: Callable[P, T]) -> Callable[P, T]:
    """Calls again, for PATIENCE_S seconds, while a server's connections drop; then the last StoreError stands."""
    return _retried_while(lambda error: dropped(error), method)  # by its name each time: tests notice when it is asked


def retried_at_start(method: Callable[P, T]) -> Callable[P, T]:
    """As :func:`retried`, but only while the server says that it has no connection free, or is about to take some.

    Who never had a connection may have given a wrong address or password, which is to be said at once.
    """
    return _retried_while(not_yet, method)


def _retried_while(passing: Callable[[BaseException | None], bool], method: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(method)
    def patient(*args: P.args, **kwargs: P.kwargs) -> T:
        deadline, pause = time.monotonic() + PATIENCE_S, _FIRST_PAUSE_S
        while True:
            try:
                return method(*args, **kwargs)
            except StoreError as error:
                if not passing(error.__cause__) or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    return patient


def not_yet(error: BaseException | None) -> bool:
    """By words, since the driver keeps no state of a connection that was not made."""
    words = (*CROWDED, "the database system is")  # starting up, or in recovery
    return isinstance(error, OperationalError) and any(each in str(error.orig) for each in words)


def dropped(error: BaseException | None) -> bool:
    """Whether a server went away, rather than refused. A SQLite file never does."""
    if not isinstance(error, DBAPIError) or not type(error.orig).__module__.startswith("psycopg"):
        return False
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return error.connection_invalidated or isinstance(error, OperationalError)
    return state in _PASSING or state.startswith("08")


def commit(session: Session, engine: Engine) -> None:
    """Commits; if the answer is lost, asks the server on another connection what became of the transaction.

    Returns if it was committed, else raises what the commit raised, so that the caller may do it all again.
    """
    session.flush()
    if engine.dialect.name == "sqlite":
        session.commit()
        return
    transaction = session.scalar(text("SELECT pg_current_xact_id()::text"))
    try:
        session.commit()
    except DBAPIError as error:
        if not dropped(error) or not _committed(engine, str(transaction)):
            raise


def _committed(engine: Engine, transaction: str) -> bool:
    """Waits for the server, and for a transaction that it has not given up yet."""
    deadline, pause = time.monotonic() + PATIENCE_S, _FIRST_PAUSE_S
    while True:
        try:
            with engine.connect() as connection:
                status = connection.scalar(text("SELECT pg_xact_status(CAST(:id AS xid8))"), {"id": transaction})
            if status != "in progress":
                return bool(status == "committed")
        except DBAPIError as error:
            if not dropped(error) or time.monotonic() + pause > deadline:
                raise
        if time.monotonic() + pause > deadline:
            raise StoreError("the database server kept a transaction open for a minute: restart it, then resume.")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)

"""What is taken for a server that went away, and how long it is waited for."""

from __future__ import annotations

import sqlite3
import time

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError

from objectives.errors import StoreError
from search.catalog import retry
from search.catalog.retry import dropped, retried

psycopg = pytest.importorskip("psycopg")


def refused(state: str) -> BaseException:
    """As psycopg raises what a server answers with this SQLSTATE."""
    return psycopg.errors.lookup(state)("so says the server")  # type: ignore[no-any-return]


@pytest.mark.parametrize("state", ["57P01", "57P02", "57P03", "57P05", "25P03", "40P01", "40001", "08006", "08001"])
def test_a_server_that_ends_or_gives_way_is_asked_again(state: str) -> None:
    assert dropped(OperationalError("SELECT 1", {}, refused(state)))


@pytest.mark.parametrize("state", ["23505", "42P01", "57014", "53100", "28P01", "3D000"])
def test_what_a_server_refuses_it_would_refuse_again(state: str) -> None:
    """A key that is there, no such table, a statement's time, a full disk, a wrong password, no such database."""
    assert not dropped(OperationalError("SELECT 1", {}, refused(state)))


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (OperationalError("SELECT 1", {}, psycopg.OperationalError("connection refused")), True),
        (ProgrammingError("SELECT 1", {}, psycopg.ProgrammingError("no such parameter")), False),
        (DBAPIError("SELECT 1", {}, psycopg.Error("gone"), connection_invalidated=True), True),
        (OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked")), False),
        (IntegrityError("SELECT 1", {}, sqlite3.IntegrityError("not unique")), False),
        (psycopg.OperationalError("not through SQLAlchemy"), False),
        (None, False),
    ],
)
def test_without_an_answer_the_connection_says_it(error: BaseException | None, away: bool) -> None:
    assert dropped(error) == away


class Store:
    """Raises what it is given, one after the other, then answers."""

    def __init__(self, *causes: BaseException | None) -> None:
        self._causes = list(causes)
        self.calls = 0

    @retried
    def ask(self, question: str) -> str:
        self.calls += 1
        if self._causes:
            raise StoreError("the database does not answer") from self._causes.pop(0)
        return question.upper()


AWAY = OperationalError("SELECT 1", {}, refused("57P01"))


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, which take no time but on the clock."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "monotonic", lambda: sum(pauses))
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def test_it_is_asked_again_after_ever_longer_pauses(slept: list[float]) -> None:
    store = Store(*[AWAY] * 8)
    assert store.ask("when?") == "WHEN?"
    assert store.calls == 9
    assert slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


def test_patience_ends_before_it_is_overdrawn(slept: list[float]) -> None:
    store = Store(*[AWAY] * 1000)
    with pytest.raises(StoreError, match="the database does not answer"):
        store.ask("when?")
    assert retry.PATIENCE_S - 5.0 < sum(slept) <= retry.PATIENCE_S
    assert store.calls == len(slept) + 1


@pytest.mark.parametrize("cause", [OperationalError("SELECT 1", {}, refused("53100")), None])
def test_what_would_be_refused_again_is_said_at_once(slept: list[float], cause: BaseException | None) -> None:
    store = Store(AWAY, cause, AWAY)
    with pytest.raises(StoreError):
        store.ask("when?")
    assert (store.calls, slept) == (2, [0.1])

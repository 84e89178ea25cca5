"""PostgreSQL whose administrator limits how long things take, how many connect, and how transactions see each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from sqlalchemy import create_engine, make_url, text

from objectives.errors import StoreError
from search.catalog import Catalog
from search.strategy.space import PlacementSpace
from search.study import Study


def limited(postgres: str, **settings: str) -> str:
    """The URL under which every connection has these settings, as one of a role with defaults of its own."""
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    return make_url(postgres).update_query_dict({"options": options}).render_as_string(hide_password=False)


@contextmanager
def two(url: str) -> Iterator[tuple[Catalog, Catalog]]:
    with closing(Catalog(url)) as one, closing(Catalog(url)) as other:
        yield one, other


@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout"])
def test_who_waits_for_another_process_is_not_ended_by_a_limit(postgres: str, limit: str) -> None:
    held = threading.Event()

    def hold() -> None:
        with one.sole("series", wait=True):
            held.set()
            time.sleep(0.6)

    with two(limited(postgres, **{limit: "200"})) as (one, other):
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        with other.sole("series", wait=True) as waited:
            assert waited
        holder.join()


def test_a_lock_is_held_however_long_its_connection_is_silent(postgres: str) -> None:
    with two(limited(postgres, idle_session_timeout="200")) as (one, other):
        with one.sole("tracking") as held:
            time.sleep(0.6)
            with other.sole("tracking") as also:
                assert (held, also) == (True, False)
        with other.sole("tracking") as then:
            assert then


def test_a_transaction_that_was_silent_for_too_long_is_begun_again(postgres: str) -> None:
    """As where its process was suspended."""
    with closing(Catalog(limited(postgres, idle_in_transaction_session_timeout="200"))) as catalog:
        search = catalog.create_search("s", {}, {})
        owns, pauses = catalog._owns, [0.6]

        def slowly(*asked: object) -> bool:
            answer = owns(*asked)  # type: ignore[arg-type]
            if pauses:
                time.sleep(pauses.pop())
            return answer

        catalog.take(search.id)
        catalog._owns = slowly  # type: ignore[method-assign]
        catalog.set_base(search.id, {"device": "cpu"})
        assert not pauses
        assert catalog.search("s").base == {"device": "cpu"}


def test_transactions_see_each_other_as_they_were_written_for(postgres: str) -> None:
    url = limited(postgres, default_transaction_isolation="serializable")
    space = PlacementSpace(("o_proj", "q_proj"), (8,))
    with closing(Catalog(url)) as catalog:
        with catalog.reading() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
        study = Study(catalog.url, "s", space, strategy="random", references=[], budget=2, seed=0)
        with study._stored._storage.engine.begin() as connection:
            assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"
        study.close()


def test_a_server_without_a_free_connection(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many nights begin at once, one is free again after moments."""

    def crowd(limit: int) -> None:
        with create_engine(postgres).begin() as connection:
            connection.execute(text(f"ALTER ROLE crowd CONNECTION LIMIT {limit}"))

    with create_engine(postgres).begin() as connection:
        connection.execute(text("DROP ROLE IF EXISTS crowd"))
        connection.execute(text("CREATE ROLE crowd LOGIN"))
        connection.execute(text("GRANT ALL ON SCHEMA public TO crowd"))
    url = postgres.replace("//postgres:", "//crowd:")
    pauses: list[float] = []

    def sleep(pause: float) -> None:
        pauses.append(pause)
        if len(pauses) == 2:
            crowd(-1)

    crowd(0)
    monkeypatch.setattr("search.catalog.retry.time.sleep", sleep)
    with closing(Catalog(url)) as catalog:
        assert catalog.names() == set()
    assert pauses == [0.1, 0.2]
    crowd(0)
    monkeypatch.setattr("search.catalog.retry.PATIENCE_S", 0.0)
    with pytest.raises(StoreError) as refusal:
        Catalog(url)
    assert str(refusal.value).endswith(
        'too many connections for role "crowd"): raise the limit there, or run fewer searches at once.'
    )


def test_a_statement_that_takes_longer_than_the_server_allows(postgres: str) -> None:
    with (
        closing(Catalog(limited(postgres, statement_timeout="100"))) as catalog,
        pytest.raises(StoreError) as refusal,
        catalog.reading() as session,
    ):
        session.execute(text("SELECT pg_sleep(5)"))
    assert str(refusal.value).endswith(
        "the server refused (canceling statement due to statement timeout): raise statement_timeout and lock_timeout "
        "of this user."
    )

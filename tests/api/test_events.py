"""The stream of events of a search: what those who watch it hear, and when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from objectives.errors import UnknownSearch
from search.api.events import Watched, events
from search.api.routes import state_of
from search.catalog.submissions import move
from search.lease import Lease
from search.spec import SearchSpec
from tests.api.conftest import FACTS, Service


def read_events(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    found = []
    for block in text.strip().split("\n\n"):
        if block.startswith(":"):  # a comment, for proxies: nothing has happened for a while
            continue
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


def test_watching_ends_with_the_search(service: Service) -> None:
    answer = service.client("read").get("/searches/demo/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no", "or a proxy before the server would hold events back"
    ((kind, number, state),) = read_events(answer.text)
    assert (kind, state["status"], state["done"]) == ("end", "complete", 2)
    assert [member["trial"] for member in state["front"]] == [0, 1]
    again = service.client("read").get("/searches/demo/events", headers={"Last-Event-ID": number})
    assert read_events(again.text)[-1][0] == "end"
    assert service.client("read").get("/searches/other/events").status_code == 404


def test_watching_ends_with_a_process_that_was_killed(service: Service) -> None:
    made = service.catalog.create_search("killed", SearchSpec(steps=200, budget=2).to_json(), FACTS)

    def statuses() -> list[str]:
        client = service.client("read")
        rows = [row for row in client.get("/searches").json() if row["search"] == "killed"]
        return [client.get("/searches/killed").json()["status"], *(row["status"] for row in rows)]

    with Lease(service.catalog, made.id, "killed"):
        assert statuses() == ["running", "running"]
    assert statuses() == ["interrupted", "interrupted"]
    ((kind, _, state),) = read_events(service.client("read").get("/searches/killed/events").text)
    assert (kind, state["status"], state["done"]) == ("end", "interrupted", 0)


def test_watching_what_failed_tells_why(service: Service) -> None:
    service.client().post("/searches", json={"name": "bad"})
    assert move(service.catalog, "bad", "queued", "running")
    assert move(service.catalog, "bad", "running", "failed", "data x cannot be read")
    ((kind, _, state),) = read_events(service.client("read").get("/searches/bad/events").text)
    assert (kind, state) == ("end", {"status": "failed", "error": "data x cannot be read"})


def test_a_head_of_a_stream_does_not_wait_for_its_end(service: Service) -> None:
    made = service.catalog.create_search("live", SearchSpec(steps=200, budget=2).to_json(), FACTS)
    with Lease(service.catalog, made.id, "live"):
        answer = service.client("read").head("/searches/live/events")
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_all_who_watch_a_search_share_a_look_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty who watched a search of a thousand trials kept the server busy with them alone."""
    monkeypatch.setattr("search.api.events.POLL_S", 3600.0)
    looks: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def look(name: str) -> dict[str, Any]:
        looks.append(name)
        begun.set()
        may_end.wait(60)
        if name == "unknown":
            raise UnknownSearch("no search is named 'unknown'")
        return {"status": "running", "over": name == "ended"}

    watched = Watched(look)
    with ThreadPoolExecutor(20) as threads:
        first = threads.submit(watched, "demo")
        begun.wait(60)
        others = [threads.submit(watched, "demo") for _ in range(19)]
        may_end.set()
        assert all(each.result() == {"status": "running", "over": False} for each in (first, *others))
    assert looks == ["demo"]
    for name in ("ended", "unknown"):  # may be resumed, or begin, in the next moment
        for _ in range(2):
            with contextlib.suppress(UnknownSearch):
                watched(name)
    assert looks == ["demo", "ended", "ended", "unknown", "unknown"]


def test_watching_ends_with_a_search_that_is_removed() -> None:
    looks = iter([{"status": "running", "over": False}])

    def look() -> dict[str, Any]:
        if (state := next(looks, None)) is None:
            raise UnknownSearch("no search is named 'demo'")
        return state

    assert [kind for kind, _, _ in read_events("".join(heard(look)))] == ["progress"]


def heard(look: Callable[[], dict[str, Any]], seen: str | None = None) -> list[str]:
    async def watch() -> list[str]:
        return [each async for each in events(look, seen)]

    with ThreadPoolExecutor(1) as aside:  # Playwright, of tests that came before, has a loop in this thread
        return aside.submit(asyncio.run, watch()).result(60)


def test_only_what_is_new_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.api.events.POLL_S", 0.0)
    done = iter([0, 0, 1, 1, 0, 0])

    def look() -> dict[str, Any]:
        trials = next(done, None)
        return {"done": trials, "over": trials is None}

    told = read_events("".join(heard(look)))
    assert [(kind, state["done"]) for kind, _, state in told] == [
        ("progress", 0),
        ("progress", 1),
        ("progress", 0),
        ("end", None),
    ]
    done = iter([0, 1])
    again = read_events("".join(heard(look, seen=told[0][1])))
    assert [state["done"] for _, _, state in again] == [1, None], "who comes back has heard the first"


def test_a_long_silence_is_broken_for_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.api.events.POLL_S", 0.01)
    monkeypatch.setattr("search.api.events.SILENCE_S", 0.05)
    looks = iter([False] * 20)
    stream = heard(lambda: {"over": next(looks, True)})
    comments = stream.count(": still here\n\n")
    assert 1 <= comments <= 5, "not with every look"
    assert len(stream) == comments + 2


def test_all_who_watch_hear_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a look that they share, and that is made anew."""
    monkeypatch.setattr("search.api.events.POLL_S", 0.01)
    over = threading.Event()
    watched = Watched(lambda _: {"over": over.is_set()})
    with ThreadPoolExecutor(4) as threads:
        streams = [threads.submit(heard, partial(watched, "demo")) for _ in range(4)]
        over.set()
        for stream in streams:
            assert read_events("".join(stream.result(60)))[-1][0] == "end"


def test_what_was_resumed_and_waits_is_not_over(service: Service) -> None:
    assert state_of(service.catalog, "demo")["over"]
    assert service.client().post("/searches/demo/resume", json={"budget": 3}).status_code == 202
    assert not state_of(service.catalog, "demo")["over"]


def test_what_a_submission_failed_of_is_not_told_of_a_search_that_was_continued_elsewhere(service: Service) -> None:
    assert service.client().post("/searches/demo/resume", json={"budget": 3}).status_code == 202
    assert move(service.catalog, "demo", "queued", "running")
    assert move(service.catalog, "demo", "running", "failed", "data x cannot be read")
    search = service.catalog.search("demo")
    for status, error in (("failed", "data x cannot be read"), ("complete", None)):
        service.catalog.set_status(search.id, status)
        assert state_of(service.catalog, "demo")["error"] == error
    service.catalog.set_status(search.id, "running")
    with Lease(service.catalog, search.id, "demo"):
        assert state_of(service.catalog, "demo")["error"] is None

"""A search as a stream of server-sent events, made from its state: nothing has to be remembered between connections."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

from objectives.errors import StoreError, UnknownSearch

POLL_S = 1.0
#: Between two looks at a catalog that does not answer.
AWAY_S = 2.0
#: Proxies close a connection on which nothing moves.
SILENCE_S = 15.0


class Watched:
    """One look at a search for all who watch it: what was looked up within the last POLL_S is not looked up again."""

    def __init__(self, look: Callable[[str], dict[str, Any]]) -> None:
        self._look = look
        self._looks: dict[str, tuple[float, Future[dict[str, Any]]]] = {}  # by name: when it began
        self._lock = threading.Lock()

    def __call__(self, name: str) -> dict[str, Any]:
        """Raises what the look raises, for each who waited for it."""
        now = time.monotonic()
        with self._lock:
            for key, (began, look) in list(self._looks.items()):
                if look.done() and now - began >= POLL_S:
                    del self._looks[key]
            known = self._looks.get(name)
            _, found = self._looks.setdefault(name, (now, Future()))
        if known is None:
            try:
                found.set_result(self._look(name))
            except BaseException as error:
                found.set_exception(error)
                with self._lock:
                    self._looks.pop(name, None)
        state = found.result()
        if state["over"] and known is not None:  # it may have been resumed since
            state = self._look(name)
        return dict(state)


async def events(look: Callable[[], dict[str, Any]], seen: str | None) -> AsyncIterator[str]:
    """A ``progress`` event whenever ``look()`` gives something new, and ``end`` once its ``over`` is true.

    The id of an event is a digest of its data. Who comes back with the last one in ``Last-Event-ID`` hears the state
    again only if it has changed since. While ``look()`` raises StoreError there are comments alone.
    """
    spoke = time.monotonic()
    while True:
        try:
            state = await asyncio.to_thread(look)
        except StoreError:  # the supervisor says so in the log, once for all streams
            yield ": the catalog is away\n\n"
            spoke = time.monotonic()
            await asyncio.sleep(AWAY_S)
            continue
        except UnknownSearch:  # it was removed; who comes back is told so
            return
        over = state.pop("over")
        data = json.dumps(state, ensure_ascii=True, allow_nan=False)
        digest = hashlib.sha256(data.encode()).hexdigest()[:16]
        if over or digest != seen:
            yield f"event: {'end' if over else 'progress'}\nid: {digest}\ndata: {data}\n\n"
            seen, spoke = digest, time.monotonic()
        elif time.monotonic() - spoke > SILENCE_S:
            yield ": still here\n\n"
            spoke = time.monotonic()
        if over:
            return
        await asyncio.sleep(POLL_S)

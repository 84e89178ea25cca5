"""A search as a stream of server-sent events, made from its state: nothing has to be remembered between connections."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from objectives.errors import StoreError

POLL_S = 1.0
#: Between two looks at a catalog that does not answer.
AWAY_S = 2.0
#: Proxies close a connection on which nothing moves.
SILENCE_S = 15.0


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

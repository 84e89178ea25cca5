"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(
    condition: Callable[[], object],
    seconds: float = 20,
    *,
    alive: Callable[[], object] = lambda: True,
    told: Callable[[], str] = lambda: "",
    pause: float = 0.02,
) -> None:
    """Until the condition holds. Fails with what is told when time is up, or who should bring it about is not alive."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert alive() or condition(), told()  # it may have ended right after it brought it about
        assert time.monotonic() < deadline, told()
        time.sleep(pause)

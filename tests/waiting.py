"""Waiting for what another process or thread does."""

from __future__ import annotations

import socket
import time
import urllib.request
from collections.abc import Callable


def wait_for(
    condition: Callable[[], object],
    seconds: float = 60,
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


def listens(port: int) -> bool:
    """Whether a program of this machine takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(url: str) -> bool:
    """Whether a server is there that says 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False

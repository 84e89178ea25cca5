"""Named places in a search at which a test acts: real methods, wrapped in the process that is to be struck."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def always(*_: Any, **named: Any) -> bool:
    return True


def act_at(
    kind: Any,
    method: str,
    countdown: int,
    act: Callable[[], None] = kill,
    when: Callable[..., bool] = always,
    *,
    before: bool = False,
) -> None:
    """Act at the so-manieth call, before or after it, of those whose arguments ``when`` holds for."""
    real, left = getattr(kind, method), [countdown]

    def turn(*args: Any, **named: Any) -> None:
        if when(*args, **named):
            left[0] -= 1
            if left[0] == 0:
                act()

    def wrapped(*args: Any, **named: Any) -> Any:
        if before:
            turn(*args, **named)
        result = real(*args, **named)
        if not before:
            turn(*args, **named)
        return result

    setattr(kind, method, wrapped)

"""What is said to somebody who waits, where there is no progress to show."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

#: Shorter waits, as for small models and data, need no words.
_PATIENCE_S = 10.0


@contextlib.contextmanager
def said_if_slow(what: str, stream: TextIO | None = None, after_s: float = _PATIENCE_S) -> Iterator[None]:
    """Print ``what`` is being done, once and on standard error, if that takes longer than ``after_s`` seconds."""

    def say() -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            print(what, file=stream or sys.stderr, flush=True)

    timer = threading.Timer(after_s, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

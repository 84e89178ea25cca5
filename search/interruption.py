"""Ctrl-C and SIGTERM: both end a search so that it can be resumed."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from objectives.errors import Interrupted

#: A search that is interrupted ends within these.
_DEAF_S = 10.0
#: Code that takes a lock by hand: an exception right behind that leaves it taken, and a thread that imports or logs, as
#: the one that starts Ray, then waits for ever.
_LOCKS_BY_HAND = ("<frozen importlib._bootstrap>", logging.getLogger.__code__.co_filename)
#: Such code is left within microseconds.
_AGAIN_S = 0.01


class Interruption:
    """Within it, both signals raise KeyboardInterrupt in the main thread, and are remembered.

    In another thread, as of a notebook, it does nothing: signals are the main thread's.

    For some seconds after the first others are not heard: what has to be written and said at the end is not cut off.

    Not in the middle of an import or a line of a log, but right behind.

    Remembered, since the exception can get lost: Python drops it where a finaliser runs at that moment, and libraries
    turn it into errors of their own. Leaving the context with another error raises KeyboardInterrupt again.
    """

    def __init__(self) -> None:
        self._asked: float | None = None
        self._before: dict[int, Any] = {}
        self._hook: Any = None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        self.install()
        return self

    def install(self) -> None:
        """Also to be called when Ray has started: it brings a handler of its own, which aborts the process."""
        for number in self._before:
            signal.signal(number, self._stop)

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal came."""
        if self._asked is not None:
            raise KeyboardInterrupt

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code.co_filename in _LOCKS_BY_HAND:
            threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number)).start()
            return
        now = time.monotonic()
        if self._asked is None or now > self._asked + _DEAF_S:
            self._asked = now
            raise KeyboardInterrupt

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            self._hook(lost)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._hook is not None:
            sys.unraisablehook = self._hook
        if self._asked is not None and error is not None and not isinstance(error, Interrupted | KeyboardInterrupt):
            raise KeyboardInterrupt from error

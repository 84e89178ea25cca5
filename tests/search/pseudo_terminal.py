"""A real terminal to print on, and what was seen there."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Terminal:
    """`seen` is what was written to it, once it is closed."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.master, slave = pty.openpty()
        self.stream: TextIO = os.fdopen(slave, "w", encoding=encoding)
        self._bytes = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while part := os.read(self.master, 65536):
                self._bytes += part
        except OSError:  # Linux reports the closed other side as an error.
            return

    @property
    def seen(self) -> str:
        self.stream.close()
        self._reader.join()
        return self._bytes.decode()


@contextmanager
def terminal(encoding: str = "utf-8") -> Iterator[Terminal]:
    opened = Terminal(encoding)
    try:
        yield opened
    finally:
        _ = opened.seen
        os.close(opened.master)


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")

"""Commands of ours as processes of their own: a log each, and an end with whoever began them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from objectives.secrets import redacted

_PR_SET_PDEATHSIG = 1


def spawn(
    command: Sequence[str], log: Path, environment: Mapping[str, str], folder: str | None = None
) -> subprocess.Popen[bytes]:
    """Begins it in `folder`, default this process's own; what it says is appended to `log`, whose folder is made.

    Ctrl-C at this process's terminal does not reach it. On Linux it gets SIGTERM once the calling thread has ended,
    however that was ended: so end it before the thread ends. Raises OSError where it cannot be begun.
    """
    log.parent.mkdir(parents=True, exist_ok=True)  # someone may have tidied up meanwhile
    with log.open("ab") as stream:
        # The child has the open file, and with it the lock, see is_at_work; not every file system has locks.
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            env=environment,
            start_new_session=True,
            # Runs between fork and exec of a process that has threads: it takes no lock that one of them may hold.
            preexec_fn=_end_with(os.getpid()) if sys.platform == "linux" else None,
        )


def is_at_work(log: Path) -> bool:
    """Whether a process that was begun with this log is there still, whoever began it."""
    try:
        with log.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no log, so nothing was begun; or a file system without locks
        return False
    return False


def size_of(log: Path) -> int:
    """In bytes; 0 of one that is not there."""
    return log.stat().st_size if log.exists() else 0


def last_words(log: Path, heard: int, code: int) -> str:
    """The sentence with which a command of ours ended, without what a URL may carry; `heard` bytes are from before."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(heard, size_of(log) - 8192))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"it ended with exit code {code}, and {_in_home(log)} cannot be read ({error.strerror})"
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return redacted(said[-1]) if said and code > 0 else f"it ended with exit code {code}: see {_in_home(log)}"


def _in_home(log: Path) -> str:
    return f"{log.parent.name}/{log.name} in the home"


def _end_with(parent: int) -> Callable[[], None]:
    """Lets Linux send SIGTERM to a child whose parent is killed: nobody would look after it."""
    libc = ctypes.CDLL(None)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return prepare

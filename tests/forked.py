"""Commands in processes that find their imports made: those take five seconds of a processor, a fork none.

A server imports once, and forks a process for each command, which is alone from there on: environment, folder and
standard files of its own. Signals meet it as they meet any other.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.preloaded"])


def search(*args: str) -> None:
    """``python -m search`` with ``args``, in this process."""
    from search.__main__ import main

    sys.argv = ["search", *args]
    main()


@contextmanager
def started(
    function: Callable[..., object],
    *args: object,
    environment: dict[str, str],
    stdout: IO[Any] | None = None,
    stderr: IO[Any] | None = None,
) -> Iterator[BaseProcess]:
    """A process that calls a function of a module and ends with it, or is killed in the end.

    Its standard output and error are those of the tests where no other file is given.
    """
    files = {1: _Passed(stdout), 2: _Passed(stderr)}
    process = _SERVER.Process(target=_alone, args=(function, args, environment, Path.cwd(), files))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def run(args: Sequence[str], environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """``python -m search`` with ``args``, to its end, or killed when time is up, which fails with what it said."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as error:
        with started(search, *args, environment=environment, stdout=output, stderr=error) as process:
            process.join(timeout)
            code = process.exitcode
        for file in (output, error):
            file.seek(0)
        assert code is not None, f"{args} takes more than {timeout:g} s\n{error.read()[-3000:]}"
        return subprocess.CompletedProcess(args, code, output.read(), error.read())


class _Passed:
    """An open file, or none, that is a descriptor in the process to which it goes."""

    def __init__(self, file: IO[Any] | None) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self._file and DupFd(self._file.fileno()),)


def _received(sent: Any) -> int | None:
    return sent and sent.detach()


def _alone(
    function: Callable[..., object],
    args: Sequence[object],
    environment: dict[str, str],
    folder: Path,
    files: dict[int, int | None],
) -> None:
    files = {0: os.open(os.devnull, os.O_RDONLY), **files}
    for number, opened in files.items():
        if opened is not None:
            os.dup2(opened, number)
            os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # by the environment, not as the server has found it
    os.chdir(folder)
    function(*args)

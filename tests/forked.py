"""Commands in processes that find their imports made: those take five seconds of a processor, a fork none.

A server imports once, and forks a process for each command, which is alone from there on: environment, folder and
standard files of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.preloaded"])


def run(args: Sequence[str], environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """``python -m search`` with ``args``, to its end. Raises TimeoutExpired; the process is dead then."""
    with TemporaryDirectory() as folder:
        files = Path(folder, "stdout"), Path(folder, "stderr")
        process = _SERVER.Process(target=_command, args=(args, environment, Path.cwd(), *files))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(args, timeout)
        return subprocess.CompletedProcess(args, process.exitcode, *(file.read_text() for file in files))


def _command(args: Sequence[str], environment: dict[str, str], folder: Path, output: Path, error: Path) -> None:
    from search.__main__ import main

    for number, file, flags in ((0, Path(os.devnull), "rb"), (1, output, "wb"), (2, error, "wb")):
        with file.open(flags) as opened:
            os.dup2(opened.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["search", *args]
    main()

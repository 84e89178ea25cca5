"""Ray's workers as forks of a process that has made their imports, which take four seconds of a processor each time.

Ray starts a worker by the executable of its job's runtime environment. Here that is this file: it hands arguments,
environment, folder and standard files to a server, which forks the worker, and ends. Where there is no server any more,
it becomes the worker itself.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

#: What workers import, but for Ray, which takes settings from the environment then.
IMPORTS = ("pandas", "pyarrow.fs", "peft", "transformers.models.llama.modeling_llama", "objectives.workbench")


@cache
def environment() -> dict[str, str]:
    """In which the workers of a driver are forks of a server that ends with this process.

    Ray takes a job's runtime environment from there where its own server of jobs began the driver.
    """
    folder = TemporaryDirectory(prefix="workers-")
    atexit.register(folder.cleanup)
    address = f"{folder.name}/socket"
    command, root = [sys.executable, "-m", "tests.ray_workers", address], Path(__file__).parents[1]
    server = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(server.communicate)  # the end of its standard input is its own
    program = " ".join([sys.executable, "-S", __file__, address])
    return {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": {"py_executable": program}})}


def become(address: str, args: list[str]) -> None:
    """A worker: elsewhere, or here."""
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(address)
            asked = json.dumps([args, dict(os.environ), str(Path.cwd())]).encode()
            socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
            server.sendall(asked)
            if server.recv(1):
                return
    except OSError:
        pass
    os.execv(sys.executable, [sys.executable, *args])


def serve(address: str) -> None:
    """Until standard input ends. Imports wait until the first worker is asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            asking = listener.accept()[0]
            for module in IMPORTS:
                importlib.import_module(module)
            if os.fork() == 0:
                listener.close()
                work(asking)
                os._exit(1)
            asking.close()


def work(asking: socket.socket) -> None:
    """What ``become`` asked for, in this process."""
    head, files, _, _ = socket.recv_fds(asking, 8, 3)
    size, asked = int.from_bytes(head, "big"), b""
    while len(asked) < size:
        asked += asking.recv(size - len(asked))
    args, environment, folder = json.loads(asked)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    asking.sendall(b"1")
    asking.close()
    sys.argv = args
    runpy.run_path(args[0], run_name="__main__")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        become(sys.argv[1], sys.argv[2:])

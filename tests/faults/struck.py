"""A program: live searches whose driver is struck by signals at named places, each life a fork of this process.

Everything is imported once here, so that a life costs no import; and all but one join a Ray that outlives them, as a
cluster does, with what a killed driver leaves on it. Places are reached by wrapping the real methods; the product knows
nothing of them. Prints a JSON list of the lives: place, exit status (negative for a signal), what was said on standard
error.

    python -m tests.faults.struck HOME
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

if __name__ == "__main__":  # before Ray is imported, and not for a test that asks for the names below
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import tests.preloaded  # noqa: F401

import search.run
from cluster.jobs import Job
from search.__main__ import main as command_line
from search.catalog.store import Catalog
from search.mlflow_runs import MlflowRuns
from search.plan import SearchPlan
from tests.commands import free_port
from tests.faults.places import act_at
from tests.waiting import listens, wait_for

BUDGET, STEPS = 11, 80
REQUEST = [
    "run", "--budget", str(BUDGET), "--steps", str(STEPS), "--ranks", "8", "--validation-rows", "40", "--test-rows",
    "40", "--batch-size", "4", "--workers", "1", "--strategy", "additive",
]  # fmt: skip
#: Where a life is killed; tests/faults/replayed.py has more places.
KILLED = ("dispatched", "trained", "committed", "logged")
#: Into a trial, or among several: when the main thread waits for Ray.
A_MOMENT_S = 0.3


def signalled(number: int) -> Callable[[], None]:
    """In a moment, by another thread."""
    return lambda: threading.Timer(A_MOMENT_S, os.kill, (os.getpid(), number)).start()


def is_trial(_: Any, job: Any, *rest: Any, **named: Any) -> bool:
    return isinstance(job, Job) and job.kind == "trial"


def of_a_trial(_: Any, row: Any) -> bool:
    return row.trial is not None


def committed(*args: Any, **named: Any) -> bool:
    return args[4].get("status") in ("complete", "stopped")


def arm(place: str) -> None:
    if place == "dispatched":
        act_at(SearchPlan, "_next_trial", 2)
    elif place == "trained":
        act_at(SearchPlan, "finished", 2, when=is_trial, before=True)
    elif place == "committed":
        act_at(Catalog, "_turn", 2, when=committed)
    elif place == "logged":
        act_at(MlflowRuns, "deliver", 1, when=of_a_trial)
    elif place == "early":
        act_at(search.run, "prepare", 1, lambda: os.kill(os.getpid(), signal.SIGINT), before=True)
    elif place in ("SIGINT", "SIGTERM"):
        act_at(SearchPlan, "_next_trial", 2, signalled(signal.Signals[place]))


def live(home: Path, place: str, args: list[str]) -> dict[str, Any]:
    """One life of a driver."""
    said = home / "said"
    child = os.fork()
    if child == 0:
        with said.open("w") as error, Path(os.devnull).open("w") as nowhere:
            os.dup2(error.fileno(), 2)
            os.dup2(nowhere.fileno(), 1)
        tempfile.tempdir = str(home)  # for what a killed driver leaves behind
        arm(place)
        sys.argv = ["search", *args, "--home", str(home)]
        code = 70
        try:
            command_line()
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {"place": place, "status": status, "said": said.read_text()}


@contextmanager
def ray_head() -> Iterator[str]:
    """The address of a Ray on this machine. Its folder is of a short name, since sockets lie in it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        started = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--head",
            f"--port={port}",
        ]
        started += [
            "--node-ip-address=127.0.0.1",
            "--num-cpus=1",
            "--num-gpus=1",
            "--include-dashboard=false",
            "--block",
        ]
        head = subprocess.Popen(
            started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"RAY_TMPDIR": folder}
        )
        try:
            wait_for(lambda: listens(port), 60, told=lambda: "Ray does not start", pause=0.1)
            yield f"127.0.0.1:{port}"
        finally:
            processes = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
            for process in processes:
                process.kill()
            psutil.wait_procs(processes, 10)


def main(home: Path) -> None:
    lives = [live(home, "early", [*REQUEST, "--name", "early"])]
    with ray_head() as address:
        request = [*REQUEST, "--ray-address", address]
        lives.append(live(home, "none", [*request, "--name", "whole"]))
        # What is logged comes last: trials that may go on are told to MLflow once they have ended.
        places = ("SIGINT", "dispatched", "trained", "SIGTERM", "committed", "logged", "none")
        requests = [[*request, "--name", "cut"]] + [["resume", "cut"]] * (len(places) - 1)
        lives += [live(home, place, args) for place, args in zip(places, requests, strict=True)]
    print(json.dumps(lives))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""One Ray session for one search."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

from cluster.cores import cores
from objectives.errors import RequestError, first_line

#: Set before Ray is imported: its own loggers and callbacks would each write every result again.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupt is ours: the catalog knows how to go on
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's state of all trials, which nobody reads, was written every ten seconds
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}


#: For Ray on this machine alone.
_ALONE = {
    # Else Ray takes the machine's outward address even where it is told 127.0.0.1, and listens to everybody.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Workers that Tune cannot use, since it gives its own an environment.
    "RAY_prestart_worker_first_driver": "0",
    # Other users of the machine reach loopback, too.
    "RAY_AUTH_MODE": "token",
}


class _ForOthers:
    """Standard output as it was for the threads that are there now, as the cells of a notebook, and none for this one
    and those that it begins.

    Where a worker or node dies, Ray prints pages on it, where the result is to be alone; the watcher of the search says
    it in a line.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._others = set(threading.enumerate()) - {threading.current_thread()}

    def write(self, text: str) -> int:
        if threading.current_thread() in self._others:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if threading.current_thread() in self._others:
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


#: Held by the one session that a process can have.
_SESSION = threading.Lock()


@contextmanager
def ray_session(workers: int | None, address: str | None) -> Iterator[Callable[[], None]]:
    """Start Ray on this machine with room for ``workers``, or join the cluster at ``address``; leave it at the end.

    Ray takes seconds to start, so it does that in the background; what is yielded waits until it runs, and raises
    RequestError if it cannot. So does this where the process is in a session already, which stays.
    """
    if address:
        _check_reachable(address)
    for name, value in (_QUIET if address else _QUIET | _ALONE | _token()).items():
        os.environ.setdefault(name, value)
    import ray

    if not _SESSION.acquire(blocking=False):
        raise RequestError("another search runs in this process: wait for its end, or search in another process")
    try:
        if ray.is_initialized():  # of a notebook, say: the end of this session would end it
            raise RequestError("this process uses Ray already: call ray.shutdown() first, or search in another process")
        logging.getLogger("ray").setLevel(logging.ERROR)
        with redirect_stdout(cast(Any, _ForOthers(sys.stdout))), ThreadPoolExecutor(1) as background:
            starting = background.submit(_connect, max(workers or 1, cores()), address)
            try:
                yield starting.result
            finally:
                wait([starting])
                ray.shutdown()
    finally:  # also where a second Ctrl-C comes while Ray is waited for
        _SESSION.release()


def _token() -> dict[str, str]:
    """One for this process and what it starts, where the user has none: Ray would make one in the home of the user, in
    a file that others may read, and not start where that cannot be written."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.exists(os.path.expanduser("~/.ray/auth_token"))  # noqa: PTH110, PTH111
    return {} if given else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def check_gpus(wanted: float, address: str | None) -> None:
    """Raises RequestError if a worker asks for more GPU than this machine has: Ray would wait for it for ever.

    Needs a Ray session. A cluster is not asked, since it may grow when something waits.
    """
    if address is None and wanted > (there := gpus_there()):
        raise RequestError(
            f"--gpus-per-trial {wanted:g} is more than the {there:g} GPUs that Ray finds here: give less, or 0 for "
            "CPU; a search that began with them goes on where they are"
        )


def gpus_there() -> float:
    """Of all nodes of the Ray session, those in use too."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0.0))


def has_room(gpus: float) -> bool:
    """Whether a machine of the Ray session is large enough for a worker, be it busy or not."""
    import ray

    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(each.get("CPU", 0.0) >= 1 and each.get("GPU", 0.0) >= gpus for each in there)


def has_ended() -> bool:
    """Whether Ray, where this process started it, has ended on its own: it does once a process is killed that it needs.

    Whatever is asked of it then may end this process, without a word.
    """
    node = _node()
    return node is not None and any(kind in ("raylet", "gcs_server") for kind, _ in node.dead_processes())


def drop_files(run: str) -> None:
    """What Tune wrote of its run of that name into the folder of the session, which Ray keeps for good."""
    node = _node()
    if node is not None:
        for folder in Path(node.get_session_dir_path()).glob(f"artifacts/*/{run}"):
            shutil.rmtree(folder, ignore_errors=True)


def _node() -> Any:
    """What this process started of Ray, which has no public name for it: None of a version that has it elsewhere."""
    import ray

    return getattr(ray._private.worker, "_global_node", None)


def _connect(cpus: int, address: str | None) -> None:
    import ray

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            # Not where a cluster of someone else's happens to run, or ran, on this machine.
            ray.init("local", num_cpus=cpus, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    except Exception as error:  # of no class of its own where Ray's processes are too slow to start
        reason = first_line(error)
        if address:
            remedy = "check that the cluster runs, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the cluster's"
            raise RequestError(f"--ray-address {address} cannot be used ({reason}): {remedy}") from error
        raise RequestError(f"Ray on this machine cannot be used ({reason}): check memory, disk and load") from error


def _check_reachable(address: str) -> None:
    """Ask the port first: Ray itself tries for minutes before it says that nobody answers."""
    if address.startswith("ray://"):
        raise RequestError(
            f"--ray-address {address} is one for Ray's client, through which no search can run: run it on a machine of "
            "the cluster, with --ray-address auto"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like: Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a machine
        reason = getattr(error, "strerror", None) or error
        raise RequestError(
            f"--ray-address {address} does not answer ({reason}): check that the cluster runs there"
        ) from error

"""A cluster of two real nodes with token authentication, of which one is killed in the middle of a trial."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from objectives.checkpoint import SUFFIX
from tests import ray_workers
from tests.commands import QUICK, assert_whole, command, environment, free_port
from tests.waiting import wait_for

#: Addresses of their own, so that Ray takes each node for a machine; both are loopback.
HEAD, OTHER = "127.0.0.2", "127.0.0.3"


class Cluster:
    """A GPU and CPUs on each node are what Ray is told; trials take 0.6 of a GPU, so that a node holds one."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self.nodes: list[psutil.Process] = []
        self.address = f"{HEAD}:{port}"
        self.environment = environment() | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", *ray_workers.environment()):  # workers end with their node
            self.environment.pop(name, None)

    @property
    def head(self) -> psutil.Process:
        return self.nodes[0]

    @property
    def other(self) -> psutil.Process:
        return self.nodes[1]

    def start(self) -> None:
        self._start("--head", f"--port={self._port}", "--include-dashboard=false", f"--node-ip-address={HEAD}")
        wait_for_nodes(self._answers, "the head")
        self._start(f"--address={self.address}", f"--node-ip-address={OTHER}")
        wait_for_nodes(lambda: any("raylet" in name for name in names(self.other)), "the second node")

    def _start(self, *args: str) -> None:
        ray = [str(Path(sys.executable).with_name("ray")), "start", *args, "--num-cpus=2", "--num-gpus=1", "--block"]
        with (self._folder / f"log{len(self.nodes)}").open("w") as log:
            self.nodes.append(psutil.Popen(ray, stdout=log, stderr=log, env=self.environment))

    def _answers(self) -> bool:
        return any(
            connection.laddr.port == self._port and connection.status == psutil.CONN_LISTEN
            for child in self.head.children(recursive=True)
            for connection in child.net_connections("tcp")
        )


def names(node: psutil.Process) -> list[str]:
    return [(process.cmdline() or [""])[0] for process in node.children(recursive=True)]


def kill(node: psutil.Process) -> None:
    """All processes of a node at once, as a machine that loses its power."""
    if node.is_running():
        for process in [*node.children(recursive=True), node]:
            process.kill()
        node.wait(10)


def wait_for_nodes(
    condition: Callable[[], bool], what: str, alive: Callable[[], bool] = lambda: True, log: Path | None = None
) -> None:
    def holds() -> bool:
        try:
            return condition()
        except psutil.Error:  # a process that has just ended
            return False

    wait_for(holds, 90, alive=alive, told=lambda: f"waited for {what}\n{log.read_text() if log else ''}")


@contextmanager
def searching(flags: list[str], **process: Any) -> Iterator[subprocess.Popen[str]]:
    """A search that is killed where it outlives its test."""
    search = subprocess.Popen(command("run", *flags), text=True, **process)
    try:
        yield search
    finally:
        search.kill()
        search.wait()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="two-"))  # short: it holds sockets
    cluster = Cluster(folder, free_port())
    try:
        cluster.start()
        yield cluster
    finally:
        for node in reversed(cluster.nodes):
            kill(node)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_node_that_dies_costs_the_time_of_its_trial(cluster: Cluster, tmp_path: Path, migrated_mlflow: Path) -> None:
    """Beside it, somebody without the cluster's token is told what is wrong."""
    shutil.copyfile(migrated_mlflow, tmp_path / "mlflow.db")
    flags = [*QUICK, "--workers", "2", "--steps", "400", "--budget", "3", "--gpus-per-trial", "0.6"]
    flags += [
        "--checkpoint-seconds",
        "0.05",
        "--ray-address",
        cluster.address,
        "--home",
        str(tmp_path),
        "--name",
        "halved",
        "--json",
    ]
    stranger = cluster.environment | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    asked = ["--ray-address", cluster.address, "--home", str(tmp_path / "none")]
    with (
        (tmp_path / "stderr").open("w") as error,
        searching(asked, stderr=subprocess.PIPE, env=stranger) as refused,
        searching(flags, stdout=subprocess.PIPE, stderr=error, env=cluster.environment) as search,
    ):
        wait_for_nodes(
            lambda: (
                all(
                    any(name.startswith("ray::ResourceTrainable") for name in names(node))
                    for node in (cluster.head, cluster.other)
                )
                and len(list(tmp_path.glob(f"adapters/*/0*{SUFFIX}"))) == 2
            ),
            "two trials on two nodes",
            alive=lambda: search.poll() is None,
            log=tmp_path / "stderr",
        )
        kill(cluster.other)
        output, _ = search.communicate(timeout=240)
        heard = refused.communicate(timeout=60)[1].splitlines()[-1]
    said = (tmp_path / "stderr").read_text()
    assert search.returncode == 0, said
    assert "Traceback" not in said
    assert json.loads(output)["trials"]["complete"] == 3
    trials = assert_whole(tmp_path, "halved", 3)["trials"]
    assert sorted(trial.attempts for trial in trials) == [1, 1, 2]
    for trial in trials:
        assert trial.steps == 400
        assert ("continued_from" in trial.measurement) == (trial.attempts == 2)
    assert said.count(": it is done again") == 1
    assert "raylet" not in said
    assert heard == (
        f"error: --ray-address {cluster.address} cannot be used (Failed to connect to Ray cluster at "
        f"{cluster.address}): check that the cluster runs, and that RAY_AUTH_MODE and RAY_AUTH_TOKEN are the cluster's"
    )
    assert refused.returncode == 2

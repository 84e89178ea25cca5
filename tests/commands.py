"""The command line in a process of its own, and a look into every store a search leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests import forked, ray_workers
from tests.waiting import wait_for

#: A whole search in seconds: the demonstration with little of everything.
QUICK = ["--steps", "4", "--ranks", "4", "--validation-rows", "40", "--test-rows", "40", "--workers", "1"]


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "search", *args]


def environment() -> dict[str, str]:
    return {**os.environ, **ray_workers.environment(), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def environment_within(folder: Path) -> dict[str, str]:
    """For what is killed: the files that it leaves behind are there. Not Ray's, whose sockets need short paths."""
    return environment() | {"TMPDIR": str(folder), "RAY_TMPDIR": tempfile.gettempdir()}


def free_ports(count: int) -> list[int]:
    """Different ones, free on every address of this machine."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def call(*args: str, code: int = 0, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and check its exit code; nothing but a sentence may come with an error."""
    done = forked.run(args, environment(), timeout)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr, "control characters where there is no terminal"
    return done


def call_json(*args: str) -> Any:
    """Standard output must be one JSON document and nothing else."""
    return json.loads(call(*args, "--json").stdout)


@contextmanager
def serving(ui: list[str], folder: Path, ready: str, env: dict[str, str]) -> Iterator[tuple[int, str]]:
    """``python -m search ui`` at a free port, run in a folder, and killed in the end with all that it began.

    Its process, and the address that it printed, once it has said ``ready``.
    """
    log = folder / "ui.log"
    with log.open("w") as stream:
        args = [*ui, "--port", str(free_port())]
        server = subprocess.Popen(args, cwd=folder, stderr=stream, env=env, start_new_session=True)
    try:
        wait_for(lambda: ready in log.read_text(), 120, alive=lambda: server.poll() is None, told=log.read_text)
        (address,) = re.findall(r"MLflow UI at (\S+)", log.read_text())
        yield server.pid, address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def stores(home: Path, name: str, tracking: str = "mlflow.db") -> dict[str, Any]:
    """What catalog, Optuna and MLflow say of a search: (placement, status) of every trial in each."""
    from mlflow import MlflowClient

    from search.catalog.store import Catalog
    from search.stored_study import opened

    url = f"sqlite:///{home / 'search.db'}"
    catalog = Catalog(url)
    search = catalog.search(name)
    trials = catalog.trials(search.id)
    catalog.close()
    # A connection left open would lose its locks where a test copies the file, and then see what was before.
    with opened(url, search.id) as study:
        optuna_trials = study.get_trials()
    client = MlflowClient(f"sqlite:///{home / tracking}")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    runs = client.search_runs([experiment.experiment_id], f"tags.search = '{name}'", max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    return {
        "search": search,
        "trials": trials,
        "catalog": Counter(trial.status for trial in trials),
        "placements": Counter(trial.digest for trial in trials),
        "optuna": Counter(trial.state.name for trial in optuna_trials),
        "optuna_placements": Counter(tuple(sorted(trial.params.items())) for trial in optuna_trials),
        "client": client,
        "parents": parents,
        "children": children,
        "mlflow": Counter(run.info.status for run in runs),
    }


def assert_whole(home: Path, name: str, budget: int, tracking: str = "mlflow.db") -> dict[str, Any]:
    """Exactly the budget, no placement twice, nothing running: in the catalog, Optuna and MLflow alike."""
    state = stores(home, name, tracking)
    assert state["catalog"] == {"complete": budget}
    assert set(state["placements"].values()) == {1}
    assert state["optuna"] == {"COMPLETE": budget}
    assert set(state["optuna_placements"].values()) == {1}
    assert len(state["parents"]) == 1
    assert len(state["children"]) == budget
    assert state["mlflow"] == {"FINISHED": budget + 1}
    assert state["search"].status == "complete"
    return state

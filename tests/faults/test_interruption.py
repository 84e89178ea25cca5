"""Real signals at a real search: what was measured stays, and resume finishes to exactly the budget."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from search.catalog.store import Catalog
from tests.commands import QUICK, assert_whole, call, call_json, command, environment, stores

BUDGET = 4
ONE = [*QUICK, "--workers", "1"]


def start_and_stop(home: Path, how: signal.Signals, after: int) -> tuple[int, str]:
    """Start a search, send the signal once ``after`` trials are in the catalog, return exit code and standard error."""
    error = home / "stderr"
    args = ["run", "--budget", str(BUDGET), *ONE, "--home", str(home), "--name", "cut"]
    with error.open("w") as stream:
        process = subprocess.Popen(command(*args), stdout=subprocess.DEVNULL, stderr=stream, env=environment())
        deadline = time.monotonic() + 120
        while finished(home) < after and process.poll() is None:
            assert time.monotonic() < deadline, error.read_text()
            time.sleep(0.05)
        process.send_signal(how)
        code = process.wait(60)
    return code, error.read_text()


def finished(home: Path) -> int:
    if not (home / "search.db").exists():
        return 0
    catalog = Catalog(f"sqlite:///{home / 'search.db'}")
    try:
        searches = catalog.searches()
        return sum(t.status != "running" for t in catalog.trials(searches[0].id)) if searches else 0
    finally:
        catalog.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_end_can_be_resumed(tmp_path: Path, how: signal.Signals) -> None:
    code, error = start_and_stop(tmp_path, how, after=1)
    assert code == 130
    assert "continue with `python -m search resume cut`" in error
    assert "Traceback" not in error
    assert call_json("show", "cut", "--home", str(tmp_path))["status"] == "interrupted"
    call("resume", "cut", "--home", str(tmp_path))
    assert_whole(tmp_path, "cut", BUDGET)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_end_before_the_search_has_begun(tmp_path: Path, how: signal.Signals) -> None:
    process = subprocess.Popen(
        command("run", *ONE, "--home", str(tmp_path)), stderr=subprocess.PIPE, text=True, env=environment()
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "search.db").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(how)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error.strip()) == (130, "error: interrupted")
    assert call_json("list", "--home", str(tmp_path)) == []


@pytest.mark.parametrize("after", [0, 2])
def test_a_kill_can_be_resumed(tmp_path: Path, after: int) -> None:
    code, _ = start_and_stop(tmp_path, signal.SIGKILL, after)
    assert code == -signal.SIGKILL
    if not finished(tmp_path) and not (tmp_path / "search.db").exists():
        return
    catalog = Catalog(f"sqlite:///{tmp_path / 'search.db'}")
    begun = catalog.searches()
    catalog.close()
    if not begun:  # killed before the search had a row: nothing was begun, nothing is lost
        call("run", "--budget", str(BUDGET), *ONE, "--home", str(tmp_path), "--name", "cut")
    else:
        call("resume", "cut", "--home", str(tmp_path))
    assert_whole(tmp_path, "cut", BUDGET)


def test_trials_that_stopped_on_the_way_survive_a_kill(tmp_path: Path) -> None:
    """Killed when some had stopped and one was going on; the rest is as if nothing had been."""
    staged = ["--strategy", "additive", "--steps", "80", "--ranks", "8"]
    args = ["run", "--budget", "11", *ONE, *staged, "--home", str(tmp_path), "--name", "cut"]
    with (tmp_path / "stderr").open("w") as stream:
        process = subprocess.Popen(command(*args), stdout=subprocess.DEVNULL, stderr=stream, env=environment())
        deadline = time.monotonic() + 240
        while finished(tmp_path) < 10 and process.poll() is None:
            assert time.monotonic() < deadline, (tmp_path / "stderr").read_text()
            time.sleep(0.05)
        process.kill()
        process.wait(60)
    catalog = Catalog(f"sqlite:///{tmp_path / 'search.db'}")
    before = {t.number: t for t in catalog.trials(catalog.searches()[0].id)}
    catalog.close()
    assert any(trial.status == "stopped" for trial in before.values())
    call("resume", "cut", "--home", str(tmp_path))
    state, document = stores(tmp_path, "cut"), call_json("show", "cut", "--home", str(tmp_path))
    complete, stopped = document["trials"]["complete"], document["trials"]["stopped"]
    assert complete >= 1
    assert complete + stopped == 11
    assert set(state["placements"].values()) == {1}
    assert state["optuna"] == {"COMPLETE": complete, "PRUNED": stopped}
    assert state["mlflow"] == {"FINISHED": 12}
    assert document["steps"]["spent"] < document["steps"]["full"]
    for point in document["points"]:
        assert (point["steps"] == 80) == (point["status"] == "complete")
        if point["status"] == "stopped":
            assert point["reason"].endswith("since others were expected to add more to the front")
    assert len(list((tmp_path / "adapters").glob("*/*/adapter_model.safetensors"))) == complete
    assert not list((tmp_path / "adapters").rglob("*.checkpoint.safetensors"))

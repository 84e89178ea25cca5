"""Real signals at live searches: what was measured stays, and in the end all is as if nothing had been."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from search.catalog import Catalog
from search.result import result_document
from tests.commands import environment, stores
from tests.faults.struck import BUDGET, KILLED, STEPS

#: Of a front's member, where things are kept.
PLACES = ("adapter", "mlflow_run_id")


def documents(home: Path) -> dict[str, dict[str, Any]]:
    with closing(Catalog(f"sqlite:///{home}/search.db")) as catalog:
        return {search.name: result_document(catalog, search) for search in catalog.searches()}


def assert_over(home: Path, name: str, document: dict[str, Any]) -> dict[str, Any]:
    """Exactly the budget, no placement twice, nothing running: in the catalog, Optuna and MLflow alike."""
    state = stores(home, name)
    complete, stopped = document["trials"]["complete"], document["trials"]["stopped"]
    assert (document["status"], complete + stopped) == ("complete", BUDGET)
    assert min(complete, stopped) >= 1
    assert set(state["placements"].values()) == {1}
    assert state["optuna"] == {"COMPLETE": complete, "PRUNED": stopped}
    assert set(state["optuna_placements"].values()) == {1}
    assert state["mlflow"] == {"FINISHED": BUDGET + 1}
    assert (len(state["parents"]), len(state["children"])) == (1, BUDGET)
    assert document["steps"]["spent"] < document["steps"]["full"]
    for point in document["points"]:
        assert (point["steps"] == STEPS) == (point["status"] == "complete")
        if point["status"] == "stopped":
            assert point["reason"].endswith("since others were expected to add more to the front")
    adapters = home / "adapters" / state["search"].id
    assert len(list(adapters.glob("*/adapter_model.safetensors"))) == complete
    assert not list(adapters.rglob("*.checkpoint.safetensors"))
    return state


@pytest.mark.slow
def test_a_search_that_is_struck_again_and_again_ends_as_one_that_is_not(
    tmp_path: Path,
    migrated_mlflow: Path,
) -> None:
    """Killed four times, told to end twice; trials stop on the way and go on, under one worker."""
    shutil.copyfile(migrated_mlflow, tmp_path / "mlflow.db")
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.struck", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lives = json.loads(done.stdout)
    said = {life["place"]: life["said"] for life in lives}
    ended = [(life["place"], life["status"]) for life in lives]
    print("killed at", [place for place, status in ended if status == -9])
    polite = [("SIGINT", 130), ("SIGTERM", 130)]
    assert sorted(ended) == sorted([("early", 130), ("none", 0), ("none", 0), *polite, *((p, -9) for p in KILLED)])
    assert all("Traceback" not in text for text in said.values()), said
    assert (
        "note: the cluster has 1 GPUs, and trials use none of them: --gpus-per-trial 1 gives each one" in said["none"]
    )
    assert said["early"].strip() == "error: interrupted"
    for place, _ in polite:
        remedy = f"continue with `python -m search resume cut --home {tmp_path}`"
        assert f"trials done, all kept: {remedy}" in said[place].splitlines()[-1]

    found = documents(tmp_path)
    assert sorted(found) == ["cut", "whole"], "what ended before it had begun has left nothing"
    whole, cut = (assert_over(tmp_path, name, found[name])["trials"] for name in ("whole", "cut"))
    for kept, expected in zip(cut, whole, strict=True):
        # How long a model took is the one thing that differs.
        assert (kept.number, kept.digest, kept.status, kept.steps) == (
            expected.number,
            expected.digest,
            expected.status,
            expected.steps,
        )
        for figures in ("losses", "validation", "latency"):
            assert kept.measurement.get(figures) == expected.measurement.get(figures), figures
        assert (kept.test, kept.adapter_sha256, kept.late) == (expected.test, expected.adapter_sha256, 0)
    for part in ("front", "recommended", "hypervolume", "steps"):
        assert comparable(found["cut"][part]) == comparable(found["whole"][part])
    # Killed with a trial in flight: when it was given out, when it was back. Else nothing is done twice.
    assert sum(trial.attempts - 1 for trial in cut) >= 2


def comparable(part: Any) -> Any:
    if isinstance(part, list):
        return [{key: value for key, value in member.items() if key not in PLACES} for member in part]
    return part

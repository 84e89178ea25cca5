"""Forty kills of one replayed search leave what an uninterrupted one leaves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from objectives.tabular import Table
from tests.benchmarks.made import write_table
from tests.commands import assert_whole, environment
from tests.faults.replayed import BOUNDARIES, BUDGET, GROUPS, RANK

KILLS = 40


def replayed(folder: Path, table: Path, kills: int, strategy: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.replayed", str(folder), str(table), str(kills), strategy],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    hits: dict[str, int] = json.loads(done.stdout)
    return hits


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["tpe"])
def test_forty_kills_change_nothing(tmp_path: Path, migrated_mlflow: Path, strategy: str) -> None:
    recorded = Table(write_table(tmp_path / "table.parquet", groups=GROUPS, ranks=(RANK,), seeds=1))
    outcomes = {p.label: recorded.outcome(p, 0) | {"adapter": None} for p in recorded.placements}
    for outcome in outcomes.values():
        validation = outcome["measurement"]["validation"]
        validation["accuracy_ci"] = [validation["accuracy"]] * 2
        outcome["adapter"] = "replayed"
    table = tmp_path / "table.json"
    table.write_text(json.dumps(outcomes))

    for home in (tmp_path / "whole", tmp_path / "cut"):
        home.mkdir()
        # Kills while MLflow's tables are made: tests/search/test_mlflow_database.py.
        shutil.copyfile(migrated_mlflow, home / "mlflow.db")
    hits = replayed(tmp_path, table, KILLS, strategy)
    print(hits)
    assert sum(hits.values()) == KILLS
    assert all(hits[boundary] >= 2 for boundary in (*BOUNDARIES, "random moment"))

    expected, state = (assert_whole(tmp_path / name, "replayed", BUDGET) for name in ("whole", "cut"))
    figures = [[(t.number, t.digest, t.measurement) for t in each["trials"]] for each in (expected, state)]
    assert figures[0] == figures[1], "the same proposals and the same front as without a kill"
    assert sum(t.attempts - 1 for t in state["trials"]) > 0
    assert all(t.late == 0 for t in state["trials"])
    events = (tmp_path / "cut" / "events").read_text()
    repeated = {n: len(re.findall(rf"^trained {n}$", events, re.MULTILINE)) for n in range(BUDGET)}
    assert all(repeated[t.number] <= t.attempts for t in state["trials"]), "nothing is trained again once committed"

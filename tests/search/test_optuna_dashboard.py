"""Optuna's own web pages on a catalog: the dashboard's server, as far as its JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.catalog import Catalog
from search.strategy.space import PlacementSpace
from search.study import Study
from tests.commands import free_port
from tests.waiting import listens, wait_for


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[str]:
    """Address of a server on a catalog with one search of three trials."""
    catalog = Catalog(f"sqlite:///{tmp_path}/search.db")
    search = catalog.create_search("tickets", {}, {})
    space = PlacementSpace(("q_proj", "o_proj"), (4, 8))
    study = Study(
        catalog.url,
        search.id,
        space,
        title=search.name,
        strategy="random",
        references=(),
        budget=3,
        seed=0,
        steps=40,
        max_ratio=1.4,
    )
    for status, ratio in (("complete", 1.25), ("infeasible", 1.5), ("failed", 1.5)):
        asked = study.ask()
        assert asked is not None
        study.tell(asked[0], status, {"validation": {"accuracy": 0.75}, "latency": {"ratio": ratio}})
    catalog.close()
    port = free_port()
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [program, catalog.url, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: listens(port), alive=lambda: process.poll() is None)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def test_optuna_dashboard_shows_names_that_people_know(dashboard: str) -> None:
    (summary,) = read(f"{dashboard}/api/studies")["study_summaries"]
    assert [(each["key"], each["value"]) for each in summary["user_attrs"]] == [("search", "tickets")]
    study = read(f"{dashboard}/api/studies/{summary['study_id']}")
    assert study["objective_names"] == ["accuracy", "latency_ratio"]
    assert study["directions"] == ["maximize", "minimize"]
    assert [trial["state"] for trial in study["trials"]] == ["Complete", "Pruned", "Fail"]
    best = study["trials"][0]
    assert best["values"] == [0.75, 1.25]
    assert [each["name"] for each in best["params"]] == ["q_proj", "o_proj", "rank"]

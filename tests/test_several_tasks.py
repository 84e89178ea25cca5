"""Several tasks end to end: the standard list on each, and how its placements compare."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from objectives import demo
from tests.commands import QUICK, assert_whole, call, call_json
from tests.json_reference import undescribed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two tasks: the demonstration's first rows, and its next ones."""
    folders = []
    for name, start in (("first", 0), ("next", 100)):
        folder = tmp_path_factory.mktemp("data") / name
        folder.mkdir()
        for file in demo.data_dir().glob("*.jsonl"):
            with file.open(encoding="utf-8") as lines:
                (folder / file.name).write_text("".join(itertools.islice(lines, start, start + 100)), encoding="utf-8")
        folders.append(str(folder))
    return folders


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, migrated_mlflow: Path) -> Path:
    home = tmp_path_factory.mktemp("home")
    shutil.copyfile(migrated_mlflow, home / "mlflow.db")
    return home


@pytest.fixture(scope="module")
def ablation(home: Path, data: list[str]) -> dict[str, Any]:
    flags = [*itertools.chain(*(("--data", source) for source in data)), *QUICK, "--home", str(home)]
    found: dict[str, Any] = call_json("ablate", *flags, "--name", "list")
    return found


@pytest.mark.slow
def test_each_task_trains_the_standard_list_and_nothing_else(home: Path, ablation: dict[str, Any]) -> None:
    assert [document["search"] for document in ablation["searches"]] == ["list-first", "list-next"]
    for document in ablation["searches"]:
        assert document["trials"] == {"complete": 6, "stopped": 0, "failed": 0, "infeasible": 0}
        assert document["steps"]["spent"] == document["steps"]["full"] == 6 * 4
        assert [point["reference"] for point in sorted(document["points"], key=lambda point: point["trial"])] == [
            "o_proj only",
            "o_proj + down_proj",
            "q + v",
            "attention only",
            "MLP only",
            "all linear",
        ]
        assert_whole(home, document["search"], 6)


def test_all_of_it_is_compared_by_row(home: Path, ablation: dict[str, Any]) -> None:
    comparison = ablation["comparison"]
    assert undescribed("ablate", ablation) == undescribed("compare", comparison) == []
    assert comparison["tasks"] == ["list-first", "list-next"]
    assert len(comparison["placements"]) == 6
    assert comparison["left_out"] == []
    assert comparison["paired"] == {"list-first": True, "list-next": True}
    assert "points of the best on every task" in comparison["robust_default"]["sentence"]
    assert call_json("compare", "list-first", "list-next", "--home", str(home)) == comparison


def test_the_comparison_is_in_mlflow(home: Path, ablation: dict[str, Any]) -> None:
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id], "tags.comparison = 'true'")
    assert run.data.tags["searches"] == "list-first, list-next"


def test_a_data_set_that_cannot_be_read_stops_all_before_the_first_begins(tmp_path: Path, data: list[str]) -> None:
    done = call("run", "--data", data[0], "--data", "nowhere.jsonl", *QUICK, "--home", str(tmp_path), code=2)
    assert "nowhere.jsonl" in done.stderr
    assert call_json("list", "--home", str(tmp_path)) == []

"""Disks that are full under a live search: that of the adapters, and that of MLflow's artifacts."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from search.catalog import Catalog
from search.catalog.outbox import backlog
from search.doctor import examine
from search.home import Home
from tests.commands import QUICK, assert_whole, call, command
from tests.disks import Disk, disk

__all__ = ["disk"]  # a fixture

BUDGET = 4
#: Room for one adapter or two, of four.
SMALL_KIB, LARGE_KIB = 100, 8192


@pytest.mark.slow
def test_a_search_on_full_disks_loses_nothing(
    tmp_path: Path,
    disk: Disk,
    migrated_mlflow: Path,
) -> None:
    """Its MLflow is not the home's own, which is said once, when it begins."""
    shutil.copyfile(migrated_mlflow, tmp_path / "runs.db")
    adapters, artifacts, home = tmp_path / "adapters", tmp_path / "mlartifacts", ["--home", str(tmp_path)]
    place = Home.at(tmp_path, None, None)
    disk(adapters, SMALL_KIB)
    disk(artifacts, SMALL_KIB)
    begin = ["run", *QUICK, "--budget", str(BUDGET), "--name", "full", *home]
    refused = call(*begin, "--tracking-uri", f"sqlite:///{tmp_path}/runs.db", code=2).stderr.splitlines()[-1]
    assert refused.startswith(f"error: adapter {adapters}/")
    assert refused.endswith(
        "could not be written (No space left on device): free space or check the folder, then resume"
    )
    with closing(Catalog(f"sqlite:///{tmp_path}/search.db")) as catalog:
        search = catalog.search("full")
        assert (search.status, search.reason) == ("failed", refused.removeprefix("error: "))
        done = [trial for trial in catalog.trials(search.id) if trial.status == "complete"]
        assert 1 <= len(done) < BUDGET
        # What stands is whole, and nothing else stands.
        assert {str(folder) for folder in (adapters / search.id).iterdir()} == {trial.adapter for trial in done}

        disk(adapters, LARGE_KIB)
        resumed = call("resume", "full", *home)
        assert catalog.search("full").status == "complete"
        waiting = backlog(catalog)
        assert waiting > 0
        assert (
            f"note: MLflow at sqlite:///{tmp_path}/runs.db did not take {waiting} records yet; nothing is lost: "
            f"`python -m search resume full --home {tmp_path}` sends what is left"
        ) in resumed.stderr
        (told,) = examine(place, "full", fix=False)
        remedy = f"`python -m search doctor --fix --home {tmp_path}` sends what is left"
        assert f"MLflow has yet to hear of {waiting} records: {remedy}" in told["problems"]

        disk(artifacts, LARGE_KIB)
        (mended,) = examine(place, "full", fix=True)
        assert (mended["problems"], mended["mlflow"], backlog(catalog)) == ([], None, 0)
    (told,) = examine(place, "full", fix=False)
    assert (told["problems"], told["mended"], told["mlflow"]) == ([], [], None)
    state = assert_whole(tmp_path, "full", BUDGET, tracking="runs.db")
    adapter_of = {trial.number: Path(trial.adapter) for trial in state["trials"]}
    for run in state["children"]:
        kept = Path(state["client"].download_artifacts(run.info.run_id, "adapter", str(tmp_path)))
        expected = adapter_of[int(run.data.tags["trial"])]
        assert {file.name for file in kept.iterdir()} == {file.name for file in expected.iterdir()}
        for file in expected.iterdir():
            assert (kept / file.name).read_bytes() == file.read_bytes()
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_results_that_do_not_fit_are_said_to_be_there_still(tmp_path: Path, as_json: list[str]) -> None:
    Home.at(tmp_path, None, None)
    with Path("/dev/full").open("w") as full:
        asked = command("list", "--home", str(tmp_path), *as_json)
        done = subprocess.run(asked, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output cannot be written (No space left on device): "
        "free space, then show or resume the search\n"
    )

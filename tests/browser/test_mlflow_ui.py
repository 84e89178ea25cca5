"""A search as people find it in the MLflow UI that `python -m search ui` serves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from search.catalog.store import Catalog
from search.home import Home
from search.result import result_document
from search.tracking import Tracker
from tests.api.conftest import TRIALS, record_search
from tests.commands import command, environment, serving

_PATIENT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, browser: Any, migrated_mlflow: Path
) -> tuple[Path, dict[str, Any]]:
    """Home and document of a search that was recorded, not trained: MLflow is told the same of both."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copyfile(migrated_mlflow, folder / "mlflow.db")
    home = Home.at(folder, None, None)
    with closing(Catalog(home.storage)) as catalog:
        record_search(catalog, home, "seen", [*TRIALS, ("k_proj", 0.65, 1.4)])

        def document(search: str) -> dict[str, Any]:
            return result_document(catalog, catalog.search_of(search))

        assert Tracker(catalog, home.mlflow(), folder / "mlartifacts", document).stop(60.0) == 0
        return folder, document(catalog.search("seen").id)


@pytest.fixture(scope="module")
def address(searched: tuple[Path, dict[str, Any]]) -> Iterator[str]:
    """Of the newest search, as `ui` prints it."""
    home = searched[0]
    with serving(command("ui", "--home", str(home)), home, "startup complete", environment()) as (pid, address):
        assert len(psutil.Process(pid).children(recursive=True)) == 1, "what answers, and no jobs"
        yield address


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(_PATIENT)
    yield page
    page.close()


@pytest.mark.slow
def test_the_run_says_the_result(
    page: Any, address: str, searched: tuple[Path, dict[str, Any]], screenshots: Path
) -> None:
    result = searched[1]
    page.goto(address)
    page.get_by_text("Recommended:").wait_for()
    page.screenshot(path=screenshots / "mlflow-run.png")
    page.get_by_text("Show more").click()
    rows = page.locator("table").filter(has_text="base model").locator("tbody tr")
    labels = [rows.nth(i).locator("td").nth(1).inner_text() for i in range(rows.count())]
    assert sorted(labels) == sorted(["base model", *(member["label"] for member in result["front"])])
    page.screenshot(path=screenshots / "mlflow-table.png")


def test_the_figure_answers_to_the_mouse(page: Any, address: str, screenshots: Path) -> None:
    run, _, query = address.partition("?")
    page.goto(f"{run}/artifacts/front.html?{query}")
    figure = page.frame_locator("iframe").locator(".figure")
    figure.locator(".scatterlayer .trace .points path").last.hover(force=True)
    assert "ratio" in str(figure.locator(".hoverlayer .hovertext").first.text_content())
    page.screenshot(path=screenshots / "mlflow-figure.png")


def test_the_filter_leaves_the_front_and_the_compare_view_has_its_columns(
    page: Any, address: str, searched: tuple[Path, dict[str, Any]], screenshots: Path
) -> None:
    from mlflow import MlflowClient

    _, result = searched
    front = {member["mlflow_run_id"]: member["label"] for member in result["front"]}
    runs, _, _ = address.partition("/runs/")
    experiment = runs.rpartition("/")[2]
    server = address.partition("/#/")[0]
    front_only = "tags.front = 'true'"
    found = {run.info.run_id for run in MlflowClient(server).search_runs([experiment], front_only)}
    assert found == set(front)
    assert len(found) == len(result["points"]) - 1

    page.goto(f"{runs}/runs?workflowType=machine_learning&searchFilter={quote(front_only)}")
    # MLflow shows a nested run below its parent, which it counts.
    page.get_by_text(f"{len(front) + 1} matching runs").wait_for()
    page.screenshot(path=screenshots / "mlflow-filter.png")

    runs_query, experiments_query = quote(json.dumps(list(front))), quote(json.dumps([experiment]))
    page.goto(f"{server}/#/compare-runs?runs={runs_query}&experiments={experiments_query}")
    for name in ("group.o_proj", "rank", "accuracy", "tpot_ratio"):
        page.get_by_text(name, exact=True).first.wait_for(state="attached")
    for label in front.values():
        assert page.get_by_text(label, exact=True).count() > 0
    page.screenshot(path=screenshots / "mlflow-compare.png")

"""What lists and watchers read of searches, beside the whole document."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from objectives.errors import UnknownSearch
from objectives.placement import Placement
from search.catalog import Catalog
from search.catalog.models import Search
from search.catalog.pages import page
from search.cli import cli
from search.home import Home
from search.result import result_document, result_rows, standing
from search.spec import SearchSpec
from tests.api.conftest import FACTS, record_search
from tests.statements import statements


def home(catalog: Catalog, folder: Path) -> Home:
    return Home.at(folder / "home", catalog.url, None)


def end(catalog: Catalog, search_id: str, number: int, status: str, measurement: dict[str, Any] | None) -> None:
    catalog.add_trial(search_id, number, Placement.of(["k_proj", f"{number}_proj"], 8), None)
    assert catalog.record(search_id, number, status, reason="why", measurement=measurement)


def test_lists_and_watchers_are_told_what_the_document_says(catalog: Catalog, tmp_path: Path) -> None:
    trials = (("q_proj", 0.1 + 0.2, 1.3), ("o_proj", 0.6, 1.1), ("v_proj", 0.5, 1 / 0.9), ("k_proj", 0.7, 1.3))
    record_search(catalog, home(catalog, tmp_path), "demo", trials)
    search = catalog.search("demo")
    catalog.record_test(search.id, 1, {"accuracy": 0.55, "accuracy_ci": [0.5, 0.6]})
    catalog.record_test(search.id, None, {"accuracy": 0.25, "accuracy_ci": [0.22, 0.29]})
    latency = {"ratio": 1.05}
    end(catalog, search.id, 4, "failed", None)
    end(catalog, search.id, 5, "infeasible", {"latency": latency})
    end(catalog, search.id, 6, "complete", {"validation": {"accuracy": 0.9}, "latency": latency})  # has no adapter
    catalog.add_trial(search.id, 7, Placement.of(["up_proj"], 8), None)
    catalog.create_search("empty", SearchSpec(steps=200, budget=3).to_json(), FACTS)

    document = result_document(catalog, catalog.search("demo"))
    base = {key: value for key, value in document["base"].items() if "accuracy" in key}
    on_validation = {"validation_accuracy": 0.2, "validation_accuracy_ci": [0.1, 0.3]}
    assert base == on_validation | {"accuracy": 0.25, "accuracy_ci": [0.22, 0.29]}
    told = standing(catalog, search)
    assert [member["trial"] for member in told["front"]] == [1, 3]
    assert told["front"] == [{key: member[key] for key in told["front"][0]} for member in document["front"]]
    assert {key: document[key] for key in ("status", "trials", "budget")} == {
        key: told[key] for key in ("status", "trials", "budget")
    }
    spent = sum(trial.steps for trial in catalog.trials(search.id))
    assert document["steps"] == {"spent": spent, "full": 8 * search.spec["steps"]}, "of the one that runs too"
    for member in document["front"]:
        assert member["adapter_mb"] == member["parameters"] * 4 / 1e6, "in float32"
    empty, demo = result_rows(catalog, catalog.searches())
    assert demo | {"front": 2, "best": 0.7, "trials": document["trials"]} == demo
    assert (empty["search"], empty["front"], empty["best"], sum(empty["trials"].values())) == ("empty", 0, None, 0)


def test_latencies_from_before_the_search_are_known_as_such_and_none_is_told_by_its_own_class(catalog: Catalog) -> None:
    search = catalog.create_search("demo", SearchSpec(steps=200, budget=9).to_json(), FACTS)
    began = search.created_at
    measured_at: list[datetime | None] = [began - timedelta(seconds=1), None, *[began + timedelta(seconds=1)] * 7]
    for number, (groups, rank) in enumerate((g, r) for g in (["o"], ["q"], ["o", "q"]) for r in (4, 8, 16)):
        latency: dict[str, Any] = {"ratio": 1 + 0.1 * len(groups), "axis": "tpot", "base": {"tpot_p50_ms": 4.0}}
        if (at := measured_at[number]) is not None:
            latency["measured_at"] = at.isoformat()
        catalog.add_trial(search.id, number, Placement.of(groups, rank), None)
        assert catalog.record(search.id, number, "infeasible", reason="why", measurement={"latency": latency})
    for engine, are_told in (("transformers", True), ("vllm", False)):
        catalog.set_base(search.id, {"latency": {"engine": engine}})
        points = result_document(catalog, catalog.search("demo"))["points"]
        assert [point["base_p50_ms"] for point in points] == [None, None, *[4.0] * 7]
        assert [point["tpot_ratio_predicted"] is not None for point in points] == [are_told] * 9


def test_a_list_reads_all_trials_in_one_statement(catalog: Catalog, tmp_path: Path) -> None:
    """One for each search made 500 of them wait for seconds, most of it for samples and scores that no list shows."""
    asked = []
    for names in (["a"], ["b", "c", "d", "e"]):
        for name in names:
            record_search(catalog, home(catalog, tmp_path), name)
        with statements() as found:
            rows = result_rows(catalog, catalog.searches())
        assert all(row["front"] == 2 for row in rows)
        asked.append(len(found))
    assert asked[0] == asked[1]


def test_pages_hold_every_search_once(catalog: Catalog) -> None:
    """Also those that began in one moment, and while others begin."""
    begin = datetime(2026, 11, 1, tzinfo=UTC)
    for number in range(7):
        catalog.create_search(f"s{number}", {}, {})
        with catalog.writing() as session:
            began = begin + timedelta(days=number // 3)
            session.execute(update(Search).where(Search.name == f"s{number}").values(created_at=began))
    found, more = page(catalog, 2)
    pages = [[search.name for search in found]]
    while more:
        catalog.create_search(f"new{len(pages)}", {}, {})
        found, more = page(catalog, 2, found[-1].name)
        pages.append([search.name for search in found])
    assert [len(each) for each in pages] == [2, 2, 2, 1]
    names = [name for each in pages for name in each]
    assert names[0] == "s6"
    assert (set(names[1:4]), set(names[4:])) == ({"s3", "s4", "s5"}, {"s0", "s1", "s2"})
    assert page(catalog, 100)[1] is False
    with pytest.raises(UnknownSearch, match="no search is named 'gone'"):
        page(catalog, 2, "gone")


def test_the_newest_are_listed_alone_if_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = Home.at(tmp_path, None, None)
    catalog = Catalog(where.storage)
    for name in ("a", "b", "c"):
        record_search(catalog, where, name)
    catalog.close()
    cli.main(["list", "--last", "2", "--home", str(tmp_path)], standalone_mode=False)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["c", "b"]

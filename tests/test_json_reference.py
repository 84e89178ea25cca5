"""docs/json.md has every field of the documents that commands print, and no other.

Here are documents from stored trials, with all that they can hold; tests of whole commands hold theirs against it too.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import click

from objectives.placement import Placement
from search.across import comparison_document
from search.catalog import Catalog
from search.catalog.records import SearchRecord
from search.cli import cli
from search.inspection import modules_document
from search.result import result_document, result_rows
from search.spec import SearchSpec
from tests.faults.replayed import FACTS, GROUPS, SPEC
from tests.json_reference import described, undescribed, unseen
from tests.search.recorded import evaluation, latency, record_task
from tests.search.test_series import night


def commands(group: click.Group, prefix: str = "") -> list[str]:
    """Those that have ``--json``, as one types them."""
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, f"{name} ")
        elif any(parameter.name == "as_json" for parameter in command.params):
            found.append(prefix + str(name))
    return found


def test_every_command_with_json_has_a_section() -> None:
    for command in commands(cli):
        assert described(command if command != "schedule add" else "schedule list"), command


def test_one_search(tmp_path: Path) -> None:
    with closing(Catalog(f"sqlite:///{tmp_path / 'search.db'}")) as catalog:
        night(catalog, "s-1", {"o_proj": 60}, budget=2)
        night(catalog, "s-2", {"o_proj": 60, "k_proj": 90})
        documents = [result_document(catalog, search) for search in (catalog.search("s-2"), _large(catalog))]
        rows = result_rows(catalog, catalog.searches())
    assert documents[1]["latency_check"]["drift"]["ratio_change"] is not None
    assert [found for document in documents for found in undescribed("show", document)] == []
    assert unseen("show", *documents) == []
    assert undescribed("list", rows) == unseen("list", rows) == []


def _large(catalog: Catalog) -> SearchRecord:
    """Trials enough for effects, predictions and drift, measured while the search ran, one of them the baseline."""
    facts = FACTS | {"labels": ["a", "b"], "versions": {"torch": "2.13.0"}}
    search = catalog.create_search("large", SPEC | {"baseline": f"{GROUPS[0]} r8"}, facts)
    now = {"measured_at": datetime.now(UTC).isoformat(), "source": "measured", "settled": True}
    catalog.set_base(search.id, {"validation": evaluation(10), "latency": latency(1.0) | now, "device": "cpu"})
    every = [groups for size in (1, 2, 3) for groups in combinations(GROUPS, size)][:24]
    for number, groups in enumerate(every):
        measured = latency(1 + 0.1 * len(groups) + 0.001 * number) | now | {"base": {"tpot_p50_ms": 4.0}}
        measurement = {
            "validation": evaluation(20 + 10 * len(groups) + number) | {"loss": 1.0},
            "latency": measured,
            "losses": [[10, 2.0], [20, None]],
            "seconds": {"latency": 0.5, "training": 3.0},
            "parameters": 1000,
        }
        catalog.add_trial(search.id, number, Placement.of(groups, 8), "o_proj only" if number == 0 else None)
        assert catalog.record(search.id, number, "complete", measurement=measurement, adapter="a", steps=200)
        catalog.record_test(search.id, number, evaluation(20 + number))
    return catalog.search("large")


def test_several_searches(tmp_path: Path) -> None:
    documents = []
    for axis in ("tpot", "ttft"):
        with closing(Catalog(f"sqlite:///{tmp_path / axis}.db")) as catalog:
            for name, k_proj in (("a", 30), ("b.c", 90)):
                search = record_task(catalog, name, {"o_proj": 60, "k_proj": k_proj, "k_proj+o_proj": 80}, axis=axis)
            catalog.add_trial(search.id, 9, Placement.of(["v_proj"], 8), None)
            documents.append(comparison_document(catalog, ["a", "b.c"], baseline="k_proj"))
            assert documents[-1]["left_out"]
    assert [found for document in documents for found in undescribed("compare", document)] == []
    assert unseen("compare", *documents) == []


def test_modules() -> None:
    document = modules_document(SearchSpec(), 8)
    assert undescribed("modules", document) == unseen("modules", document) == []

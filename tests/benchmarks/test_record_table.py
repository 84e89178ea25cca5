"""A recording goes on with its own settings alone, and what diverged is no figure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import run_peer
from benchmarks.record_table import kept, read_journal, write_table
from benchmarks.replay import replay
from benchmarks.report import markdown
from benchmarks.runs import references
from objectives.errors import RequestError
from objectives.placement import Placement
from objectives.tabular import Table
from tests.benchmarks.made import GROUPS
from tests.benchmarks.test_peers import Scripted

SETTINGS = {"data_hash": "one", "steps": 100, "learning_rate": 0.003}


def test_a_recording_that_goes_on_has_its_settings(tmp_path: Path) -> None:
    journal = tmp_path / "table.parquet.jsonl"
    assert read_journal(journal, SETTINGS) == []
    trial = {"groups": ["o_proj"], "rank": 8, "seed": 0, "rows": []}
    with journal.open("a") as file:
        file.write(json.dumps(trial) + "\n")
    assert read_journal(journal, SETTINGS) == [trial]
    with pytest.raises(RequestError) as refused:
        read_journal(journal, SETTINGS | {"steps": 200})
    assert str(refused.value) == (
        f"{journal} was recorded with steps 100, and not 200: give what it was recorded with, or another --out"
    )


def test_a_recording_goes_on_behind_a_line_that_was_not_written_to_its_end(tmp_path: Path) -> None:
    journal = tmp_path / "table.parquet.jsonl"
    read_journal(journal, SETTINGS)
    trial = {"groups": ["o_proj"], "rank": 8, "seed": 0, "rows": []}
    begun = journal.read_text() + json.dumps(trial) + "\n"
    journal.write_text(begun + '{"groups": ["down_pr')
    assert read_journal(journal, SETTINGS) == [trial]
    assert journal.read_text() == begun  # the next training has a line of its own
    journal.write_text('{"settin')
    assert read_journal(journal, SETTINGS) == read_journal(journal, SETTINGS) == []


def test_a_journal_without_settings_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "table.parquet.jsonl"
    journal.write_text(json.dumps([{"groups": ["o_proj"], "rank": 8, "seed": 0}]) + "\n")
    with pytest.raises(RequestError) as refused:
        read_journal(journal, SETTINGS)
    assert str(refused.value) == f"{journal} does not say by what settings it was recorded: give another --out"


def _trials(table: Table, diverged: Placement) -> list[dict[str, Any]]:
    """As the journal has them; of ``diverged`` the second training."""
    trials = []
    for placement in table.placements:
        for seed in table.seeds:
            trial: dict[str, Any] = {"groups": list(placement.groups), "rank": placement.rank, "seed": seed}
            if placement == diverged and seed == table.seeds[1]:
                trial["diverged"] = "the training loss became nan by step 30"
            else:
                trial["rows"] = [dict(row) for row in table.curve(placement, seed)]
            trials.append(trial)
    return trials


def test_a_placement_that_diverged_is_left_out_and_named(table: Table, tmp_path: Path) -> None:
    first, second, *_ = references(table)
    trials = _trials(table, second)
    about = {"groups": GROUPS, "validation_rows": 500, "test_rows": 500}
    about["diverged"] = [trial for trial in trials if "diverged" in trial]
    file = tmp_path / "left_out.parquet"
    write_table(file, kept(trials), about)
    left = Table(file)
    assert set(table.placements) - set(left.placements) == {second}
    assert second not in references(left)

    tried = replay(left, "tpe", seed=0, budget=500, workers=1).trained
    assert {placement for _, placement in tried} == set(left.placements)
    peer = Scripted(left, [second, first])
    run = run_peer(left, lambda *_, **__: peer, seed=0, budget=1, workers=1)
    assert run.trained == ((200, first),)
    assert {told[2:] for told in peer.told if told[0] == 0} == {(0.0, max(map(left.ratio, left.placements)))}
    text = markdown({"left_out": left}, {}, runs=1, budget=60, workers=1)
    assert "126 placements (1 left out, of which a training diverged), 2 recorded seeds" in text


def test_where_all_diverged_there_is_no_table() -> None:
    with pytest.raises(RequestError, match="a training of every placement diverged: try a lower --learning-rate"):
        kept([{"groups": ["o_proj"], "rank": 8, "seed": 0, "diverged": "the training loss became nan by step 3"}])

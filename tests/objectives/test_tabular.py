"""A recorded table gives what a workbench would."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from objectives.errors import RequestError
from objectives.placement import Placement
from objectives.tabular import Table
from objectives.training import LOSS_EVERY

GROUPS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GAIN = dict(zip(GROUPS, (0.02, 0.01, 0.03, 0.06, 0.02, 0.09, 0.08), strict=True))


def rows() -> list[dict[str, Any]]:
    found = []
    for count in range(1, len(GROUPS) + 1):
        for groups in itertools.combinations(GROUPS, count):
            gain = sum(GAIN[name] for name in groups)
            for seed, step in itertools.product((0, 1), (100, 200)):
                row = {"groups": list(groups), "rank": 8, "seed": seed, "step": step, "standard_error": 0.02}
                row |= {"accuracy": 0.4 + gain * step / 200 + 0.01 * seed, "loss": 2 - 3 * gain, "test_loss": None}
                row |= {"ratio": 1 + 0.1 * count + 0.01 * seed, "test_accuracy": 0.5 if step == 200 else None}
                row |= {"losses": [3 - 0.1 * entry for entry in range(step // LOSS_EVERY)]}
                found.append(row)
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    file = tmp_path_factory.mktemp("tables") / "made.parquet"
    about = {"groups": GROUPS, "validation_rows": 300, "test_rows": 100}
    made = pyarrow.Table.from_pylist(rows()).replace_schema_metadata({b"about": json.dumps(about).encode()})
    pyarrow.parquet.write_table(made, file)
    return Table(file)


def test_figures_are_those_of_full_fidelity_and_the_truth_is_over_seeds_and_splits(table: Table) -> None:
    placement = Placement.of(["o_proj", "up_proj"], 8)
    outcome = table.outcome(placement, 1)
    assert (outcome["status"], outcome["steps"]) == ("complete", 200)
    assert outcome["measurement"]["validation"]["accuracy"] == pytest.approx(0.56)
    assert outcome["measurement"]["latency"]["ratio"] == pytest.approx(1.205)
    assert [row["step"] for row in table.curve(placement, 0)] == [100, 200]
    assert table.truth(placement) == pytest.approx((0.555 * 300 + 0.5 * 100) / 400)
    assert (len(table.placements), table.ranks, table.seeds, table.steps) == (127, (8,), [0, 1], 200)


@pytest.mark.parametrize(("until", "steps"), [(20, 20), (199, 199), (200, 200), (500, 200), (None, 200)])
def test_a_trial_that_stops_on_the_way_has_the_losses_until_there(table: Table, until: int | None, steps: int) -> None:
    outcome = table.outcome(Placement.of(["o_proj"], 8), 0, until)
    assert (outcome["status"], outcome["steps"]) == ("complete" if steps == 200 else "stopped", steps)
    losses = outcome["measurement"]["losses"]
    assert losses == [(LOSS_EVERY * (i + 1), 3 - 0.1 * i) for i in range(steps // LOSS_EVERY)]
    assert ("validation" in outcome["measurement"]) == ("adapter" in outcome) == (steps == 200)


def test_trainings_of_other_lengths_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mixed.parquet"
    about = {"groups": GROUPS, "validation_rows": 300, "test_rows": 100}
    mixed = [row for row in rows() if (row["step"], row["seed"], row["groups"]) != (200, 1, ["o_proj"])]
    made = pyarrow.Table.from_pylist(mixed).replace_schema_metadata({b"about": json.dumps(about).encode()})
    pyarrow.parquet.write_table(made, file)
    with pytest.raises(RequestError) as refused:
        Table(file)
    assert str(refused.value) == (
        f"{file} has trainings of 100 steps beside those of 200, which cannot be compared: record it again"
    )


def test_another_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), file)
    with pytest.raises(RequestError, match=r"is no table of recorded trials .*: record it again"):
        Table(file)

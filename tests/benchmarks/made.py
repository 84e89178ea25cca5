"""A made-up table in the form of record_table.py: loss nearly additive over groups, accuracy counted in rows."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

GROUPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GAIN = dict(zip(GROUPS, (0.04, 0.02, 0.08, 0.15, 0.06, 0.22, 0.2), strict=True))
COST = dict(zip(GROUPS, (0.1, 0.11, 0.1, 0.12, 0.1, 0.13, 0.11), strict=True))
FIDELITIES = (12, 25, 38, 50, 75, 100, 150, 200)
VALIDATION_ROWS, TEST_ROWS = 500, 500


def write_table(
    file: Path,
    *,
    groups: tuple[str, ...] = GROUPS,
    seeds: int = 2,
    ranks: tuple[int, ...] = (8,),
    noise: float = 0.01,
    fidelities: tuple[int, ...] = FIDELITIES,
) -> Path:
    """Every placement of the groups, with ``noise`` as the standard deviation of the loss between seeds."""
    last = fidelities[-1]
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for rank, count in itertools.product(ranks, range(1, len(groups) + 1)):
        for chosen in itertools.combinations(groups, count):
            gain = sum(GAIN[name] for name in chosen) * (1 - 0.03 * count) * (rank / 8) ** 0.1
            ratio = 1.0 + 0.04 + sum(COST[name] for name in chosen)
            for seed, step in itertools.product(range(seeds), fidelities):
                loss = 1.2 - gain * (step / last) ** 0.5 + noise * random.standard_normal()
                accuracy = random.binomial(VALIDATION_ROWS, np.exp(-loss)) / VALIDATION_ROWS
                row = {"groups": list(chosen), "rank": rank, "seed": seed, "step": step, "ratio": ratio}
                row |= {"accuracy": accuracy, "loss": loss}
                row["standard_error"] = float(np.sqrt(accuracy * (1 - accuracy) / VALIDATION_ROWS))
                if step == last:
                    right = random.binomial(TEST_ROWS, np.exp(-loss))
                    entries = [1.2 - gain * (at / step) ** 0.5 for at in range(10, step + 1, 10)]
                    losses = [entry + noise * random.standard_normal() for entry in entries]
                    row |= {"test_accuracy": right / TEST_ROWS, "test_loss": loss, "losses": losses}
                rows.append(row)
    about = {"groups": groups, "validation_rows": VALIDATION_ROWS, "test_rows": TEST_ROWS}
    made = pyarrow.Table.from_pylist(sorted(rows, key=lambda row: -row["step"]))  # so that all columns are seen
    pyarrow.parquet.write_table(made.replace_schema_metadata({b"about": json.dumps(about).encode()}), file)
    return file

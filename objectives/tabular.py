"""A workbench that looks its measurements up: whole searches are replayed in seconds, from exhaustive recordings.

Tables are written by ``benchmarks/record_table.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectives.errors import RequestError
from objectives.placement import Placement
from objectives.training import LOSS_EVERY


class Table:
    """Every placement of a space, trained once for each of ``seeds``; figures as a real search would get them.

    Left out are placements of which a training diverged: ``about["diverged"]`` has them.
    """

    def __init__(self, file: Path) -> None:
        """Raises RequestError if the file is no table of record_table.py, or its trainings end at different steps."""
        import pyarrow
        import pyarrow.parquet

        try:
            read = pyarrow.parquet.read_table(file)
            self.about: dict[str, Any] = json.loads(read.schema.metadata[b"about"])
            rows = read.to_pylist()
            self._rows: dict[tuple[Placement, int], list[dict[str, Any]]] = {}
            for row in sorted(rows, key=lambda row: row["step"]):
                self._rows.setdefault((Placement.of(row["groups"], row["rank"]), row["seed"]), []).append(row)
            self.groups: tuple[str, ...] = tuple(self.about["groups"])
            self.steps: int = max(row["step"] for row in rows)
        except (OSError, pyarrow.ArrowException, KeyError, TypeError, ValueError) as error:
            raise RequestError(f"{file} is no table of recorded trials ({error}): record it again") from error
        self.placements = list(dict.fromkeys(placement for placement, _ in self._rows))
        self.seeds = sorted({seed for _, seed in self._rows})
        self.ranks = tuple(sorted({placement.rank for placement in self.placements}))
        if ends := sorted({curve[-1]["step"] for curve in self._rows.values()} - {self.steps}):
            raise RequestError(
                f"{file} has trainings of {ends[0]} steps beside those of {self.steps}, which cannot be compared: "
                "record it again"
            )

    def outcome(self, placement: Placement, seed: int, until: int | None = None) -> dict[str, Any]:
        """What :meth:`~objectives.workbench.Workbench.measure` would have returned. Raises KeyError if not recorded."""
        last = self._rows[placement, seed][-1]
        steps = last["step"] if until is None else min(until, last["step"])
        entries = enumerate(last.get("losses") or [], start=1)
        measurement: dict[str, Any] = {
            "parameters": 0,
            "seconds": {},
            "losses": [(LOSS_EVERY * i, loss) for i, loss in entries if LOSS_EVERY * i <= steps],
            "latency": {"ratio": self.ratio(placement), "ratio_ci": [self.ratio(placement)] * 2},
        }
        outcome = {"reason": None, "steps": steps, "measurement": measurement}
        if steps < last["step"]:
            return outcome | {"status": "stopped"}
        measurement["validation"] = {name: last[name] for name in ("accuracy", "loss", "standard_error")}
        return outcome | {"status": "complete", "adapter": "replayed"}

    def curve(self, placement: Placement, seed: int) -> list[Mapping[str, Any]]:
        """One entry a recorded fidelity, by step."""
        return list(self._rows[placement, seed])

    def ratio(self, placement: Placement) -> float:
        """Latency depends on shape alone: the mean over the recordings."""
        ratios = [self._rows[placement, seed][-1]["ratio"] for seed in self.seeds if (placement, seed) in self._rows]
        return float(sum(ratios) / len(ratios))

    def truth(self, placement: Placement) -> float:
        """The accuracy behind the luck: the mean over seeds and over the rows of validation and test."""
        last = [self._rows[placement, seed][-1] for seed in self.seeds if (placement, seed) in self._rows]
        rows = {split: self.about[f"{split}_rows"] for split in ("validation", "test")}
        right = [r["accuracy"] * rows["validation"] + r["test_accuracy"] * rows["test"] for r in last]
        return float(sum(right) / len(right) / sum(rows.values()))

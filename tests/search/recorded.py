"""Searches as the catalog records them, and MLflow as its users read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from objectives.metrics import mean_interval, standard_error
from objectives.placement import Placement
from search.catalog import Catalog, OutboxRecord, SearchRecord
from search.catalog.models import Outbox
from search.mlflow_store import EXPERIMENT
from tests.waiting import wait_for

#: The trials of `document`: 7, 2 and 4 are its front, 2 is recommended.
PLACEMENTS = {
    0: Placement.of(["q_proj"], 4),
    1: Placement.of(["k_proj"], 4),
    2: Placement.of(["down_proj", "o_proj"], 8),
    4: Placement.of(["down_proj", "o_proj", "q_proj"], 16),
    7: Placement.of(["o_proj"], 8),
}
FACTS = {"model": "models/tiny", "data": "data/questions", "groups": ["down_proj", "k_proj", "o_proj", "q_proj"]}
SPEC = {"seed": 3, "ranks": [4, 8, 16], "max_hours": None, "budget": 6, "alpha": "2r", "label_weight": 4.0}
MEASUREMENT = {
    "validation": {"accuracy": 0.6, "accuracy_ci": [0.5, 0.7], "loss": 0.9},
    "latency": {"ratio": 1.12, "ratio_ci": [1.1, 1.14], "tpot_p50_ms": 4.3, "tpot_p95_ms": 4.6, "ttft_p95_ms": 9.6},
    "losses": [[10, 2.1], [20, None], [30, 1.7]],
    "parameters": 12800,
    "seconds": {"training": 3.5},
}


def begin(catalog: Catalog, name: str = "demo") -> SearchRecord:
    return catalog.create_search(name, SPEC, FACTS)


def begin_when(go: Path, storage: str, name: str) -> None:
    """Once this file is there, for processes that are to begin in the same moment."""
    wait_for(go.exists, 60, pause=0.001)
    begin(Catalog(storage), name)


def end_trial(catalog: Catalog, search: SearchRecord, number: int, status: str = "complete", **changes: Any) -> None:
    catalog.add_trial(search.id, number, PLACEMENTS[number], "o_proj only" if number == 7 else None)
    result = {"measurement": MEASUREMENT, "steps": 200, **changes}
    assert catalog.record(search.id, number, status, **result)


def queue_once_more(catalog: Catalog, rows: Sequence[OutboxRecord]) -> None:
    """As a process leaves them that was killed after it had delivered them, and before it said so."""
    with catalog.writing() as session:
        session.add_all(Outbox(**asdict(row)) for row in rows)


class Reader:
    """MLflow as its users see it."""

    def __init__(self, uri: str) -> None:
        self.client = MlflowClient(uri)

    @property
    def experiment(self) -> Any:
        return self.client.get_experiment_by_name(EXPERIMENT)

    def runs(self, condition: str = "") -> list[Run]:
        """Oldest first."""
        experiment = self.experiment
        if experiment is None:
            return []
        return list(self.client.search_runs([experiment.experiment_id], condition, order_by=["attributes.start_time"]))

    def parent(self) -> Run:
        (run,) = (run for run in self.runs() if "mlflow.parentRunId" not in run.data.tags)
        return run

    def trials(self) -> dict[int, Run]:
        found = [run for run in self.runs() if "mlflow.parentRunId" in run.data.tags]
        numbered = {int(run.data.tags["trial"]): run for run in found}
        assert len(numbered) == len(found)
        return numbered


def evaluation(right: int, rows: int = 100, *, kept: bool = True) -> dict[str, Any]:
    """The first so many rows right."""
    scores = [1.0] * right + [0.0] * (rows - right)
    figures = {
        "accuracy": right / rows,
        "accuracy_ci": list(mean_interval(scores)),
        "standard_error": standard_error(scores),
        "rows": rows,
    }
    return figures | ({"scores": scores} if kept else {})


def latency(ratio: float, axis: str = "tpot", reach: float = 0.02) -> dict[str, Any]:
    times = {"ttft_ms": [9.0] * 20, "itl_ms": [[4.0, 4.0 + n / 100] for n in range(20)], "output_tokens": [3] * 20}
    slower = {
        "ttft_ms": [9.0 * ratio] * 20,
        "itl_ms": [[gap * ratio for gap in gaps] for gaps in times["itl_ms"]],
        "output_tokens": [3] * 20,
    }
    return {
        "ratio": ratio,
        "ratio_ci": [ratio - reach, ratio + reach],
        "axis": axis,
        "engine": "transformers",
        f"{axis}_p95_ms": 4.1 * ratio,
        "samples": {"base": times, "adapted": slower},
    }


def record_task(
    catalog: Catalog,
    name: str,
    right: dict[str, int],
    *,
    base: int = 20,
    facts: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    kept: bool = True,
    axis: str = "tpot",
    reach: float = 0.02,
) -> SearchRecord:
    """A finished search over placements such as ``o_proj`` or ``q_proj+v_proj``, with so many of 100 rows right each.

    Each target costs a tenth of the base model's TPOT; the first placement is on the front, the only one tested.
    """
    about = {
        "model": "models/tiny",
        "data": f"data/{name}",
        "metric": "accuracy",
        "structure": "5ca1ab1e",
        "groups": [],
    }
    asked = SPEC | {"steps": 200, "learning_rate": 1e-3}
    search = catalog.create_search(name, asked | (spec or {}), about | (facts or {}))
    catalog.set_base(
        search.id,
        {"validation": evaluation(base, kept=kept), "latency": latency(1.0, axis), "device": "cpu, 1 thread"},
    )
    for number, (targets, rows) in enumerate(right.items()):
        placement = Placement.of(targets.split("+"), 8)
        catalog.add_trial(search.id, number, placement, f"{targets} only" if number == 0 else None)
        measurement = {
            "validation": evaluation(rows, kept=kept),
            "latency": latency(1 + 0.1 * len(placement.groups), axis, reach),
            "parameters": 1000,
        }
        assert catalog.record(search.id, number, "complete", measurement=measurement, adapter=f"adapters/{number}")
        if number == 0:
            catalog.record_test(search.id, number, evaluation(rows - 5))
    catalog.record_test(search.id, None, evaluation(base))
    catalog.set_status(search.id, "complete")
    return catalog.search(name)

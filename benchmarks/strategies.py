"""Strategies side by side on recorded tables, each through the real search code, in simulated time.

    python -m benchmarks.strategies TABLE.parquet ... [--runs 20] [--workers 1] [--budget N] [--strategies tpe,random]

A strategy sees one recorded seed's validation figures, as a user would. It is judged by the truth, which is the mean
over the table's seeds, validation and test rows together: the hypervolume of what it has tried so far as a share of the
exhaustive front's, in (accuracy, 1 / ratio) over (0, 0). All get the same reference placements first. Prints Markdown.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import tempfile
from pathlib import Path
from typing import Any

from cluster.jobs import Job
from objectives.placement import Placement
from objectives.tabular import Table
from search.catalog.store import Catalog
from search.pareto import hypervolume
from search.plan import SearchPlan
from search.strategy.space import PlacementSpace
from search.study import Study

STRATEGIES = ("random", "nsga2", "tpe", "gp", "additive")
#: The reference placements of a block with these seven linear layers, as `modules` names them.
REFERENCES = (
    ("o_proj",),
    ("down_proj", "o_proj"),
    ("q_proj", "v_proj"),
    ("k_proj", "o_proj", "q_proj", "v_proj"),
    ("down_proj", "gate_proj", "up_proj"),
    ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
)


class _Silent:
    def trial_started(self, *_: Any) -> None: ...
    def trial_finished(self, *_: Any) -> None: ...
    def phase(self, *_: Any) -> None: ...


def replay(table: Table, strategy: str, *, seed: int, budget: int, workers: int) -> list[Placement]:
    """The placements that a search of ``budget`` trials tries, in the order in which they end."""
    recorded = table.seeds[seed % len(table.seeds)]
    ended: list[Placement] = []
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(f"sqlite:///{folder}/search.db")
        search = catalog.create_search("replay", {}, {})
        space = PlacementSpace(table.groups, table.ranks)
        middle = table.ranks[len(table.ranks) // 2]
        references = {Placement.of(groups, middle): "+".join(groups) for groups in REFERENCES}
        study = Study(
            catalog.url,
            search.id,
            space,
            strategy=strategy,
            references=list(references),
            budget=budget,
            seed=seed,
            steps=table.steps,
        )
        plan = SearchPlan(
            catalog, study, search.id, budget=budget, references=references, watcher=_Silent(), steps=table.steps
        )
        plan.reconcile()
        running: list[tuple[float, int, Job]] = []
        clock = 0.0
        while not plan.done():
            job = plan.next(len(running)) if len(running) < workers else None
            if job is not None:
                heapq.heappush(running, (clock + (table.steps if job.kind == "trial" else 0), id(job), job))
                continue
            if not running:
                break
            clock, _, job = heapq.heappop(running)
            if job.kind == "trial":
                assert job.placement is not None
                plan.finished(job, table.outcome(job.placement, recorded, job.until))
                ended.append(job.placement)
            else:
                plan.finished(job, {"latency_context": "replayed"} if job.kind == "base" else {})
        catalog.close()
    return ended


def shares(table: Table, tried: list[Placement]) -> list[float]:
    """After each trial, the true hypervolume of all tried so far over that of all placements."""

    def points(placements: list[Placement]) -> list[tuple[float, float]]:
        return [(table.truth(placement), table.ratio(placement)) for placement in placements]

    whole = hypervolume(points(table.placements))
    return [hypervolume(points(tried[: i + 1])) / whole for i in range(len(tried))]


def trials_to(share: float, curve: list[float]) -> int:
    """Trials until ``share`` is reached, one more than there were if it never is."""
    return next((i for i, reached in enumerate(curve, start=1) if reached >= share), len(curve) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budget", type=int, default=64)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    args = parser.parse_args()
    print("| table | strategy | trials to 95% | to 99% | to 99.5% | share at 24 trials |\n|" + " --- |" * 6)
    for file in args.tables:
        table = Table(file)
        budget = min(args.budget, len(table.placements))
        for strategy in args.strategies.split(","):
            runs = [
                shares(table, replay(table, strategy, seed=seed, budget=budget, workers=args.workers))
                for seed in range(args.runs)
            ]
            cells = [_spread([trials_to(share, curve) for curve in runs], budget) for share in (0.95, 0.99, 0.995)]
            at_24 = statistics.median(curve[min(24, budget) - 1] for curve in runs)
            print(f"| {file.stem} | {strategy} | {' | '.join(cells)} | {at_24:.4f} |", flush=True)


def _spread(counts: list[int], budget: int) -> str:
    low, middle, high = statistics.quantiles(counts, n=4)

    def shown(count: float) -> str:
        return f"> {budget}" if count > budget else f"{count:g}"

    return f"{shown(middle)} ({shown(low)} to {shown(high)})"


if __name__ == "__main__":
    main()

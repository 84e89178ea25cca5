"""Our own search on a recorded table: plan, catalog and study as in a live search, only the workers are simulated."""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.runs import Run, Workers, references
from cluster.jobs import Job
from objectives.placement import Placement
from objectives.tabular import Table
from search.catalog.store import Catalog
from search.plan import SearchPlan
from search.strategy.space import PlacementSpace
from search.study import Study


class _Silent:
    def trial_started(self, *_: Any) -> None: ...
    def trial_finished(self, *_: Any) -> None: ...
    def phase(self, *_: Any) -> None: ...


def replay(table: Table, strategy: str, *, seed: int, budget: int, workers: int) -> Run:
    """A search of ``budget`` trials, at most as many as the table has placements, by a strategy of `--strategy`.

    ``seed`` is the strategy's, and chooses the recorded seed whose figures it sees.
    """
    recorded = table.seeds[seed % len(table.seeds)]
    budget = min(budget, len(table.placements))
    trained: list[tuple[int, Placement]] = []
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(f"sqlite:///{folder}/search.db")
        search = catalog.create_search("replay", {}, {})
        space = PlacementSpace(table.groups, table.ranks)
        first = references(table)
        study = Study(catalog.url, search.id, space, strategy=strategy, references=first, budget=budget, seed=seed)
        plan = SearchPlan(
            catalog,
            study,
            search.id,
            budget=budget,
            references={placement: placement.label for placement in first},
            watcher=_Silent(),
            max_ratio=None,
        )
        plan.reconcile()
        pool = Workers[Job](workers)
        while not plan.done():
            job = plan.next(pool.running) if pool.free else None
            if job is not None:
                pool.start(job, table.steps if job.kind == "trial" else 0)
                continue
            if not pool.running:
                break
            job = pool.wait()
            if job.kind == "trial":
                assert job.placement is not None
                plan.finished(job, table.outcome(job.placement, recorded))
                trained.append((pool.spent, job.placement))
            else:
                plan.finished(job, {"latency_context": "replayed"} if job.kind == "base" else {})
        catalog.close()
    return Run.of(table, recorded, trained)

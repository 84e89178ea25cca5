"""Our own search on a recorded table: plan, catalog and study as in a live search, only the workers are simulated."""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.runs import Run, Workers, references, space_of
from cluster.jobs import Job
from objectives.placement import Placement
from objectives.tabular import Table
from search.catalog.store import Catalog
from search.plan import SearchPlan
from search.strategy.additive_sampler import SHARE
from search.strategy.fidelity import rungs
from search.study import Study


class Silent:
    def stands(self, *_: Any) -> None: ...
    def trial_started(self, *_: Any) -> None: ...
    def trial_stopped(self, *_: Any) -> None: ...
    def trial_finished(self, *_: Any) -> None: ...
    def phase(self, *_: Any) -> None: ...

    def note(self, *_: Any) -> None: ...


def replay(
    table: Table, strategy: str, *, seed: int, budget: int, workers: int, as_live: bool = False, pack: int = 1
) -> Run:
    """A search by a strategy of `--strategy`, to the steps of ``budget`` whole trainings, without settling before.

    A strategy that stops trials on the way begins as many as share these steps; what runs when they are spent does not
    count, as with other people's tuners. ``as_live``: ``budget`` counts trials, as `run` does it. ``seed`` is the
    strategy's, and chooses the recorded seed whose figures it sees.
    """
    recorded = table.seeds[seed % len(table.seeds)]
    ceiling = budget * table.steps
    if strategy == "additive" and not as_live and len(rungs(table.steps)) > 1:
        budget = int(budget / SHARE)
    budget = min(budget, len(table.placements))
    trained: list[tuple[int, Placement]] = []
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(f"sqlite:///{folder}/search.db")
        search = catalog.create_search("replay", {}, {})
        space = space_of(table)
        first = references(table)
        study = Study(
            catalog.url,
            search.id,
            space,
            strategy=strategy,
            references=first,
            budget=budget,
            seed=seed,
            steps=table.steps,
        )
        plan = SearchPlan(
            catalog,
            study,
            search.id,
            budget=budget,
            references={placement: placement.label for placement in first},
            watcher=Silent(),
            steps=table.steps,
            pack=pack,
            settle=False,
        )
        plan.reconcile()
        pool = Workers[Job](workers)
        reached: dict[int | None, int] = {}
        while not plan.done():
            may_begin = pool.free and (as_live or pool.spent < ceiling)
            job = plan.next() if may_begin else None
            if job is not None:
                to = (job.parts[0].until or table.steps) if job.kind in ("trial", "pack") else 0
                pool.start(job, to - reached.get(job.parts[0].number, 0) if to else 0, len(job.parts))
                reached |= {part.number: to for part in job.parts}
                continue
            if not pool.running:
                break
            job = pool.wait()
            if pool.spent > ceiling and not as_live:
                break
            for part in job.parts:
                if part.kind != "trial":
                    plan.finished(part, {"latency_context": "replayed"} if part.kind == "base" else {})
                    continue
                assert part.placement is not None
                outcome = table.outcome(part.placement, recorded, part.until)
                plan.finished(part, outcome)
                if outcome["status"] == "complete":
                    trained.append((pool.spent, part.placement))
        catalog.close()
    return Run.of(table, recorded, trained, pool.spent if as_live else min(pool.spent, ceiling))

"""A search whose workers are made up: plan, study and catalog are real."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.replay import Silent
from cluster.jobs import Job
from objectives.placement import Placement
from search.catalog.records import TrialRecord
from search.catalog.store import Catalog
from search.plan import SearchPlan
from search.strategy.space import PlacementSpace
from search.study import Study
from search.watcher import Watcher

GROUPS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
STEPS = 200


def outcome(placement: Placement, until: int | None, *, fails: bool = False) -> dict[str, Any]:
    """Additive, with noise of its own for each placement; ``fails`` at its end."""
    noise = np.random.default_rng(int(placement.digest[:8], 16)).normal(0, 0.02)
    gain = 0.08 * len(placement.groups) + noise
    steps = until or STEPS
    losses = [[step, 2.0 - gain * step / STEPS] for step in range(10, steps + 1, 10)]
    ratio = 1 + 0.1 * len(placement.groups)
    latency = {"ratio": ratio, "ratio_ci": [ratio, ratio]}
    seconds = {"training": 1.0} | ({"latency": 0.5} if steps == 20 else {"evaluation": 0.25})
    measurement: dict[str, Any] = {"losses": losses, "latency": latency, "seconds": seconds, "parameters": 1}
    if steps < STEPS:
        return {"status": "stopped", "reason": None, "steps": steps, "measurement": measurement}
    if fails:
        return {"status": "failed", "reason": "out of memory", "steps": steps, "measurement": measurement}
    measurement["validation"] = {"accuracy": 0.3 + gain, "loss": 2.0 - gain, "standard_error": 0.02}
    done = {"status": "complete", "reason": None, "steps": steps, "measurement": measurement}
    return done | {"adapter": "nowhere", "adapter_sha256": "0"}


class Searched:
    """A search with workers that answer in the order in which they were asked."""

    def __init__(
        self,
        folder: Path,
        strategy: str,
        pack: int,
        budget: int = 24,
        groups: tuple[str, ...] = GROUPS,
        cap: float | None = None,
        watcher: Watcher | None = None,
        champion: Placement | None = None,
        baseline: Placement | None = None,
    ) -> None:
        self.watcher, self.champion, self.baseline = watcher or Silent(), champion, baseline
        self.catalog = Catalog(f"sqlite:///{folder / 'search.db'}")
        self.search = self.catalog.create_search("packs", {}, {})
        self.pack, self.space = pack, PlacementSpace(groups, (8,))
        self.given: list[Job] = []
        self.reached: Counter[int] = Counter()
        self.fails, self.cap = False, cap
        self.begin(strategy, budget)

    def begin(self, strategy: str, budget: int) -> None:
        references = [Placement.of(["o_proj"], 8), Placement.of(["q_proj", "v_proj"], 8)]
        self.study = Study(
            self.catalog.url, self.search.id, self.space, strategy=strategy, references=references,
            budget=budget, seed=0, steps=STEPS, max_ratio=self.cap, again=[self.baseline] if self.baseline else [],
        )  # fmt: skip
        self.plan = SearchPlan(
            self.catalog, self.study, self.search.id, budget=budget, references={}, watcher=self.watcher, steps=STEPS,
            pack=self.pack, settle=False, champion=self.champion, baseline=self.baseline,
        )  # fmt: skip
        self.plan.reconcile()

    def resume(self, strategy: str, budget: int) -> None:
        self.study.close()
        self.begin(strategy, budget)

    def trials(self) -> list[TrialRecord]:
        return self.catalog.trials(self.search.id)

    def close(self) -> None:
        self.study.close()
        self.catalog.close()

    def run(self, workers: int, until: int | None = None) -> None:
        """To its end, or to the end of so many jobs."""
        busy: list[Job] = []
        while not self.plan.done() and (until is None or len(self.given) < until):
            while len(busy) < workers and (job := self.plan.next()) is not None:
                busy.append(job)
                self.given.append(job)
            if not busy:
                break
            for part in (job := busy.pop(0)).parts:
                self.end(job, part)

    def end(self, job: Job, part: Job) -> None:
        if part.kind == "trial":
            assert part.placement is not None
            assert part.number is not None
            begins = {self.reached[each.number or 0] for each in job.parts}
            assert len(begins) == len({each.until for each in job.parts}) == 1, "one pass goes from one step to another"
            found = outcome(part.placement, part.until, fails=self.fails)
            if self.cap is not None and found["measurement"]["latency"]["ratio"] > self.cap:
                found |= {"status": "infeasible", "reason": "too slow", "steps": 0}
            self.plan.finished(part, found)
        else:
            self.plan.finished(part, {"latency_context": "none"} if part.kind == "base" else {"accuracy": 0.5})
        if job.kind in ("trial", "pack") and part is job.parts[-1]:
            for each in job.parts:
                self.reached[each.number or 0] = each.until or STEPS

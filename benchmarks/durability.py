"""What durability costs the process that drives a search, and how busy it keeps many workers.

    python -m benchmarks.durability [--trials 300] [--workers 64] [--seconds 30] [--backends sqlite,postgresql]

The real plan, study, lease, catalog and outbox; only trainings are made up, and last as long as `--seconds` says (drawn
from half to one and a half of it). A clock is simulated: workers train side by side on it, and the wall time that the
driver really takes for each call is added, one call after the other, since there is one driver. Busy is training time
over that of all workers from first to last. Ray Tune's own loop is not in it, nor MLflow: the outbox is filled, and
another thread would empty it.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from benchmarks.arguments import positive, some_of
from benchmarks.asking import LARGE, STEPS, measured, worth
from benchmarks.databases import BACKENDS, database
from benchmarks.replay import Silent
from cluster.jobs import Job
from search import plan
from search.catalog.store import Catalog
from search.lease import Lease
from search.names import STRATEGIES
from search.plan import SearchPlan
from search.study import Study

#: What the parts of a trial are, by the methods that do them.
PARTS = (
    (Study, "decide", "ask"),
    (Study, "ask", "ask"),
    (Lease, "check", "lease"),
    (Catalog, "add_trial", "record"),
    (Catalog, "record", "record"),
    (plan, "good_profile", "record"),
    (plan, "store_profile", "record"),
    (Study, "tell", "tell"),
)


def timed(kind: Any, method: str, part: str, spent: defaultdict[str, float]) -> None:
    real = getattr(kind, method)

    def measured(*args: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return real(*args, **named)
        finally:
            spent[part] += time.process_time() - began

    setattr(kind, method, measured)


def drive(
    url: str, strategy: str, trials: int, workers: int, seconds: float, spent: defaultdict[str, float]
) -> tuple[float, ...]:
    """Busy share; CPU and wall seconds of the driver a trial; wall seconds of the last tenth's trials."""
    random = np.random.default_rng(0)
    clock = trained = cpu = wall = 0.0
    marks: list[float] = []
    running: list[tuple[float, int, Job]] = []
    reached: dict[int | None, int] = {}  # steps of trials, which may stop on the way and go on

    def driver(call: Callable[..., Any], *args: Any) -> Any:
        nonlocal clock, cpu, wall
        began, used = time.perf_counter(), time.process_time()
        result = call(*args)
        took = time.perf_counter() - began
        clock, wall, cpu = clock + took, wall + took, cpu + time.process_time() - used
        return result

    with closing(Catalog(url)) as catalog:
        search = catalog.create_search("replay", {}, {})
        with Lease(catalog, search.id, search.name) as lease:
            study = Study(
                catalog.url, search.id, LARGE, strategy=strategy, references=(), budget=trials, seed=0, steps=STEPS
            )
            plan = SearchPlan(
                catalog,
                study,
                search.id,
                budget=trials,
                references={},
                watcher=Silent(),
                steps=STEPS,
                settle=False,
                check=lease.check,
            )
            plan.reconcile()
            base = plan.next()
            assert base is not None
            plan.finished(base, {"latency_context": "replayed"})
            given = 0
            while True:
                job = driver(plan.next) if len(running) < workers else None
                if job is not None and job.kind == "trial":
                    steps = (job.until or STEPS) - reached.get(job.number, 0)
                    reached[job.number] = job.until or STEPS
                    duration = seconds * float(random.uniform(0.5, 1.5)) * steps / STEPS
                    trained += duration
                    heapq.heappush(running, (clock + duration, given, job))
                    given += 1
                    continue
                if not running:
                    break
                end, _, back = heapq.heappop(running)
                clock = max(clock, end)
                driver(plan.finished, back, outcome(back, random))
                marks.append(wall)
    last = marks[-len(marks) // 10 :]
    return trained / (workers * clock), cpu / trials, wall / trials, (last[-1] - last[0]) / max(len(last) - 1, 1)


def outcome(job: Job, random: np.random.Generator) -> dict[str, Any]:
    """As of a worker that trained the job's placement as far as it asks."""
    assert job.placement is not None
    steps = job.until or STEPS
    accuracy, ratio, course = worth(job.placement, random)
    answer = {"reason": None, "steps": steps, "measurement": measured(accuracy, ratio, course[-1], steps)}
    return answer | ({"status": "complete", "adapter": "replayed"} if steps == STEPS else {"status": "stopped"})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=positive, default=300)
    parser.add_argument("--workers", type=positive, default=64)
    parser.add_argument("--seconds", type=float, default=30.0, help="mean length of a trial")
    parser.add_argument("--strategy", choices=STRATEGIES, default="tpe")
    parser.add_argument("--backends", type=some_of(BACKENDS), default=",".join(BACKENDS))
    args = parser.parse_args(argv)
    spent: defaultdict[str, float] = defaultdict(float)
    for kind, method, part in PARTS:
        timed(kind, method, part, spent)
    parts = list(dict.fromkeys(part for _, _, part in PARTS))
    print(
        f"| database | strategy | trials | {' | '.join(f'{part}, CPU ms' for part in parts)} | driver, CPU ms | ",
        end="",
    )
    print("driver, wall ms | wall ms at the end | busy |\n|" + " --- |" * (len(parts) + 7))
    for backend in args.backends:
        spent.clear()
        with database(backend) as url:
            busy, *took = drive(url, args.strategy, args.trials, args.workers, args.seconds, spent)
        cells = [f"{1000 * spent[part] / args.trials:.1f}" for part in parts] + [f"{1000 * each:.1f}" for each in took]
        print(f"| {backend} | {args.strategy} | {args.trials:,} | {' | '.join(cells)} | {busy:.1%} |", flush=True)


if __name__ == "__main__":
    main()

"""A program: a search replayed from a table, in processes that are killed, with real catalog, lease, study and MLflow.

The parent imports everything once and forks a child for each life of the driver, so that a kill costs no import.
Boundaries are reached by wrapping the real methods here; the product knows nothing of them.

    python -m tests.faults.replayed FOLDER TABLE.json KILLS STRATEGY

Its homes are FOLDER/whole, where nobody is killed, and FOLDER/cut.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow  # noqa: F401  # so that no child pays for it

from benchmarks.replay import Silent
from cluster.jobs import Job
from objectives.placement import Placement
from search.catalog.store import Catalog
from search.lease import Lease
from search.mlflow_runs import MlflowRuns
from search.plan import SearchPlan
from search.result import result_document
from search.spec import SearchSpec
from search.strategy.space import PlacementSpace
from search.study import Study
from search.tracking import Tracker
from tests.faults.places import act_at

BUDGET = 24
BOUNDARIES = ("asked", "leased", "dispatched", "trained", "committed", "told", "logged")
GROUPS, RANK = ("k_proj", "o_proj", "q_proj", "up_proj", "v_proj", "down_proj"), 8
SPEC = SearchSpec(budget=BUDGET, seed=5, training_seed=5, steps=200, ranks=(RANK,), learning_rate=1e-3).to_json()
FACTS: dict[str, Any] = {
    "model": "replayed",
    "data": "table",
    "metric": "accuracy",
    "task": "classification",
    "groups": list(GROUPS),
}
FACTS |= {"notes": [], "versions": {}, "labels": [], "template": "{text}", "kind": "decoder", "command": "replayed"}
FACTS |= {"data_hash": "none", "structure": "none"}


BASE, TEST = {"latency_context": "replayed"}, {"accuracy": 0.5, "accuracy_ci": [0.4, 0.6], "rows": 500}


def train(job: Job, table: dict[str, Any], home: Path) -> dict[str, Any]:
    assert job.placement is not None
    outcome: dict[str, Any] = json.loads(json.dumps(table[job.placement.label]))
    note(home, f"trained {job.number}")
    return outcome


def note(home: Path, text: str) -> None:
    with (home / "events").open("a") as events:
        events.write(text + "\n")


def live(home: Path, table: dict[str, Any], strategy: str, boundary: str | None, countdown: int) -> None:
    """One life of a driver: resume the search, or begin it, to its end or to its kill."""
    places = {
        "asked": (Study, "ask"),
        "leased": (Catalog, "add_trial"),
        "dispatched": (SearchPlan, "_next_trial"),
        "committed": (Catalog, "record"),
        "told": (Study, "tell"),
        "logged": (MlflowRuns, "deliver"),
    }
    if boundary in places:
        act_at(*places[boundary], countdown)
    trained = 0
    with closing(Catalog(f"sqlite:///{home}/search.db")) as catalog:
        found = catalog.searches()
        search = found[0] if found else catalog.create_search("replayed", SPEC, FACTS)
        with Lease(catalog, search.id, search.name) as lease:
            tracker = Tracker(
                catalog,
                f"sqlite:///{home}/mlflow.db",
                home / "mlartifacts",
                lambda key: result_document(catalog, catalog.search_of(key)),
            )
            space = PlacementSpace(GROUPS, (RANK,))
            first = [Placement.of(["o_proj"], RANK), Placement.of(["q_proj", "v_proj"], RANK)]
            study = Study(
                catalog.url, search.id, space, strategy=strategy, references=first, budget=BUDGET, seed=5, steps=200
            )
            plan = SearchPlan(
                catalog,
                study,
                search.id,
                budget=BUDGET,
                references={placement: placement.label for placement in first},
                watcher=Silent(),
                steps=200,
                settle=False,
                retries=1000,
                check=lease.check,
            )
            catalog.set_status(search.id, "running")
            plan.reconcile()
            while not plan.done():
                job = plan.next()
                if job is None:
                    break
                if job.kind != "trial":
                    plan.finished(job, BASE if job.kind == "base" else TEST)
                    continue
                outcome = train(job, table, home)
                trained += 1
                if boundary == "trained" and trained == countdown:
                    os.kill(os.getpid(), signal.SIGKILL)
                plan.finished(job, outcome)
                if boundary == "logged":
                    tracker.drain()
            catalog.set_status(search.id, "complete")
            tracker.stop(60.0)


def main(home: Path, table_file: Path, kills: int, strategy: str) -> Counter[str]:
    """How often which place was hit."""
    table = json.loads(table_file.read_text())
    draws, hits = random.Random(0), Counter[str]()
    while sum(hits.values()) < kills:
        made = sum(hits.values())
        # Every other one at a random moment, the rest at the boundaries by turns.
        boundary = BOUNDARIES[made // 2 % len(BOUNDARIES)] if made % 2 else None
        moment = draws.uniform(0.01, 0.12)
        child = os.fork()
        if child == 0:
            if boundary is None:
                threading.Timer(moment, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
            live(home, table, strategy, boundary, 1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            hits[boundary or "random moment"] += 1
        else:
            assert os.waitstatus_to_exitcode(status) == 0, f"a driver ended with status {status}"
            break
    child = os.fork()
    if child == 0:
        live(home, table, strategy, None, 0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return hits


if __name__ == "__main__":
    folder, table_file, strategy = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4]
    main(folder / "whole", table_file, 0, strategy)
    print(json.dumps(main(folder / "cut", table_file, int(sys.argv[3]), strategy)))

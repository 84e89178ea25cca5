"""The simulated workers answer as real ones do."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

import numpy as np
import pytest

from benchmarks.asking import STEPS
from benchmarks.databases import database
from benchmarks.durability import drive, outcome
from cluster.jobs import Job
from objectives.placement import Placement
from search.catalog.store import Catalog


@pytest.mark.parametrize(("until", "status", "steps"), [(20, "stopped", 20), (STEPS, "complete", STEPS)])
def test_a_job_is_answered_as_far_as_it_goes(until: int, status: str, steps: int) -> None:
    job = Job("trial", 3, Placement.of(["q_proj@low"], 8), until=until)
    answer = outcome(job, np.random.default_rng(0))
    assert (answer["status"], answer["steps"]) == (status, steps)
    assert answer["measurement"]["losses"][-1][0] == steps
    assert ("validation" in answer["measurement"]) == (status == "complete")


def test_trials_stop_on_the_way() -> None:
    with database("sqlite") as url:
        busy, *_ = drive(url, "additive", 48, 4, 1000.0, Counter())
        with closing(Catalog(url)) as catalog:
            trials = catalog.trials(catalog.search("replay").id)
    assert 0.8 < busy <= 1
    steps = {status: {trial.steps for trial in trials if trial.status == status} for status in ("complete", "stopped")}
    assert steps["complete"] == {STEPS}
    assert steps["stopped"]
    assert max(steps["stopped"]) < STEPS

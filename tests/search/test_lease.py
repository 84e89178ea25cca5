"""One owner of a search at a time, on every backend; who has lost it changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import optuna
import pytest
from sqlalchemy import create_engine, text

from benchmarks.replay import Silent
from objectives.errors import LeaseLost, RequestError
from objectives.placement import Placement
from search.admission import create
from search.catalog import Catalog
from search.catalog.outbox import backlog
from search.home import Home
from search.lease import Lease
from search.plan import SearchPlan
from search.prepare import Prepared
from search.spec import SearchSpec
from search.strategy.space import PlacementSpace
from search.study import Study
from tests.commands import call

O_PROJ = Placement.of(["o_proj"], 8)


def shift_expiry(catalog: Catalog, moment: str) -> None:
    """As if the owner had been silent for so long, or had gone with its machine."""
    with create_engine(catalog.url).begin() as connection:
        connection.execute(text(f"UPDATE catalog_leases SET expires_at = '{moment}'"))


def test_a_second_owner_is_refused_and_told_who_holds_it(catalog: Catalog) -> None:
    other = Catalog(catalog.url)
    made = catalog.create_search("a", {}, {})
    with Lease(catalog, made.id, "a") as lease:
        lease.check()
        with pytest.raises(
            RequestError,
            match=(
                r"^search a is being run by process \d+ on \S+, which holds it until \d\d:\d\d:\d\d UTC: "
                r"wait for it, or stop it first$"
            ),
        ):
            Lease(other, made.id, "a").__enter__()
    with Lease(other, made.id, "a"):
        assert catalog.holder(made.id)
    assert catalog.holder(made.id) is None
    other.close()


def test_of_many_at_once_one_owns_it(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    catalogs = [Catalog(catalog.url) for _ in range(6)]
    with ThreadPoolExecutor(6) as threads:
        others = list(threads.map(lambda each: each.take(made.id), catalogs))
    assert others.count(None) == 1
    for each in catalogs:
        each.close()


def test_what_a_lost_owner_brings_is_late_and_changes_nothing(catalog: Catalog) -> None:
    slow, quick = Catalog(catalog.url), Catalog(catalog.url)
    made = catalog.create_search("a", {}, {})
    with Lease(slow, made.id, "a") as lease:
        slow.add_trial(made.id, 0, O_PROJ, None)
        shift_expiry(catalog, "2020-01-01 00:00:00.000000")
        lease.check()  # nobody took it: it is still ours
        assert quick.take(made.id) is None
        with pytest.raises(
            LeaseLost, match=r"^search a was taken over by another process while this one did not answer"
        ):
            lease.check()
        assert not slow.renew(made.id)
        assert not slow.record(made.id, 0, "complete", measurement={"by": "slow"}, adapter="a/0")
        for write in (
            lambda: slow.add_trial(made.id, 1, Placement.of(["q_proj"], 8), None),
            lambda: slow.set_status(made.id, "failed"),
            lambda: slow.set_base(made.id, {}),
            lambda: slow.record_test(made.id, 0, {}),
        ):
            with pytest.raises(LeaseLost):
                write()
    trial = catalog.trial(made.id, 0)
    assert (trial.status, trial.measurement, trial.late) == ("running", None, 1)
    quick.restart(made.id, 0)
    assert quick.record(made.id, 0, "complete", measurement={"by": "quick"})
    assert not slow.record(made.id, 0, "complete", measurement={"by": "slow"})
    trial = catalog.trial(made.id, 0)
    assert (trial.measurement, trial.late, trial.attempts) == ({"by": "quick"}, 2, 2)
    assert catalog.holder(made.id), "the end of the lost owner does not release what it lost"
    slow.close()
    quick.close()


def test_an_expired_lease_that_nobody_took_is_renewed(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    with Lease(catalog, made.id, "a"):
        shift_expiry(catalog, "2020-01-01 00:00:00.000000")
        assert catalog.holder(made.id) is None
        assert catalog.renew(made.id)
        assert catalog.holder(made.id)


def test_the_lease_of_a_process_that_died_here_is_taken_at_once(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    program = (
        "import os, sys; from search.catalog import Catalog; from objectives.placement import Placement\n"
        "catalog = Catalog(sys.argv[1]); assert catalog.take(sys.argv[2]) is None\n"
        "catalog.add_trial(sys.argv[2], 0, Placement.of(['o_proj'], 8), None); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, catalog.url, made.id], timeout=60).returncode == -9
    assert catalog.trial(made.id, 0).lease
    assert catalog.holder(made.id) is None
    with Lease(catalog, made.id, "a"):
        assert catalog.holder(made.id)


def test_an_orderly_end_puts_back_what_runs(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    with Lease(catalog, made.id, "a"):
        catalog.add_trial(made.id, 0, O_PROJ, None)
        assert catalog.trial(made.id, 0).lease
    assert (catalog.trial(made.id, 0).status, catalog.trial(made.id, 0).lease) == ("running", None)


def test_sixteen_writers_at_once_lose_nothing(catalog: Catalog) -> None:
    """Each owns a search of its own on the same database."""

    def write(number: int) -> None:
        mine = Catalog(catalog.url)
        made = mine.create_search(f"s{number}", {}, {})
        with Lease(mine, made.id, made.name):
            for trial in range(5):
                mine.add_trial(made.id, trial, Placement.of(["o_proj"], trial + 1), None)
                assert mine.record(made.id, trial, "complete", measurement={"by": number})
        mine.close()

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(write, range(16)))
    searches = catalog.searches()
    assert len(searches) == 16
    assert {len(catalog.trials(search.id)) for search in searches} == {5}
    assert backlog(catalog) == 16 * 6


def first_trial_of_lives(
    catalog: Catalog, search_id: str, lives: int, *, orderly: bool
) -> list[tuple[int | None, int]]:
    """The trial that each of so many owners gives out first, and how often the first of all was attempted by then."""
    seen = []
    for _ in range(lives):
        with create_engine(catalog.url).begin() as connection:
            connection.execute(text("DELETE FROM catalog_leases"))  # a kill leaves its trials with a lease that is gone
        life = Catalog(catalog.url)
        assert life.take(search_id) is None
        space = PlacementSpace(("o_proj", "q_proj"), (8,))
        study = Study(life.url, search_id, space, strategy="grid", references=(), budget=3, seed=0)
        plan = SearchPlan(life, study, search_id, budget=3, references={}, watcher=Silent(), retries=2)
        life.set_base(search_id, {"latency_context": "none"})
        plan.reconcile()
        job = plan.next()
        assert job is not None
        seen.append((job.number, life.trial(search_id, 0).attempts))
        if orderly:
            life.release(search_id)
        life.close()
    return seen


def test_ends_in_order_are_not_held_against_a_trial(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    assert first_trial_of_lives(catalog, made.id, 5, orderly=True) == [(0, 1)] * 5


def test_a_trial_whose_process_dies_each_time_has_failed_after_its_retries(catalog: Catalog) -> None:
    made = catalog.create_search("a", {}, {})
    assert first_trial_of_lives(catalog, made.id, 4, orderly=False) == [(0, 1), (0, 2), (0, 3), (1, 3)]
    trial = catalog.trial(made.id, 0)
    assert trial.status == "failed"
    assert trial.reason == "interrupted 3 times: the process that ran the search died each time"
    states = [trial.state.name for trial in optuna.load_study(study_name=made.id, storage=catalog.url).get_trials()]
    assert states == ["FAIL", "RUNNING"]


def test_the_commands_refuse_a_search_that_another_process_holds(tmp_path: Path) -> None:
    with closing(Catalog(f"sqlite:///{tmp_path}/search.db")) as catalog:
        made = catalog.create_search("a", {}, {})
        with Lease(catalog, made.id, "a"):
            who = rf"process {os.getpid()} on \S+, which holds it until \d\d:\d\d:\d\d UTC"
            refused = call("resume", "a", "--home", str(tmp_path), code=2).stderr
            assert re.fullmatch(rf"error: search a is being run by {who}: wait for it, or stop it first\n", refused)
            refused = call("run", "--name", "a", "--home", str(tmp_path), code=2).stderr
            assert re.fullmatch(
                rf"error: a search named 'a' exists already and is being run by {who}: choose another --name\n", refused
            )


def test_of_two_runs_of_one_name_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    """Both began before either search was there, so that only the last look at the name refuses."""
    prepared = cast(Prepared, SimpleNamespace(spec=SearchSpec(name="a"), facts={}))
    home = Home.at(tmp_path, None, None)
    with closing(Catalog(home.storage)) as catalog:
        made = catalog.create_search("a", {}, {})
        with (
            Lease(catalog, made.id, "a"),
            pytest.raises(RequestError, match=rf"being run by process {os.getpid()} on .* UTC: choose another --name$"),
        ):
            create(catalog, prepared.spec, prepared, home)
        with pytest.raises(RequestError, match=rf"`python -m search resume a --home {tmp_path}`$"):
            create(catalog, prepared.spec, prepared, home)

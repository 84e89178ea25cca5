"""Which trials a job has, and that every one of them is accounted for."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.replay import Silent
from cluster.jobs import Job
from objectives.errors import SearchError
from objectives.latency.context import profile_key
from objectives.placement import Placement
from search.catalog.profiles import good_profile, store_profile
from search.catalog.store import Catalog
from search.pareto import front
from search.plan import SearchPlan
from search.strategy.space import PlacementSpace
from search.study import Study
from search.watcher import Standing
from tests.search.searched import GROUPS, STEPS, Searched, outcome


@pytest.mark.parametrize("strategy", ["additive", "tpe"])
@pytest.mark.parametrize("workers", [1, 2])
def test_every_trial_is_in_packs_and_ends_once(tmp_path: Path, strategy: str, workers: int) -> None:
    with closing(Searched(tmp_path, strategy, pack=5)) as searched:
        searched.run(workers)
        sizes = [len(job.parts) for job in searched.given if job.kind in ("trial", "pack")]
        assert max(sizes) == 5
        trials = searched.catalog.trials(searched.search.id)
        assert len({trial.digest for trial in trials}) == len(trials) == 24
        ended = Counter(trial.status for trial in trials)
        assert ended["complete"] + ended["stopped"] == 24
        assert (ended["stopped"] > 0) == (strategy == "additive")
        assert searched.study.unfinished() == []
        if strategy == "tpe":
            assert Counter(sizes) == {5: 4, 4: 1}


def test_of_two_that_are_equal_the_one_of_the_result_is_tested_whichever_ended_first(tmp_path: Path) -> None:
    """On a server placements of one class have one ratio, and accuracies over a few hundred rows are often equal."""
    with closing(Searched(tmp_path, "tpe", pack=1, budget=2)) as searched:
        plan = searched.plan
        base, *trials = (plan.next() for _ in range(3))
        assert base is not None
        plan.finished(base, {"latency_context": "none"})
        for job in reversed(trials):
            assert job is not None
            plan.finished(job, outcome(Placement.of(["o_proj"], 8), None))
        searched.run(1)
        assert [trial.number for trial in searched.trials() if trial.test] == front([(0.5, 1.1)] * 2) == [0]


def test_without_packs_there_are_none(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "additive", pack=1)) as searched:
        searched.run(2)
        assert {job.kind for job in searched.given} == {"base", "trial", "test"}


def begun(plan: SearchPlan) -> tuple[Job, Job]:
    """The job of the base model, and the one after it."""
    base, job = plan.next(), plan.next()
    assert base is not None
    assert job is not None
    return base, job


def test_the_test_split_is_read_again_where_a_worker_dies_over_it(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "random", pack=1, budget=2)) as searched:
        searched.run(1, until=3)  # the base model and both trials
        lost = searched.plan.next()
        assert lost is not None and lost.kind == "test"
        searched.plan.lost(lost, "the worker died")
        searched.run(1)
        assert searched.given[3] == lost
        assert searched.plan.done(), "else it would wait for ever"


def test_what_runs_whole_is_in_no_pack_of_trials_that_may_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a series' champion does: a pack goes to one step, and would end it there or train all others whole."""
    with closing(Searched(tmp_path, "additive", pack=3)) as searched:
        monkeypatch.setattr(searched.study, "until", lambda number, early: STEPS if number == 1 else STEPS // 10)
        _, pack = begun(searched.plan)
        assert [part.number for part in pack.parts] == [0, 2]
        then = searched.plan.next()
        assert then is not None
        assert 1 not in [part.number for part in then.parts] or then.until == STEPS


def test_trials_of_a_lost_pack_come_back_one_by_one(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "tpe", pack=3, budget=6)) as searched:
        plan = searched.plan
        base, pack = begun(plan)
        plan.finished(base, {"latency_context": "none"})
        assert [part.number for part in pack.parts] == [0, 1, 2]
        for part in pack.parts:
            plan.lost(part, "the worker died")
        assert not plan.done()
        assert [plan.next() for _ in pack.parts] == list(pack.parts)
        for part in pack.parts[1:]:
            assert part.placement is not None
            plan.finished(part, outcome(part.placement, part.until))
        for _ in range(2):
            plan.lost(pack.parts[0], "the worker died")
            again = plan.next()
        assert again is not None
        assert again.kind == "pack"  # the next three: the first trial has died too often
        trials = searched.catalog.trials(searched.search.id)
        assert [trial.status for trial in trials[:3]] == ["failed", "complete", "complete"]
        searched.given.append(again)
        for part in again.parts:
            searched.end(again, part)
        searched.run(1)
        assert Counter(trial.status for trial in searched.catalog.trials(searched.search.id)) == {
            "complete": 5,
            "failed": 1,
        }


def test_trials_of_a_pack_that_raised_are_tried_alone_without_retries_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is to blame, and no process died."""
    with closing(Searched(tmp_path, "tpe", pack=3, budget=3)) as searched:
        plan = searched.plan
        monkeypatch.setattr(plan, "_retries", 0)
        base, pack = begun(plan)
        plan.finished(base, {"latency_context": "none"})
        plan.failed(pack, "IndexError: no")
        assert not plan.done()
        assert [plan.next() for _ in pack.parts] == list(pack.parts)
        plan.failed(pack.parts[0], "IndexError: no")
        for part in pack.parts[1:]:
            assert part.placement is not None
            plan.finished(part, outcome(part.placement, part.until))
        found = [(trial.status, trial.reason, trial.attempts) for trial in searched.trials()]
        assert found == [("failed", "IndexError: no", 1), ("complete", None, 1), ("complete", None, 1)]


def test_a_trial_that_fails_before_the_base_model_is_measured_is_the_last_until_then(tmp_path: Path) -> None:
    """A worker that started sooner than that of the base model tried the whole budget, which all failed alike."""
    with closing(Searched(tmp_path, "tpe", pack=1, budget=6)) as searched:
        plan = searched.plan
        base, first = begun(plan)
        plan.failed(first, "IndexError: no")
        assert plan.next() is None
        assert not plan.done()
        plan.finished(base, {"latency_context": "none"})
        searched.run(1)
        assert Counter(trial.status for trial in searched.trials()) == {"failed": 1, "complete": 5}


def test_latencies_that_another_machine_measured_are_kept_as_its_own(tmp_path: Path) -> None:
    """A search that goes on elsewhere keeps the context of its base model, and each trial the latency that it has."""
    with closing(Searched(tmp_path, "additive", pack=1)) as searched:
        base = searched.plan.next()
        assert base is not None
        searched.plan.finished(base, {"latency_context": "here"})
        went_on: set[int | None] = set()
        while len(went_on) < 2 and (job := searched.plan.next()) is not None:
            assert job.placement is not None
            found = outcome(job.placement, job.until)
            latency = found["measurement"]["latency"]
            if searched.reached[job.number or 0]:
                assert job.profile == latency
                went_on.add(job.number)
            else:
                assert job.profile is None
                found["latency_context"] = "elsewhere"
            searched.plan.finished(job, found)
            searched.reached[job.number or 0] = job.until or STEPS
            label = job.placement.label
            assert good_profile(searched.catalog, profile_key("elsewhere", label)) == latency
            assert good_profile(searched.catalog, profile_key("here", label)) is None
        assert went_on


def test_the_champion_is_timed_anew_and_others_as_they_were_before(tmp_path: Path) -> None:
    champion, other = Placement.of(["o_proj"], 8), Placement.of(["q_proj", "v_proj"], 8)
    with closing(Searched(tmp_path, "tpe", pack=1, champion=champion)) as searched:
        known = {placement: outcome(placement, None)["measurement"]["latency"] for placement in (champion, other)}
        for placement, latency in known.items():
            store_profile(searched.catalog, profile_key("here", placement.name), latency)
        base = searched.plan.next()
        assert base is not None
        searched.plan.finished(base, {"latency_context": "here"})
        jobs = {job.placement: job for _ in range(2) if (job := searched.plan.next()) is not None}
        assert jobs[champion].profile is None
        assert jobs[other].profile == known[other]


def test_the_champion_is_read_on_the_test_split_though_it_is_not_on_the_front(tmp_path: Path) -> None:
    """Whether it stays is decided there."""
    champion, front_alone = None, set()
    for name in ("without", "with"):
        (folder := tmp_path / name).mkdir()
        with closing(Searched(folder, "random", pack=1, budget=12, champion=champion)) as searched:
            searched.run(1)
            tested = {trial.placement for trial in searched.trials() if trial.test}
            if champion is None:
                front_alone = tested
                champion = next(trial.placement for trial in searched.trials() if not trial.test)
    assert tested == front_alone | {champion}


class Counted(Silent):
    """Every standing, in order."""

    def __init__(self) -> None:
        self.told: list[Standing] = []

    def stands(self, standing: Standing) -> None:
        self.told.append(standing)


def test_what_watchers_are_told_is_what_the_catalog_has(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "additive", pack=1, watcher=(counted := Counted()))) as searched:
        searched.run(1, until=20)
        by_status = Counter(trial.status for trial in searched.trials())
        now = counted.told[-1]
        assert (now.begun, now.stopped, now.stops_early) == (len(searched.trials()), by_status["stopped"], True)
        assert now.ended == {"complete": by_status["complete"]}
        assert now.steps == sum(trial.steps for trial in searched.trials())
        assert now.steps_left == 24 * STEPS // 2 - now.steps, "what its ceiling leaves"
        searched.run(1)
        end = counted.told[-1]
        assert end.ended == Counter(trial.status for trial in searched.trials())
        assert (end.begun, end.done, end.stopped, end.steps_left) == (24, 24, 0, 0)
        assert len(end.front) + len(end.dominated) == end.ended["complete"] > len(end.front)


def test_a_trial_whose_process_died_as_it_went_on_is_run_again_from_where_it_was(tmp_path: Path) -> None:
    """By the latency that it had, which a machine where the search goes on would find another."""
    with closing(Searched(tmp_path, "additive", pack=1, watcher=(counted := Counted()))) as searched:
        while (job := searched.plan.next()) is not None and not searched.reached[job.number or 0]:
            searched.end(job, job)
        assert job is not None
        assert job.placement is not None
        assert job.profile == outcome(job.placement, 20)["measurement"]["latency"]
        searched.resume("additive", budget=24)
        assert counted.told[-1].steps == sum(trial.steps for trial in searched.trials())
        assert searched.plan.next() == job


def test_of_a_trial_that_failed_no_steps_are_left(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "tpe", pack=1, budget=6, watcher=(counted := Counted()))) as searched:
        base, first = searched.plan.next(), searched.plan.next()
        assert base is not None
        assert first is not None
        searched.plan.finished(base, {"latency_context": "none"})
        assert counted.told[-1].steps_left == 6 * STEPS
        searched.plan.failed(first, "out of memory")
        assert counted.told[-1].steps_left == 5 * STEPS


def test_the_test_split_is_read_once_by_each_model_also_after_a_resume(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "random", pack=1, budget=6)) as searched:
        searched.run(1)
        searched.resume("random", budget=12)
        searched.run(1)
        read = Counter(job.number for job in searched.given if job.kind == "test")
        assert None in read
        assert set(read.values()) == {1}
        assert len(read) > 2


def test_the_seconds_of_a_trial_that_went_on_are_those_of_all_its_parts(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "additive", pack=1)) as searched:
        searched.run(1)
        parts = Counter(job.number for job in searched.given if job.kind == "trial")
        for trial in searched.trials():
            expected = {"training": float(parts[trial.number])}
            expected |= {"latency": 0.5} if parts[trial.number] > 1 or trial.status == "stopped" else {}
            expected |= {"evaluation": 0.25} if trial.steps > 20 else {}
            found = (trial.measurement or {})["seconds"]
            assert found["training"] == expected["training"]
            assert found.get("latency") == expected.get("latency")
        assert max(parts.values()) > 1


def test_a_search_that_settles_says_how_sure_it_is_of_what(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "additive", pack=1, budget=40, watcher=(counted := Counted()))) as searched:
        searched.plan._settle = True
        searched.run(1)
        begun = len(searched.trials())
        assert begun < 30
        sentence = (
            rf"settled after {begun} of 40 trials: the probability that any one more of them raises the front "
            r"by 2% is 1?\d%; several together may"
        )
        assert re.fullmatch(sentence, searched.plan.ended_by or "")
        assert counted.told[-1].steps_left == 0, "of a budget of more"


def test_a_search_whose_every_trial_fails_ends(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "additive", pack=1, budget=12, groups=("o_proj", "q_proj", "v_proj"))) as searched:
        searched.fails = True
        searched.run(1)
        assert {trial.status for trial in searched.trials()} == {"failed"}
        assert len(searched.trials()) == 7, "the whole space"
        assert searched.plan.done()


def test_the_one_placement_that_is_allowed_comes_to_its_end(tmp_path: Path) -> None:
    """The others of the space are too slow, and there is nothing to compare its losses with."""
    with closing(Searched(tmp_path, "additive", pack=1, budget=12, groups=("o_proj", "q_proj", "v_proj"))) as searched:
        only = Placement.of(["v_proj"], 8)
        while not searched.plan.done() and (job := searched.plan.next()) is not None:
            searched.given.append(job)
            if job.kind == "trial" and job.placement != only:
                measurement = {"latency": {"ratio": 2.0, "ratio_ci": [2.0, 2.0]}, "seconds": {}, "parameters": 1}
                infeasible = {"status": "infeasible", "reason": "too slow", "steps": 0, "measurement": measurement}
                searched.plan.finished(job, infeasible)
            else:
                searched.end(job, job)
        found = {trial.placement: (trial.status, trial.steps) for trial in searched.trials()}
        assert len(found) == 7
        assert found[only] == ("complete", STEPS)


@pytest.mark.parametrize("strategy", ["additive", "tpe", "random", "nsga2"])
def test_under_a_tight_cap_the_budget_goes_to_placements_that_are_fast_enough(tmp_path: Path, strategy: str) -> None:
    """Seven of 127, of one group each. The first few latencies tell that more groups are slower."""
    with closing(Searched(tmp_path, strategy, pack=1, cap=1.15)) as searched:
        searched.run(1)
        allowed = {trial.placement.label for trial in searched.trials() if trial.status == "complete"}
        assert allowed == {f"{group} r8" for group in GROUPS}
        first = [trial.status for trial in searched.trials()[:12]]
        assert first.count("complete") == 7, "the rest of the budget looks for what may have been misjudged"


def test_a_budget_that_is_raised_to_the_whole_space_ends_what_was_open(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "auto", pack=1, groups=GROUPS[2:])) as searched:
        searched.run(1, until=9)
        assert any(trial.status == "stopped" for trial in searched.trials())
        searched.resume("auto", budget=31)
        searched.run(1)
        assert [(trial.status, trial.steps) for trial in searched.trials()] == [("complete", STEPS)] * 31


def test_steps_of_a_trial_that_failed_on_the_way_were_spent(tmp_path: Path) -> None:
    with closing(Searched(tmp_path, "additive", pack=1)) as searched:
        searched.run(1, until=9)
        again = next(trial for trial in searched.trials() if trial.status == "stopped")
        assert again.steps == 20
        assert searched.catalog.go_on(searched.search.id, again.number)
        searched.plan._ledger.fail(again.number, "the worker died")
        failed = searched.catalog.trial(searched.search.id, again.number)
        assert (failed.status, failed.steps) == ("failed", 20)


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [("the worker died", "free memory"), ("the worker was ended, since its GPU met an error", "check the GPU")],
)
def test_a_base_model_that_kills_its_workers_ends_the_search(tmp_path: Path, cause: str, remedy: str) -> None:
    with closing(Catalog(f"sqlite:///{tmp_path / 'search.db'}")) as catalog:
        search = catalog.create_search("poison", {}, {})
        space = PlacementSpace(("q_proj",), (4,))
        study = Study(catalog.url, search.id, space, strategy="random", references=[], budget=1, seed=0)
        plan = SearchPlan(catalog, study, search.id, budget=1, references={}, watcher=Silent(), retries=1)
        job = plan.next()
        assert job == Job("base")
        plan.lost(job, cause)
        with pytest.raises(SearchError) as caught:
            plan.lost(job, cause)
        assert str(caught.value) == (
            f"{cause}: 2 times, while the base model was measured: {remedy}, then resume the search"
        )


def test_a_trial_that_kills_its_workers_fails_and_one_that_raises_is_not_tried_again(tmp_path: Path) -> None:
    with closing(Catalog(f"sqlite:///{tmp_path / 'search.db'}")) as catalog:
        search = catalog.create_search("poison", {}, {})
        space = PlacementSpace(("q_proj", "v_proj"), (4,))
        study = Study(catalog.url, search.id, space, strategy="random", references=[], budget=2, seed=0)
        plan = SearchPlan(catalog, study, search.id, budget=2, references={}, watcher=Silent(), settle=False)
        catalog.set_base(search.id, {"latency_context": "none"})
        plan.reconcile()
        job = plan.next()
        assert job is not None
        for _ in range(2):
            plan.lost(job, "the worker died")
            assert plan.next() == job
        plan.lost(job, "the worker died")
        other = plan.next()
        assert other is not None
        assert other.number != job.number
        plan.failed(other, "IndexError: no")
        assert plan.next() is None
        assert plan.done()
        trials = [(trial.status, trial.reason, trial.attempts) for trial in catalog.trials(search.id)]
        assert trials == [("failed", "the worker died: 3 times", 3), ("failed", "IndexError: no", 1)]
        assert study.unfinished() == []

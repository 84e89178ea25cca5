"""Ask and tell on a database: in agreement with what is known, whatever a process before left behind."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing

import optuna
import pytest
from optuna.trial import TrialState

from objectives.errors import LeaseLost, StoreError
from objectives.placement import Placement
from search.catalog import Catalog
from search.catalog.connect import BUSY_TIMEOUT_S
from search.names import STRATEGIES
from search.series import Known
from search.stored_study import StoredStudy
from search.strategy.space import PlacementSpace
from search.study import Study

SEARCH = "the search"
SPACE = PlacementSpace(("k_proj", "o_proj", "q_proj"), (4, 8))
GROUPS_OF_A_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture
def url(storage: str) -> str:
    """A database that the catalog has made, as in a search."""
    catalog = Catalog(storage)
    try:
        return catalog.url
    finally:
        catalog.close()


def open_study(
    url: str,
    space: PlacementSpace = SPACE,
    *,
    strategy: str = "tpe",
    references: Sequence[Placement] = (),
    seed: int = 0,
    cap: float | None = None,
) -> Study:
    return Study(url, SEARCH, space, strategy=strategy, references=references, budget=40, seed=seed, max_ratio=cap)


def figures(accuracy: float, ratio: float) -> dict[str, dict[str, float]]:
    return {"validation": {"accuracy": accuracy}, "latency": {"ratio": ratio}}


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=SEARCH, storage=url).trials


def worth(placement: Placement) -> tuple[float, float]:
    return 1 - 1 / (2 + len(placement.groups) * placement.rank), 1 + len(placement.groups) / 10


def test_a_locked_file_is_waited_for_as_long_as_the_catalog_does(sqlite: str) -> None:
    with closing(Catalog(sqlite)) as catalog:
        storage = StoredStudy(catalog.url, SEARCH, None)._storage
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000 * BUSY_TIMEOUT_S
    storage.engine.dispose()


@pytest.mark.parametrize(
    ("storage", "strategy"), [*(("sqlite", each) for each in STRATEGIES), ("postgres", "tpe")], indirect=["storage"]
)
def test_references_come_first_then_every_other_placement_once_then_nothing(url: str, strategy: str) -> None:
    space = PlacementSpace(SPACE.groups[:2], (4, 8))
    references = [Placement.of(["o_proj"], 8), Placement.of(["k_proj", "o_proj"], 8)]
    study = open_study(url, space, strategy=strategy, references=references)
    tried: list[Placement] = []
    while asked := study.ask():
        number, placement = asked
        assert number == len(tried)
        tried.append(placement)
        study.tell(number, "complete", figures(*worth(placement)))
    assert tried[:2] == references
    assert len(tried) == len(set(tried)) == space.size
    assert [t.values for t in trials(url)] == [list(worth(p)) for p in tried]
    assert len(trials(url)) == space.size, "no trial was begun for which nothing was left"


def test_trials_side_by_side_are_different_placements(url: str) -> None:
    study = open_study(url)
    tried: list[Placement] = []
    for _ in range(SPACE.size):
        asked = study.ask()
        assert asked is not None
        tried.append(asked[1])
    assert len(set(tried)) == SPACE.size
    assert study.ask() is None
    assert {t.state for t in trials(url)} == {TrialState.RUNNING}


def test_a_reference_that_is_not_allowed_is_not_tried(url: str) -> None:
    space = PlacementSpace(SPACE.groups, (4,), lambda p: len(p.groups) < 3)
    study = open_study(url, space, references=[Placement.of(SPACE.groups, 4), Placement.of(["o_proj"], 4)])
    asked = study.ask()
    assert asked == (0, Placement.of(["o_proj"], 4))


def test_a_new_process_goes_on_where_the_last_one_stopped(url: str) -> None:
    references = [Placement.of(["o_proj"], 8), Placement.of(["q_proj"], 8)]
    first = open_study(url, references=references)
    asked = first.ask()
    assert asked == (0, references[0])
    first.tell(0, "complete", figures(0.5, 1.1))
    assert open_study(url, references=references).ask() == (1, references[1])


def test_what_is_told_is_in_the_database(url: str) -> None:
    study = open_study(url, cap=1.5)
    tried: list[Placement] = []
    for _ in range(4):
        asked = study.ask()
        assert asked is not None
        tried.append(asked[1])
    study.tell(0, "complete", figures(0.7, 1.25))
    study.tell(1, "failed", {})
    study.tell(2, "infeasible", {"latency": {"ratio": 1.75}})
    stored = trials(url)
    assert [t.state for t in stored] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING]
    assert stored[0].values == [0.7, 1.25]
    assert [t.constraints for t in stored] == [{"latency_ratio": -0.25}, {}, {"latency_ratio": 0.25}, {}]
    assert [t.user_attrs for t in stored] == [{}, {}, {"latency_ratio": 1.75}, {}]
    assert [SPACE.placement(t.params) for t in stored] == tried
    study_ = optuna.load_study(study_name=SEARCH, storage=url)
    assert study_.metric_names == ["accuracy", "latency_ratio"]
    assert [t.number for t in study_.best_trials] == [0]


@pytest.mark.parametrize("status", ["complete", "failed", "infeasible"])
def test_a_trial_that_is_closed_stays_as_it_is(url: str, status: str) -> None:
    study = open_study(url)
    study.ask()
    study.tell(0, "complete", figures(0.7, 1.2))
    study.tell(0, status, figures(0.1, 9.0))
    study.tell(17, status, {})
    (stored,) = trials(url)
    assert (stored.state, stored.values, stored.constraints) == (TrialState.COMPLETE, [0.7, 1.2], {})


def test_a_late_tell_of_another_process_is_calm(url: str) -> None:
    """Both hold the trial as open; only one of them can close it."""
    one = open_study(url)
    one.ask()
    other = open_study(url)
    assert len(other.unfinished()) == 1
    other.tell(0, "complete", figures(0.7, 1.2))
    one.tell(0, "failed", {"latency": {"ratio": 1.5}})
    assert trials(url)[0].values == [0.7, 1.2]


@pytest.mark.parametrize(
    ("storage", "strategy"), [("sqlite", "tpe"), ("sqlite", "grid"), ("postgres", "tpe")], indirect=["storage"]
)
@pytest.mark.parametrize("written", [0, 2, 4])
def test_a_process_that_died_while_asking_leaves_a_trial_that_is_completed(
    url: str, strategy: str, written: int
) -> None:
    references = [Placement.of(["o_proj"], 8), Placement.of(["q_proj"], 8)]
    before = open_study(url, strategy=strategy, references=references)
    asked = before.ask()
    assert asked is not None
    before.tell(*asked[:1], "complete", figures(0.5, 1.1))

    plain = optuna.load_study(study_name=SEARCH, storage=url)
    died = plain.ask()  # RUNNING in the database, without parameters
    lost = SPACE.params(references[1])
    for name in list(lost)[:written]:
        plain._storage.set_trial_param(
            died._trial_id, name, SPACE.distributions[name].to_internal_repr(lost[name]), SPACE.distributions[name]
        )

    after = open_study(url, strategy=strategy, references=references)
    ((number, placement),) = after.unfinished()
    assert number == 1
    assert placement == references[1], "the reference that was being asked for"
    assert after.unfinished() == [(1, placement)], "the same when asked again"
    next_ = after.ask()
    assert next_ is not None
    assert next_[0] == 2
    assert next_[1] not in (references[0], placement)
    after.tell(1, "complete", figures(0.6, 1.1))
    assert [t.state for t in trials(url)] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]


def test_searches_in_one_database_do_not_see_each_other(url: str) -> None:
    one = open_study(url, strategy="grid")
    other = Study(url, "another", SPACE, strategy="grid", references=(), budget=40, seed=0)
    first = one.ask()
    assert first == other.ask()
    assert len(one.unfinished()) == len(other.unfinished()) == 1


def test_failed_and_infeasible_trials_are_not_proposed_again(url: str) -> None:
    space = PlacementSpace(("k_proj", "o_proj"), (4,))
    study = open_study(url, space)
    tried: list[Placement] = []
    for status in ("failed", "infeasible", "complete"):
        asked = study.ask()
        assert asked is not None
        tried.append(asked[1])
        study.tell(asked[0], status, figures(0.5, 1.1))
    assert len(set(tried)) == 3
    assert study.ask() is None


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_what_is_to_be_measured_again_is_so_first_and_to_its_end(url: str) -> None:
    """The champion of a series: half a measurement compares with nothing."""
    losses = tuple((step, 1.5) for step in range(10, 201, 10))
    again = Known(Placement.of(["o_proj"], 8), 1, 1.1, 0.5, 0.02, losses, 1.4)
    space = PlacementSpace(GROUPS_OF_A_LLAMA, (8,))
    study = Study(
        url, SEARCH, space, strategy="additive", references=[], budget=24, seed=0, steps=200,
        known=[again], again=[again.placement],
    )  # fmt: skip
    for early, until in ((False, 200), (True, 20)):
        decision = study.decide([number for number, _ in study.unfinished()], True, False)
        assert (decision.action, decision.early) == ("begin", early)
        asked = study.ask()
        assert asked is not None
        assert (asked[1] == again.placement) == (not early)
        assert study.until(asked[0], early=True) == until


def test_asking_costs_next_to_nothing_beside_a_trial(url: str) -> None:
    """CPU time of one ask among 40 trials, on the space of a Llama; a trial takes ten times as long and more."""
    space = PlacementSpace(GROUPS_OF_A_LLAMA, (4, 8, 16))
    study = open_study(url, space)
    tried: list[Placement] = []
    slowest = 0.0
    for _ in range(40):
        start = time.process_time()
        asked = study.ask()
        slowest = max(slowest, time.process_time() - start)
        assert asked is not None
        tried.append(asked[1])
        study.tell(asked[0], "complete", figures(*worth(asked[1])))
    assert len(set(tried)) == 40
    assert slowest < 1.0


def test_the_seed_repeats_a_search(url: str) -> None:
    def run(name: str, seed: int) -> list[Placement]:
        study = Study(url, name, SPACE, strategy="tpe", references=(), budget=40, seed=seed)
        tried: list[Placement] = []
        for _ in range(11):
            asked = study.ask()
            assert asked is not None
            tried.append(asked[1])
            study.tell(asked[0], "complete", figures(*worth(asked[1])))
        return tried

    assert run("a", 3) == run("b", 3) != run("c", 4)


@pytest.fixture
def refused_by_the_disk(url: str) -> Callable[[Callable[[], object]], None]:
    """Checks that an act ends in the sentence for a disk that takes nothing more."""

    def check(act: Callable[[], object]) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        try:
            with pytest.raises(StoreError) as refusal:
                act()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(refusal.value) == (
            f"database {url!r}: the disk failed to read or write: check it, then resume; nothing already recorded is "
            "lost."
        )

    return check


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_a_disk_that_refuses_is_one_sentence(
    url: str, refused_by_the_disk: Callable[[Callable[[], object]], None]
) -> None:
    refused_by_the_disk(lambda: open_study(url))
    study = open_study(url)
    refused_by_the_disk(lambda: study.ask())
    assert study.ask() is not None


def test_two_processes_that_ask_for_one_trial_do_not_mix_their_placements(url: str) -> None:
    one, other = open_study(url, seed=1, strategy="random"), open_study(url, seed=2, strategy="random")
    asked = one.ask()
    with pytest.raises(LeaseLost, match=r"^another process has asked for trial 0 of this search: this one ends$"):
        other.ask()
    assert asked is not None
    assert [SPACE.placement(trial.params) for trial in trials(url)] == [asked[1]]


def test_what_is_known_is_taken_in_once_however_often_a_search_is_interrupted(url: str) -> None:
    """Before its first trial too: twice the same would weigh twice, and shift the numbers of trials."""
    found = [Known(placement, 1, 1.1, 0.5, 0.02, ((20, 1.0),), 0.9) for placement in list(SPACE)[:3]]

    def opened(known: list[Known]) -> Study:
        return Study(url, SEARCH, SPACE, strategy="tpe", references=(), budget=40, seed=0, known=known)

    opened(found[:2]).close()  # one process died after two of them
    for _ in range(2):
        opened(found).close()
    assert len(trials(url)) == 3
    with closing(opened(found)) as study:
        asked = study.ask()
        assert asked is not None
        assert asked[0] == 3
    opened(found).close()
    assert len(trials(url)) == 4


_DECLARED = """
import sys
from sqlalchemy import event
from sqlalchemy.orm import Mapper
from search.stored_study import StoredStudy, declare_tables

if sys.argv[2] == "first":
    declare_tables()
# As MLflow's import does in another thread, in the midst of what SQLAlchemy goes through.
event.listen(Mapper, "mapper_configured", lambda *_: event.listen(Mapper, "mapper_configured", print))
StoredStudy(sys.argv[1], "s", None).close()
"""


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_listeners_that_mlflow_adds_meet_no_tables_in_the_making(url: str) -> None:
    """In a new process, since tables are made once in each."""

    def ended(when: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", _DECLARED, url, when], capture_output=True, text=True, check=False)

    assert ended("first").returncode == 0
    assert "RuntimeError: deque mutated during iteration" in ended("never").stderr, "what this is about"

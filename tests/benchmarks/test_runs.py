"""Simulated time, and searches replayed through the real search code."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.budgeted import row
from benchmarks.replay import replay
from benchmarks.runs import REFERENCES, Run, Workers, read_tables
from benchmarks.scoring import Yardstick
from objectives.errors import RequestError
from objectives.placement import Placement
from objectives.tabular import Table
from search.pareto import hypervolume
from tests.benchmarks.made import write_table

TABLES = Path(__file__).resolve().parents[2] / "benchmarks" / "tables"


def test_workers_side_by_side_spend_together_what_each_trains() -> None:
    pool = Workers[str](2)
    pool.start("long", 100)
    pool.start("short", 30)
    assert not pool.free
    assert (pool.wait(), pool.spent, pool.free) == ("short", 60, True)
    pool.start("none", 0)
    assert (pool.wait(), pool.spent) == ("none", 60)
    assert (pool.wait(), pool.spent, pool.running) == ("long", 130, 0)


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 4))
def test_in_the_end_every_step_was_spent_once(steps: list[int], count: int) -> None:
    pool = Workers[int](count)
    ended, spent = [], []
    waiting = list(enumerate(steps))
    while waiting or pool.running:
        if waiting and pool.free:
            pool.start(*waiting.pop(0))
        else:
            ended.append(pool.wait())
            spent.append(pool.spent)
    assert sorted(ended) == list(range(len(steps)))
    assert spent == sorted(spent)
    assert pool.spent == sum(steps)


@pytest.mark.parametrize("strategy", ["random", "tpe"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_replay_tries_the_references_first_and_nothing_twice(table: Table, strategy: str, workers: int) -> None:
    run = replay(table, strategy, seed=0, budget=12, workers=workers)
    tried = [placement for _, placement in run.trained]
    assert len(set(tried)) == len(tried) == 12
    assert set(tried[: len(REFERENCES)]) == {Placement.of(groups, 8) for groups in REFERENCES}
    assert [spent for spent, _ in run.trained] == sorted(spent for spent, _ in run.trained)
    assert run.trained[-1][0] == 12 * table.steps
    assert run.recommended in tried


def test_a_replay_stops_trials_on_the_way_and_counts_their_steps(table: Table) -> None:
    run = replay(table, "additive", seed=0, budget=12, workers=2)
    placements = [placement for _, placement in run.trained]
    assert len(set(placements)) == len(placements) >= 3
    spent = [steps for steps, _ in run.trained]
    assert spent == sorted(spent)
    assert len(placements) * table.steps < spent[-1] < 14 * table.steps, "others were begun, and not trained to the end"
    assert run.recommended in placements


def test_a_replay_as_users_have_it_ends_at_the_budget_of_trials_or_before(table: Table) -> None:
    run = replay(table, "additive", seed=0, budget=12, workers=2, as_live=True)
    assert 3 <= len(run.trained) <= 12
    assert run.spent < 12 * table.steps, "some were stopped on the way"
    assert run.spent >= run.trained[-1][0]


def test_a_replay_ends_where_the_space_does_and_is_the_same_again(tmp_path: Path) -> None:
    small = Table(write_table(tmp_path / "small.parquet", groups=("down_proj", "o_proj", "q_proj")))
    run = replay(small, "tpe", seed=1, budget=500, workers=1)
    assert len(run.trained) == len(small.placements) == 7
    assert run == replay(small, "tpe", seed=1, budget=500, workers=1)


def test_no_strategy_gets_more_steps_than_another_where_none_can_stop(tmp_path: Path) -> None:
    short = Table(write_table(tmp_path / "short.parquet", fidelities=(10, 20, 30)))
    run = replay(short, "additive", seed=0, budget=9, workers=2)
    assert (len(run.trained), run.spent) == (9, 9 * 30)


def test_a_training_that_ends_beyond_the_steps_does_not_count() -> None:
    """Of a table whose losses do not tell accuracy: there the strategy itself lets all trials run to their end."""
    table = Table(TABLES / "stories260K-cocohd_relevancy-r8.parquet")
    run = replay(table, "additive", seed=0, budget=18, workers=1)
    assert run.spent == 18 * table.steps
    assert run.trained[-1][0] <= run.spent


def test_tables_go_by_name(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    files = [write_table(folder / "made.parquet", groups=("o_proj",)) for folder in (tmp_path, tmp_path / "again")]
    assert list(read_tables(files[:1])) == ["made"]
    with pytest.raises(RequestError) as refused:
        read_tables(files)
    assert str(refused.value) == "two tables are called made: rename one, since their figures go by name"


def test_steps_are_a_share_of_what_the_space_takes(tmp_path: Path) -> None:
    small = Table(write_table(tmp_path / "small.parquet", groups=("down_proj", "o_proj", "q_proj")))
    told = row(small, "random", 500, 1, 1, 1)
    assert told.startswith("random | 500 | 7.0 | 100% | 1.000 (1.000) |")
    # And what its user sees: the hypervolume of `show`, and the test figure of the adapter that is taken.
    seen = {p: small.outcome(p, small.seeds[0])["measurement"]["validation"]["accuracy"] for p in small.placements}
    taken = replay(small, "random", seed=0, budget=500, workers=1, as_live=True).recommended
    score = Yardstick.of(small).score(Run(((1, taken),), taken, 1))
    measured = hypervolume([(accuracy, small.ratio(placement)) for placement, accuracy in seen.items()])
    tested = small.curve(taken, small.seeds[0])[-1]["test_accuracy"]
    assert told.endswith(f"| {measured:.3f} | {score.regret:.3f} | {int(score.within)} of 1 | {tested:.3f}")


def test_the_recommendation_is_by_the_figures_of_the_seed_that_was_seen(table: Table) -> None:
    few = table.placements[::18]  # too few to be weighed with each other
    trained = [(200 * count, placement) for count, placement in enumerate(few, start=1)]
    for seed in table.seeds:
        figures = {p: table.outcome(p, seed)["measurement"]["validation"] for p in few}
        best = max(figures.values(), key=lambda found: found["accuracy"])
        enough = [p for p in figures if figures[p]["accuracy"] >= best["accuracy"] - best["standard_error"]]
        recommended = Run.of(table, seed, trained).recommended
        assert recommended in enough
        assert table.ratio(recommended) == min(table.ratio(p) for p in enough)
    with pytest.raises(ValueError, match="no placement got all its steps: raise the budget"):
        Run.of(table, 0, [])

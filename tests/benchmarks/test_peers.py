"""Peers run by their own classes: what they are charged, what they are told, and when they end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.peers import RayOptunaSearch, run_peer
from benchmarks.runs import references
from benchmarks.strategies import SYNE_TUNE, peer
from objectives.placement import BASE, Placement
from objectives.tabular import Table
from search.strategy.space import PlacementSpace


class Scripted:
    """Proposes what it is given, the last of it for ever, and stops trials at the steps that it is given."""

    def __init__(self, table: Table, proposals: list[Placement], stops: dict[int, int] | None = None) -> None:
        self._space = PlacementSpace(table.groups, table.ranks)
        self._proposals = proposals
        self._stops = stops or {}
        self.told: list[tuple[int, int, float, float]] = []

    def suggest(self, number: int) -> dict[str, Any]:
        return self._space.params(self._proposals[min(number, len(self._proposals) - 1)])

    def report(self, number: int, step: int, accuracy: float, ratio: float) -> bool:
        self.told.append((number, step, accuracy, ratio))
        return step < self._stops.get(number, 10**9)


@pytest.fixture
def some(table: Table) -> Iterator[Placement]:
    return iter(table.placements[10:])


def test_a_stopped_trial_is_charged_until_it_stops_and_goes_on_from_there(table: Table, some: Any) -> None:
    one, other = next(some), next(some)
    peer = Scripted(table, [one, other, one, other], {0: 50})
    run = run_peer(table, lambda *_, **__: peer, seed=1, budget=10, workers=1)
    assert run.trained == ((250, other), (400, one))
    assert [step for number, step, *_ in peer.told if number == 0] == [12, 25, 38, 50]
    figures = [(row["step"], row["accuracy"], table.ratio(one)) for row in table.curve(one, 1)]
    assert [told[1:] for told in peer.told if told[0] == 2] == figures


def test_workers_share_the_steps(table: Table, some: Any) -> None:
    chosen = [next(some) for _ in range(4)]
    run = run_peer(table, lambda *_, **__: Scripted(table, chosen), seed=0, budget=4, workers=2)
    assert [spent for spent, _ in run.trained] == [400, 400, 800, 800]


def test_no_groups_are_worse_than_anything_and_cost_nothing(table: Table, some: Any) -> None:
    one = next(some)
    peer = Scripted(table, [BASE, one])
    run = run_peer(table, lambda *_, **__: peer, seed=0, budget=1, workers=1)
    assert run.trained == ((200, one),)
    assert {told[2:] for told in peer.told if told[0] == 0} == {(0.0, max(map(table.ratio, table.placements)))}


def test_a_run_of_repeats_ends(table: Table, some: Any) -> None:
    peer = Scripted(table, [next(some)])
    run = run_peer(table, lambda *_, **__: peer, seed=0, budget=10, workers=1)
    assert len(run.trained) == 1
    assert max(number for number, *_ in peer.told) == 100


def test_a_run_ends_with_the_space_and_with_the_budget(table: Table) -> None:
    def make(*_: Any, **__: Any) -> Scripted:
        return Scripted(table, table.placements)

    assert len(run_peer(table, make, seed=0, budget=500, workers=1).trained) == len(table.placements)
    assert len(run_peer(table, make, seed=0, budget=7, workers=1).trained) == 7
    assert len(run_peer(table, make, seed=0, budget=7, workers=3).trained) == 6  # what runs at the end does not count


def test_ray_tunes_searcher_gets_the_references_first(table: Table) -> None:
    run = run_peer(table, RayOptunaSearch, seed=0, budget=15, workers=1)
    assert [placement for _, placement in run.trained[:6]] == references(table)
    assert len(run.trained) == 15
    assert run == run_peer(table, RayOptunaSearch, seed=0, budget=15, workers=1)


@pytest.mark.parametrize("strategy", SYNE_TUNE)
def test_syne_tunes_schedulers_run_on_a_table(table: Table, strategy: str) -> None:
    pytest.importorskip("syne_tune", reason="needs the bench extra")
    run = run_peer(table, peer(strategy), seed=3, budget=8, workers=1)
    assert run == run_peer(table, peer(strategy), seed=3, budget=8, workers=1)
    assert run.trained[0] == (200, references(table)[0])
    assert run.trained[-1][0] <= 8 * table.steps
    if strategy.startswith("morea"):
        assert [placement for _, placement in run.trained[:6]] == references(table)
        assert len(run.trained) == 8
    else:
        assert len(run.trained) < 8  # some were stopped


def test_ranks_say_which_is_best() -> None:
    pytest.importorskip("syne_tune", reason="needs the bench extra")
    import numpy as np

    from benchmarks.peers_syne_tune import ranks

    assert ranks(np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])).tolist() == [1, 2, 0]

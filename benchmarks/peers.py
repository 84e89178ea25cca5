"""Other people's tuners on a recorded table, by their own classes: only training is looked up instead of done.

All are generous to them. What was trained before costs no steps when it is proposed again, as if the user kept every
checkpoint; no groups at all, which cannot be trained, cost none either and are reported as worse than anything, as is a
placement that the table leaves out, since a training of it diverged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.runs import Run, Workers, references, space_of
from objectives.placement import Placement
from objectives.tabular import Table
from search.strategy.space import PlacementSpace

#: Proposals in a row that need no training at all, after which a run is over: the tuner has nothing new to say.
_REPEATS = 100


class Peer(Protocol):
    """Maximises accuracy and minimises latency ratio over the parameters of a :class:`PlacementSpace`."""

    def suggest(self, number: int) -> dict[str, Any]:
        """Parameters of trial ``number``; numbers rise by one."""

    def report(self, number: int, step: int, accuracy: float, ratio: float) -> bool:
        """Validation figures after ``step`` steps, at each recorded fidelity. Whether the trial shall go on."""


@dataclass
class _Trial:
    number: int
    placement: Placement
    figures: list[tuple[int, float, float]]  # step, accuracy, ratio of the fidelities still to come
    trained: bool = False  # whether it cost anything


def run_peer(table: Table, make: Callable[..., Peer], *, seed: int, budget: int, workers: int) -> Run:
    """Runs ``make(table, space, first, seed=..., budget=...)`` until ``budget`` full trials' worth of steps are spent.

    Also over are runs that trained the whole space, or that proposed only repeats for long.
    """
    space = space_of(table)
    recorded = table.seeds[seed % len(table.seeds)]
    peer = make(table, space, references(table), seed=seed, budget=budget)
    worst = max(table.ratio(placement) for placement in table.placements)
    limit = budget * table.steps
    reached: dict[Placement, int] = {}
    trained: list[tuple[int, Placement]] = []
    pool = Workers[_Trial](workers)
    number = repeats = 0

    def train(trial: _Trial) -> None:
        """Up to the next fidelity, from where the best earlier training of the same placement stands."""
        known = space.allowed(trial.placement)
        steps = max(0, trial.figures[0][0] - reached.get(trial.placement, 0)) if known else 0
        trial.trained |= steps > 0
        pool.start(trial, steps)

    while True:
        while pool.free and pool.spent < limit and repeats < _REPEATS and len(trained) < len(table.placements):
            placement = space.placement(peer.suggest(number))
            train(_Trial(number, placement, _figures(table, placement, recorded, worst)))
            number += 1
        if not pool.running:
            break
        trial = pool.wait()
        if pool.spent > limit:
            break
        step, accuracy, ratio = trial.figures.pop(0)
        if space.allowed(trial.placement):
            if step == table.steps and reached.get(trial.placement, 0) < step:
                trained.append((pool.spent, trial.placement))
            reached[trial.placement] = max(step, reached.get(trial.placement, 0))
        if peer.report(trial.number, step, accuracy, ratio) and trial.figures:
            train(trial)
        else:
            repeats = 0 if trial.trained else repeats + 1
    return Run.of(table, recorded, trained)


def _figures(table: Table, placement: Placement, recorded: int, worst: float) -> list[tuple[int, float, float]]:
    if placement not in table.placements:
        steps = [row["step"] for row in table.curve(table.placements[0], recorded)]
        return [(step, 0.0, worst) for step in steps]
    ratio = table.ratio(placement)
    return [(row["step"], row["accuracy"], ratio) for row in table.curve(placement, recorded)]


class RayOptunaSearch:
    """Ray Tune's searcher as a script would make it, with its own default sampler (TPE); it may propose repeats."""

    def __init__(self, table: Table, space: PlacementSpace, first: Sequence[Placement], *, seed: int, budget: int):
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._last = table.steps
        self._search = OptunaSearch(
            dict(space.distributions),
            metric=["accuracy", "ratio"],
            mode=["max", "min"],
            points_to_evaluate=[space.params(placement) for placement in first],
            seed=seed,
        )

    def suggest(self, number: int) -> dict[str, Any]:
        return dict(self._search.suggest(str(number)))

    def report(self, number: int, step: int, accuracy: float, ratio: float) -> bool:
        # It takes no intermediate results where there are several objectives.
        if step == self._last:
            self._search.on_trial_complete(str(number), {"accuracy": accuracy, "ratio": ratio})
        return True

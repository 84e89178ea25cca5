"""Syne Tune's multi-objective schedulers as peers: MO-ASHA and multi-objective regularised evolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import choice
from syne_tune.optimizer.scheduler import SchedulerDecision
from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
from syne_tune.optimizer.schedulers.multiobjective.multi_objective_regularized_evolution import (
    MultiObjectiveRegularizedEvolution,
)
from syne_tune.optimizer.schedulers.multiobjective.non_dominated_priority import nondominated_sort
from syne_tune.optimizer.schedulers.single_fidelity_scheduler import SingleFidelityScheduler

from objectives.placement import Placement
from objectives.tabular import Table
from search.strategy.nsga2 import population
from search.strategy.space import PlacementSpace

Priority = Callable[[NDArray[np.float64]], NDArray[np.int64]]

#: Both are minimised, since one direction holds for all of a scheduler's metrics.
_METRICS = ["error", "ratio"]


def ranks(objectives: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) rank of each of the objectives (n, m) in the non-dominated sort, 0 the best.

    Syne Tune 0.16 takes the sorted *indices* for priorities: of [[1, 1], [2, 2], [0, 0]] it gives [2, 0, 1], so that
    the best has not the lowest. With these ranks its schedulers do what their papers say.
    """
    order = np.asarray(nondominated_sort(objectives, dim=0))
    return np.argsort(order)


class _SyneTune:
    """What Syne Tune's Tuner does with a scheduler, for one trial at a time."""

    def __init__(self, scheduler: Any, steps: int) -> None:
        self._scheduler = scheduler
        self._steps = steps
        self._trials: dict[int, Trial] = {}

    def suggest(self, number: int) -> dict[str, Any]:
        return self._add(number, self._scheduler.suggest().config)

    def _add(self, number: int, config: dict[str, Any]) -> dict[str, Any]:
        self._trials[number] = Trial(number, config, datetime.now())
        self._scheduler.on_trial_add(self._trials[number])
        return config

    def report(self, number: int, step: int, accuracy: float, ratio: float) -> bool:
        trial, result = self._trials[number], {"error": 1 - accuracy, "ratio": ratio, "step": step}
        decision = self._scheduler.on_trial_result(trial, result)
        if decision == SchedulerDecision.STOP:
            self._scheduler.on_trial_remove(trial)
        elif step == self._steps:
            self._scheduler.on_trial_complete(trial, result)
        return bool(decision == SchedulerDecision.CONTINUE)


class MultiObjectiveAsha(_SyneTune):
    """Its first rung is the first recorded fidelity; it hears of all of them and stops trials at its own rungs.

    It samples at random and takes no points to evaluate, so the references are given out in front of it; it may stop
    them as any other trial.
    """

    def __init__(
        self,
        table: Table,
        space: PlacementSpace,
        first: Sequence[Placement],
        *,
        seed: int,
        budget: int,
        priority: Priority | None = None,
    ) -> None:
        # Its configurations are drawn from numpy's global generator, whatever its own seed.
        np.random.seed(seed)
        scheduler = MOASHA(
            _config_space(space),
            _METRICS,
            time_attr="step",
            max_t=table.steps,
            grace_period=table.curve(table.placements[0], table.seeds[0])[0]["step"],
            multiobjective_priority=priority,
            random_seed=seed,
        )
        super().__init__(scheduler, table.steps)
        self._first = [space.params(placement) for placement in first]

    def suggest(self, number: int) -> dict[str, Any]:
        return self._add(number, self._first[number]) if number < len(self._first) else super().suggest(number)


class MultiObjectiveEvolution(_SyneTune):
    """The population is as large as NSGA-II's here: with its default of 100 it would be a random search."""

    def __init__(
        self,
        table: Table,
        space: PlacementSpace,
        first: Sequence[Placement],
        *,
        seed: int,
        budget: int,
        priority: Priority | None = None,
    ) -> None:
        np.random.seed(seed)  # as above: its first configurations come from there
        config_space = _config_space(space)
        searcher = MultiObjectiveRegularizedEvolution(
            config_space,
            points_to_evaluate=[space.params(placement) for placement in first],
            population_size=population(budget),
            multiobjective_priority=priority,
            random_seed=seed,
        )
        super().__init__(SingleFidelityScheduler(config_space, _METRICS, searcher=searcher), table.steps)


def _config_space(space: PlacementSpace) -> dict[str, Any]:
    """A parameter with one value is a constant there: a mutation would look for another value of it in vain."""
    choices = {name: distribution.choices for name, distribution in space.distributions.items()}
    return {name: choice(list(values)) if len(values) > 1 else values[0] for name, values in choices.items()}

"""Which placement to try next: references first, then a strategy, never a placement twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from objectives.errors import RequestError
from objectives.placement import Placement
from search.names import STRATEGIES
from search.strategy.additive_sampler import COURSE, RATIO, AdditiveSampler, Decision, seed_of
from search.strategy.linear import LinearPosterior, features
from search.strategy.nsga2 import NSGAIISampler, population
from search.strategy.space import PlacementSpace
from search.strategy.tpe import TPESampler
from search.strategy.tried import Tried

#: A model of the past proposes the same placement again when it is sure of it; after so many repeats chance decides.
_PROPOSALS = 10
#: Placements that are expected to be too slow are passed over for others, so many at most.
_PASSED_OVER = 2000


class PlacementSampler(BaseSampler):
    """An Optuna sampler over a :class:`PlacementSpace` that proposes each placement once.

    ``again`` and ``first`` come first, in order. Then ``inner`` proposes; ``None`` walks the space in its own order (a
    grid). A trial that has parameters already (its process was killed while it was asked for) is completed around
    them.

    ``known`` are placements of which the study has trials that it did not ask for. They are proposed only if they are
    to be measured ``again``, and then each runs to its end.

    Each trial has a sampler and random numbers of its own, by ``seed`` and its number: what is proposed depends on the
    study alone, and not on how often the process was ended.
    """

    def __init__(
        self,
        space: PlacementSpace,
        inner: Callable[[int], BaseSampler] | None,
        first: Sequence[Placement],
        seed: int,
        *,
        known: Collection[Placement] = (),
        again: Sequence[Placement] = (),
        max_ratio: float | None = None,
    ) -> None:
        """``inner`` makes a sampler from a seed; above ``max_ratio`` placements are not trained."""
        self._space = space
        self._make = inner
        self._seed = seed
        self._inner = inner and inner(seed)
        self._known = frozenset(known)
        self._again = again
        self._max_ratio = max_ratio
        self._first = [*again, *(placement for placement in first if placement not in self._known)]
        self._random = np.random.default_rng(seed)
        self._tried = Tried(space, self._known)

    @property
    def ceiling(self) -> int | None:
        """Steps that all trials together get at most, as long as they stop on the way; None where none does."""
        return self._inner.ceiling if isinstance(self._inner, AdditiveSampler) else None

    def decide(self, study: optuna.Study, running: Collection[int], may_begin: bool, settle: bool) -> Decision:
        """What to do next; see :meth:`AdditiveSampler.decide`. Under other strategies a trial runs to its end, also one
        that stopped on the way under another, before the budget was raised to the whole space."""
        if self._again and may_begin:
            self._tried.read(study)
            if any(placement not in self._tried for placement in self._again):
                return Decision("begin", early=False)
        if isinstance(self._inner, AdditiveSampler):
            return self._inner.decide(study, running, may_begin, settle)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if COURSE in trial.user_attrs and trial.number not in running:
                return Decision("continue", trial.number, early=False)
        return Decision("begin", early=False) if may_begin else Decision("settled")

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Raises LookupError if every placement was tried."""
        self._tried.read(study)
        proposals = (each for each in self._proposals(study, trial) if each not in self._known)
        chosen = next(self._possible(self._first, trial), None) or next(
            self._fast_first(self._possible(proposals, trial), study), None
        )
        if chosen is None:
            raise LookupError("every placement was tried")
        return self._space.params(chosen)

    def _possible(self, candidates: Iterable[Placement], trial: FrozenTrial) -> Iterator[Placement]:
        for placement in candidates:
            fits = all(self._space.params(placement)[name] == value for name, value in trial.params.items())
            if fits and not placement.is_base and placement not in self._tried and self._space.allowed(placement):
                yield placement

    def _fast_first(self, proposals: Iterator[Placement], study: optuna.Study) -> Iterator[Placement]:
        """As proposed, but those last that are expected to be too slow to be trained: they would cost budget alone.

        Of these the fastest first. A grid keeps its order, and the additive model has weighed latency.
        """
        cap = None if isinstance(self._inner, AdditiveSampler | None) else self._max_ratio
        if cap is None or len(measured := self._measured(study)) < 2:
            yield from proposals
            return
        groups, (placements, ratios) = self._space.groups, zip(*measured, strict=True)
        model = LinearPosterior(features(placements, groups), np.log(ratios))
        limit = np.log(cap)
        slow: list[tuple[float, int, Placement]] = []
        for placement in proposals:
            if (expected := float(model.expected(features([placement], groups))[0])) <= limit:
                yield placement
            else:
                slow.append((expected, len(slow), placement))
            if len(slow) == _PASSED_OVER:
                break
        yield from (placement for *_, placement in sorted(slow))

    def _measured(self, study: optuna.Study) -> list[tuple[Placement, float]]:
        """Placements whose latency ratio is known."""
        ended = (
            trial for trial in study.get_trials(deepcopy=False) if len(trial.params) == len(self._space.distributions)
        )
        ratios = ((trial, trial.values[1] if trial.values else trial.user_attrs.get(RATIO)) for trial in ended)
        return [(self._space.placement(trial.params), ratio) for trial, ratio in ratios if ratio is not None]

    def is_spent(self, study: optuna.Study) -> bool:
        """Whether nothing is left to propose."""
        self._tried.read(study)
        return all(placement in self._tried for placement in self._first) and self._tried.untried() is None

    def runs_whole(self, placement: Placement) -> bool:
        """Whether a trial of it is not to stop on the way: half a measurement compares with nothing."""
        return placement in self._again

    def _proposals(self, study: optuna.Study, trial: FrozenTrial) -> Iterator[Placement]:
        if self._inner is not None:
            for _ in range(_PROPOSALS):
                yield self._propose(self._inner, study, trial)
            for _ in range(_PROPOSALS):
                picks = self._random.integers(2, size=len(self._space.groups))
                groups = itertools.compress(self._space.groups, picks)
                yield Placement.of(groups, int(self._random.choice(self._space.ranks)))
        if not trial.params and (untried := self._tried.untried()):
            yield untried
        yield from self._space

    def _propose(self, inner: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> Placement:
        # Not what Optuna infers from all trials: it is this, and takes longer than all else.
        varied: dict[str, BaseDistribution] = {
            name: d for name, d in self._space.distributions.items() if not d.single()
        }
        params = inner.sample_relative(study, trial, varied)
        for name, distribution in self._space.distributions.items():
            if name not in params:
                params[name] = inner.sample_independent(study, trial, name, distribution)
        return self._space.placement(params)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Raises ValueError: every parameter is sampled together with the others."""
        raise ValueError(f"{param_name} is not part of this search's space")

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._random = np.random.default_rng([self._seed, trial.number])
        if isinstance(self._inner, AdditiveSampler):
            self._inner.reseed(trial.number)
        elif self._make is not None:
            self._inner = self._make(seed_of(self._seed, trial.number))
        if self._inner is not None:
            self._inner.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if self._inner is not None:
            self._inner.after_trial(study, trial, state, values)


def make_sampler(
    strategy: str,
    space: PlacementSpace,
    first: Sequence[Placement],
    *,
    budget: int,
    seed: int,
    steps: int = 1,
    max_ratio: float | None = None,
    known: Collection[Placement] = (),
    again: Sequence[Placement] = (),
) -> PlacementSampler:
    """``auto`` is a grid where the budget covers the space, else additive (see docs/decisions.md).

    ``steps`` is what a whole training takes, ``max_ratio`` the cap on latency; for the rest see
    :class:`PlacementSampler`. Raises RequestError for a strategy that there is not.
    """
    if strategy == "auto":
        strategy = "grid" if space.count(budget + 1) <= budget else "additive"

    def tpe(seed: int) -> BaseSampler:
        # Pending trials count as bad ones, so that workers side by side do not try neighbours of each other.
        return TPESampler(multivariate=True, constant_liar=True, n_startup_trials=8, seed=seed)

    samplers: dict[str, Callable[[int], BaseSampler] | None] = {
        "grid": None,
        "tpe": tpe,
        "additive": lambda seed: AdditiveSampler(
            space, otherwise=tpe, seed=seed, steps=steps, budget=budget, max_ratio=max_ratio
        ),
        "nsga2": lambda seed: NSGAIISampler(population_size=population(budget), seed=seed),
        "gp": lambda seed: optuna.samplers.GPSampler(n_startup_trials=8, seed=seed),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    if strategy not in samplers:
        raise RequestError(f"strategy {strategy!r} is unknown: choose from {', '.join(STRATEGIES)}")
    return PlacementSampler(space, samplers[strategy], first, seed, known=known, again=again, max_ratio=max_ratio)

"""The additive model as an Optuna sampler: proposes what is expected to add most to the front."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from objectives.placement import Placement
from search.strategy.additive import Observation, believe, expected_gain, explains
from search.strategy.space import PlacementSpace

#: Where a trial keeps its validation loss; without it the model is fitted to accuracy.
LOSS = "validation_loss"

#: Complete trials that the model needs before it is asked, and before its fit is checked.
_FEWEST, _CHECKED = 4, 12
#: Placements weighed for one proposal; of a larger space a sample, and the neighbours of the front.
_WEIGHED = 2048


class AdditiveSampler(BaseSampler):
    """For studies of (accuracy, maximised; latency ratio, minimised) over a :class:`PlacementSpace`.

    Where there are too few trials, or the model does not explain those that there are, ``otherwise`` proposes.
    """

    def __init__(self, space: PlacementSpace, *, otherwise: BaseSampler, seed: int) -> None:
        self._space = space
        self._otherwise = otherwise
        self._random = np.random.default_rng(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """May be empty: then every parameter is sampled independently, by ``otherwise``."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        seen = [
            Observation(self._space.placement(t.params), t.values[0], t.values[1], t.user_attrs.get(LOSS))
            for t in others
            if t.state == TrialState.COMPLETE and t.params.keys() == search_space.keys()
        ]
        groups = self._space.groups
        if len(seen) < _FEWEST or (len(seen) >= _CHECKED and not explains(seen, groups)):
            return self._otherwise.sample_relative(
                study, trial, self._otherwise.infer_relative_search_space(study, trial)
            )
        asked = {self._space.placement(t.params): t.state for t in others if t.params.keys() == search_space.keys()}
        # A trial that runs counts as one that will hold what is believed of it: workers then propose different gains.
        held = [o.placement for o in seen] + [p for p, state in asked.items() if state == TrialState.RUNNING]
        about = list(dict.fromkeys([*held, *self._candidates(held)]))
        belief = believe(seen, about, groups, self._random)
        gain = expected_gain(belief, np.arange(len(about)) < len(held))
        gain[[placement in asked for placement in about]] = -1.0
        return self._space.params(about[int(gain.argmax())])

    def _candidates(self, centres: Sequence[Placement]) -> Iterator[Placement]:
        if self._space.size <= _WEIGHED:
            yield from self._space
            return
        groups, ranks = self._space.groups, self._space.ranks
        for centre in centres[-50:]:
            for group in groups:
                yield Placement.of(set(centre.groups) ^ {group} or centre.groups, centre.rank)
            for rank in ranks:
                yield Placement.of(centre.groups, rank)
        picks = self._random.random((_WEIGHED, len(groups))) < self._random.random((_WEIGHED, 1))
        for pick, rank in zip(picks, self._random.choice(ranks, _WEIGHED), strict=True):
            placement = Placement.of(itertools.compress(groups, pick), int(rank))
            if not placement.is_base and self._space.allowed(placement):
                yield placement

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._otherwise.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._otherwise.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._otherwise.after_trial(study, trial, state, values)

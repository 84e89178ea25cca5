"""The additive model as an Optuna sampler: which placement to begin, which trial to go on with, and when to stop.

Freeze-thaw (Swersky, Snoek and Adams, 2014): trials begin with a few steps, and again and again that trial gets its
next steps, or that placement is begun, which is expected to add most to the front for the steps that it still takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from objectives.placement import Placement
from search.pareto import area
from search.strategy.belief import Observation, believe, bent, design, expected_ratios, explains, tells
from search.strategy.fidelity import rungs
from search.strategy.gain import axes, gains
from search.strategy.linear import Array
from search.strategy.space import PlacementSpace
from search.strategy.tried import KNOWN

#: User attributes of a trial: its losses so far (see search.strategy.fidelity), and its latency ratio.
COURSE, RATIO = "course", "latency_ratio"

#: Placements weighed for one decision; of a larger space a sample, and the neighbours of what was tried last.
_WEIGHED = 512
#: The share of the steps of a whole budget that its trials get together, those that stop among them, as long as losses
#: tell accuracy: there the front is that of multi-objective TPE with all of them (benchmarks/README.md). Small budgets
#: get a whole training for each effect.
SHARE = 0.5
#: The search is settled if there is a trial that would raise the front's area, in the axes of gain.py, by this share,
NOTABLE = 0.02
#: with a probability below this.
_UNLIKELY = 0.2
#: The gain of a placement with which nothing is to be done, below that of all others.
_NOTHING = -1.0


@dataclass(frozen=True)
class Decision:
    """What to do next: begin a placement, go on with trial ``number``, or nothing, since the front is settled."""

    action: str  # "begin", "continue", "settled"
    number: int | None = None
    early: bool = True  # whether trials stop on the way
    chance: float = 1.0  # that there is a trial that would raise the front notably


@dataclass
class _History:
    """The study's trials as the model sees them, and the random numbers of a decision on them."""

    seed: int
    seen: list[Observation] = field(default_factory=list)
    # By trial number and in that order: the order of a set would change from process to process, and decisions with it.
    open: dict[Placement, int] = field(default_factory=dict)  # begun, stopped on the way
    held: dict[Placement, int] = field(default_factory=dict)  # complete, or running and believed to be
    begun: dict[Placement, int] = field(default_factory=dict)
    finished: int = 0
    asked: int = 0  # trials of this search, without those known from others
    promised: int = 0  # steps that these have had, or will have as far as that is decided

    @cached_property
    def random(self) -> np.random.Generator:
        """By what is known, so that the same is decided whether or not the process was ended in between."""
        rungs_known = sum(len(observation.course) for observation in self.seen)
        return np.random.default_rng([self.seed, len(self.begun), rungs_known])


def seed_of(seed: int, number: int) -> int:
    """The seed of one trial."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class AdditiveSampler(BaseSampler):
    """For studies of (accuracy, maximised; latency ratio, minimised) over a :class:`PlacementSpace`.

    Of one study. As a sampler alone, all trials run to their end. With :meth:`decide` they may stop on the way. Where
    the model does not explain the trials that there are, ``otherwise`` proposes, and none stops.
    """

    def __init__(
        self,
        space: PlacementSpace,
        *,
        otherwise: Callable[[int], BaseSampler],
        seed: int,
        steps: int = 1,
        budget: int | None = None,
        max_ratio: float | None = None,
    ) -> None:
        """``otherwise`` makes a sampler from a seed. ``steps`` is what a whole training takes.

        Of a ``budget`` of trials some stop on the way, as far as the steps of all have to be shared. Placements above
        ``max_ratio`` are worth nothing.
        """
        self._space = space
        self._make_otherwise = otherwise
        self._otherwise = otherwise(seed)
        self._seed = seed
        self._rungs = rungs(steps)
        self._max_ratio = max_ratio
        self._effects = len(space.groups) + 1 + (len(space.ranks) > 1)
        #: As many trials as there are effects: a larger first batch reached 95% of the hypervolume later. It is of use
        #: to those after it alone, so that these get a third of the budget at least.
        self._designed = self._effects if budget is None else min(self._effects, max(2, budget * 2 // 3))
        self._budget = budget
        #: Steps that the trials of the budget get together, as long as they stop on the way; None where none stops.
        self.ceiling = self._ceiling([])
        self._next: Placement | None = None
        self._placements: dict[int, Placement] = {}  # of trials, which keep theirs

    @property
    def stops_early(self) -> bool:
        """Whether trials may stop on the way."""
        return self.ceiling is not None

    def reseed(self, number: int) -> None:
        """Before trial ``number``: see :class:`~search.strategy.sampler.PlacementSampler`."""
        self._otherwise = self._make_otherwise(seed_of(self._seed, number))

    def decide(self, study: optuna.Study, running: Collection[int], may_begin: bool, settle: bool) -> Decision:
        """``running`` trials are being worked on; others that are RUNNING in the study have stopped on the way.

        ``settle``: say so when no trial is likely to raise the front notably, whether or not one ``may_begin``. Without
        it all that may begin do, and stopped ones go on while there are steps to share.
        """
        self._next = None  # an earlier decision's, for which a reference placement was begun instead
        history = self._history(study, running)
        if may_begin and self._is_first_batch(history) and self._within_cap(history, self._untried(history)):
            return Decision("begin", early=self.stops_early)
        if not self._is_explained(history):
            return self._without_model(history, may_begin)
        about, gain, chance = self._weigh(history, may_begin)
        if not about:  # all that were begun have failed
            return Decision("begin" if may_begin else "settled")
        if settle and history.finished and chance < _UNLIKELY:
            return Decision("settled", chance=chance)
        best = about[int(gain.argmax())]
        if gain.max() <= _NOTHING:  # nothing is left to begin, or to go on with
            return Decision("begin" if may_begin else "settled", early=self.stops_early, chance=chance)
        if best in history.open:
            return Decision("continue", history.open[best], chance=chance)
        self._next = best
        return Decision("begin", early=self.stops_early, chance=chance)

    def _without_model(self, history: _History, may_begin: bool) -> Decision:
        if history.open:
            return Decision("continue", next(iter(history.open.values())), early=False)
        return Decision("begin", early=False) if may_begin else Decision("settled")

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space.distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """May be empty: then every parameter is sampled independently, by ``otherwise``."""
        if self._next is not None:  # it was chosen by decide()
            chosen, self._next = self._next, None
            return self._space.params(chosen)
        history = self._history(study, [], without=trial.number)
        if self._is_first_batch(history):
            return self._space.params(self._most_telling(history))
        if not self._is_explained(history):
            untried = self._untried(history)
            if len(self._within_cap(history, untried)) < len(untried):  # `otherwise` knows nothing of latencies to come
                return self._space.params(self._most_telling(history))
            return self._otherwise.sample_relative(
                study, trial, self._otherwise.infer_relative_search_space(study, trial)
            )
        about, gain, _ = self._weigh(history, True)
        if not about:
            return {}
        gain[[placement in history.begun for placement in about]] = _NOTHING
        return self._space.params(about[int(gain.argmax())])

    def _is_first_batch(self, history: _History) -> bool:
        """Many workers begin more than the model needs before the first losses are there."""
        return len(history.begun) < self._designed or sum(bool(o.course) for o in history.seen) < 2

    def _is_explained(self, history: _History) -> bool:
        return sum(bool(o.course) for o in history.seen) >= 2 and explains(history.seen, self._space.groups)

    def _history(self, study: optuna.Study, running: Collection[int], without: int = -1) -> _History:
        history = _History(self._seed)
        for trial in study.get_trials(deepcopy=False):
            if trial.number == without:
                continue
            placement = self._placements.get(trial.number)
            if placement is None:
                if len(params := trial.params) < len(self._space.distributions):
                    continue
                placement = self._placements[trial.number] = self._space.placement(params)
            if placement.is_base:  # no placement, and of no rank; in plain Optuna `otherwise` may propose it
                continue
            history.begun[placement] = trial.number
            is_open = trial.state == TrialState.RUNNING
            complete = trial.state == TrialState.COMPLETE
            ratio = trial.values[1] if complete else trial.user_attrs.get(RATIO)
            # Without losses the model is fitted to accuracy itself.
            without_losses = (-trial.values[0],) * len(self._rungs) if complete else ()
            course = bent(losses) if (losses := trial.user_attrs.get(COURSE)) else without_losses
            if ratio is not None:
                accuracy = trial.values[0] if complete else None
                history.seen.append(Observation(placement, ratio, course, accuracy))
            if complete or (is_open and (trial.number in running or not course)):
                # A trial that runs counts as one that will hold what is believed of it: workers then propose others.
                history.held[placement] = trial.number
            elif is_open:
                history.open[placement] = trial.number
            history.finished += complete
            if KNOWN not in trial.user_attrs:
                history.asked += 1
                level = len(course) - 1
                if is_open and trial.number in running:
                    level = len(self._rungs) - 1 if course else 0
                history.promised += self._rungs[level] if level >= 0 else 0
        return history

    def _untried(self, history: _History) -> list[Placement]:
        return [placement for placement in self._candidates(history, ()) if placement not in history.begun]

    def _within_cap(self, history: _History, candidates: Sequence[Placement]) -> list[Placement]:
        """Those that are expected to be fast enough, as far as anything is known."""
        if self._max_ratio is None or len(history.seen) < 2:
            return list(candidates)
        ratios = expected_ratios(history.seen, candidates, self._space.groups)
        return [placement for placement, ratio in zip(candidates, ratios, strict=True) if ratio <= self._max_ratio]

    def _most_telling(self, history: _History) -> Placement:
        untried = self._untried(history)
        if not untried:
            return next(iter(history.begun))
        candidates = self._within_cap(history, untried)
        if not candidates:
            return untried[int(expected_ratios(history.seen, untried, self._space.groups).argmin())]
        telling = design(sorted(history.begun), candidates, self._space.groups)
        # Many are equal: none of them is to come first in every search.
        return candidates[int(history.random.choice(np.flatnonzero(telling == telling.max())))]

    def _weigh(self, history: _History, may_begin: bool) -> tuple[list[Placement], Array, float]:
        """Placements, the gain of each per step that it still takes, and the chance that one raises the front notably.

        It is ``_NOTHING`` where the trial runs or has ended, or where there are too few steps left for it, and a little
        more where a placement is expected to be too slow, the more the faster it is: these come last.
        """
        known = {o.placement: o for o in history.seen}
        others = [p for p in self._candidates(history, list(known)) if p not in history.begun] if may_begin else []
        self.ceiling = self._ceiling(history.seen)
        about = list(dict.fromkeys([*history.held, *history.open, *others]))
        if not about:
            return [], np.zeros(0), 0.0
        belief = believe(history.seen, about, self._space.groups, len(self._rungs), history.random)
        heights, speeds = axes(belief)
        held = np.array([placement in history.held for placement in about])
        gained = gains(heights, speeds, held)
        slow = belief.ratio > (np.inf if self._max_ratio is None else self._max_ratio)
        gained[:, slow] = 0.0
        done = [self._rungs[len(known[p].course) - 1] if p in known and known[p].course else 0 for p in about]
        left = self._rungs[-1] - np.array(done)
        front = area(zip(heights.mean(0)[held].tolist(), speeds[held].tolist(), strict=True))
        chance = float((gained.max(1) > NOTABLE * front).mean())
        gain = gained.mean(0) / np.maximum(left, 1)
        gain[slow] = _NOTHING + 1 / (1 + belief.ratio[slow])
        unaffordable = left > self._room(history)
        gain[held | (unaffordable & [placement in history.open for placement in about])] = _NOTHING
        return about, gain, chance

    def _ceiling(self, seen: Sequence[Observation]) -> int | None:
        """Half of the steps did as well as all of them where losses tell accuracy, and worse where they do not."""
        if self._budget is None or len(self._rungs) == 1 or self._budget <= self._effects:
            return None
        trainings = max(SHARE * self._budget, self._effects) if tells(seen) else self._budget
        return round(trainings * self._rungs[-1])

    def _room(self, history: _History) -> float:
        """Steps for trials that stopped on the way, when each that may still begin has its first ones."""
        if self._budget is None or self.ceiling is None:
            return np.inf
        return self.ceiling - history.promised - max(0, self._budget - history.asked) * self._rungs[0]

    def _candidates(self, history: _History, centres: Sequence[Placement]) -> Iterator[Placement]:
        if self._space.size <= _WEIGHED:
            yield from self._space
            return
        groups, ranks = self._space.groups, self._space.ranks
        near = itertools.chain.from_iterable(
            [
                *(Placement.of(set(centre.groups) ^ {group} or centre.groups, centre.rank) for group in groups),
                *(Placement.of(centre.groups, rank) for rank in ranks),
            ]
            for centre in centres[-20:]
        )
        picks = history.random.random((_WEIGHED, len(groups))) < history.random.random((_WEIGHED, 1))
        far = (
            Placement.of(itertools.compress(groups, pick), int(rank))
            for pick, rank in zip(picks, history.random.choice(ranks, _WEIGHED), strict=True)
        )
        for placement in itertools.chain(near, far):
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

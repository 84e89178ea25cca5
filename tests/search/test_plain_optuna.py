"""The additive sampler as what it is to Optuna: one of its samplers, asked without :meth:`AdditiveSampler.decide`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import optuna
import pytest

from objectives.placement import Placement
from search.pareto import area
from search.strategy.additive_sampler import COURSE, RATIO, AdditiveSampler, Decision
from search.strategy.space import PlacementSpace
from tests.search.test_additive_sampler import GROUPS, SPACE, Never, noisy, propose, some, truth


def told_study(placements: list[Placement]) -> tuple[optuna.Study, AdditiveSampler]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = AdditiveSampler(SPACE, otherwise=Never, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for observed in noisy(placements, 0):
        trial = optuna.create_trial(
            params=SPACE.params(observed.placement),
            distributions=dict(SPACE.distributions),
            values=[observed.accuracy, observed.ratio],
            user_attrs={COURSE: list(observed.course)},
        )
        study.add_trial(trial)
    return study, sampler


def test_a_proposal_is_new_and_better_than_what_there_is() -> None:
    tried = [Placement.of(GROUPS[: i + 1], rank) for i in range(len(GROUPS)) for rank in (4, 8)] + some(8, 3)
    tried = list(dict.fromkeys(tried))
    study, _ = told_study(tried)

    def reached(placements: list[Placement]) -> float:
        heights = np.array([truth(p).accuracy for p in placements]) - min(truth(p).accuracy or 0 for p in SPACE)
        return area(zip(heights, (1.8 - truth(p).ratio for p in placements), strict=True))

    proposed = propose(study)
    assert proposed not in tried
    gained = sorted(reached([*tried, placement]) for placement in SPACE)
    assert reached([*tried, proposed]) >= gained[int(len(gained) * 0.8)], "among the best fifth"


def test_workers_side_by_side_get_different_placements() -> None:
    study, _ = told_study(some(8, 1))
    proposed = [propose(study) for _ in range(6)]
    assert len(set(proposed)) == 6


def test_with_plain_optuna_and_no_loss_it_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is designed, and the model proposes all that follows."""
    study, sampler = told_study([])
    weigh, modelled_for = sampler._weigh, []

    def noticed(*args: Any) -> Any:
        modelled_for.append(study.trials[-1].number)
        return weigh(*args)

    monkeypatch.setattr(sampler, "_weigh", noticed)
    for _ in range(12):
        trial = study.ask(dict(SPACE.distributions))
        placement = SPACE.placement(trial.params)
        study.tell(trial, (truth(placement).accuracy or 0, truth(placement).ratio))
    assert modelled_for == list(range(len(GROUPS) + 2, 12))
    assert len({SPACE.placement(trial.params) for trial in study.trials}) == 12


@pytest.mark.parametrize(("groups", "budget", "first"), [(7, 24, 9), (7, 9, 6), (28, 24, 16), (28, 60, 30)])
def test_the_model_proposes_a_third_of_the_trials_at_least(groups: int, budget: int, first: int) -> None:
    """With four bands the whole budget was a first batch, which tells of effects and makes no use of them."""
    space = PlacementSpace(tuple(f"g{i:02d}" for i in range(groups)), (4, 8))
    sampler = AdditiveSampler(space, otherwise=Never, seed=0, budget=budget)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    size = []
    for _ in range(first + 2):
        trial = study.ask(dict(space.distributions))
        size.append(len(space.placement(trial.params).groups))
        study.tell(trial, (0.9 - 0.001 * size[-1] ** 2, 1 + 0.01 * size[-1]))
    assert size[first] < min(size[:first]), "fewer groups are better in both, and no first batch would look there"


def test_a_trial_of_the_base_model_does_not_blind_the_model() -> None:
    """In plain Optuna the other sampler may propose it; its rank of 0 has no logarithm."""
    proposed = []
    for with_base in (False, True):
        study, _ = told_study(some(12, 1))
        if with_base:
            params = dict.fromkeys(GROUPS, False) | {"rank": 4}
            study.add_trial(
                optuna.create_trial(params=params, distributions=dict(SPACE.distributions), values=[0.1, 1.0])
            )
        proposed.append(propose(study))
    assert proposed[0] == proposed[1]


def test_what_was_chosen_and_not_begun_is_forgotten() -> None:
    """A reference placement came in between, and its trial refuted the model that had chosen."""
    study, sampler = told_study(some(12, 1))
    assert sampler.decide(study, [], True, settle=False).action == "begin"
    random = np.random.default_rng(0)
    for placement in [p for p in SPACE if p not in some(12, 1)][:100]:
        values = [float(random.normal()), 1.0 + float(random.random())]
        study.add_trial(
            optuna.create_trial(params=SPACE.params(placement), distributions=dict(SPACE.distributions), values=values)
        )
    assert sampler.decide(study, [], True, settle=False) == Decision("begin", early=False)
    with pytest.raises(AssertionError, match=r"^the model should have been asked$"):
        study.ask(dict(SPACE.distributions))


def test_a_space_too_large_to_list_gets_proposals_that_are_allowed() -> None:
    groups = tuple(f"g{i:02d}" for i in range(20))
    space = PlacementSpace(groups, (4, 8), lambda p: len(p.groups) <= 10)
    study = optuna.create_study(directions=["maximize", "minimize"])
    sampler = AdditiveSampler(space, otherwise=Never, seed=0)
    study.sampler = sampler
    for names in itertools.combinations(groups[:4], 2):
        placement = Placement.of(names, 4)
        study.add_trial(
            optuna.create_trial(
                params=space.params(placement), distributions=dict(space.distributions), values=[0.5, 1.2]
            )
        )
    proposed = space.placement(study.ask(dict(space.distributions)).params)
    assert space.allowed(proposed)
    assert not proposed.is_base


def test_what_is_too_slow_comes_last_and_of_it_the_fastest_first() -> None:
    """Above the cap nothing is trained; what may have been misjudged is what is nearest to it."""
    space = PlacementSpace(GROUPS[:5], (8,))
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = AdditiveSampler(space, otherwise=Never, seed=0, max_ratio=1.12)
    sizes = []
    for _ in range(space.size):
        trial = study.ask(dict(space.distributions))
        sizes.append(len(space.placement(trial.params).groups))
        ratio = 1.05 ** sizes[-1]
        if ratio > 1.12:
            trial.set_user_attr(RATIO, ratio)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, (0.3 + 0.1 * sizes[-1] ** 0.5, ratio))
    known = 2  # latencies that it takes to expect others
    assert sorted(sizes) == [1] * 5 + [2] * 10 + [3] * 10 + [4] * 5 + [5]
    assert max(sizes[known : known + 13]) <= 2
    assert sizes[known + 15 :] == sorted(sizes[known + 15 :])

"""What is decided from trials in any state: which to begin, which to go on with, and that nothing is left to do."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from objectives.placement import Placement
from search.strategy.additive_sampler import COURSE, RATIO, AdditiveSampler, Decision
from search.strategy.fidelity import rungs
from search.strategy.space import PlacementSpace
from search.strategy.tried import KNOWN
from tests.search.test_additive_sampler import EFFECTS, GROUPS, SPACE, Never, some, truth

FULL = rungs(200)


def at(placement: Placement, level: int, state: str = "RUNNING", **attributes: object) -> optuna.trial.FrozenTrial:
    """A trial that has as many losses as ``level`` says, and of the last its accuracy."""
    exact = truth(placement)
    losses = [exact.course[0] + gap for gap in (1.5, 0.8, 0.3, 0.0)][:level]
    known = {COURSE: losses, RATIO: exact.ratio} if level else {}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState[state],
        params=SPACE.params(placement),
        distributions=dict(SPACE.distributions),
        values=(exact.accuracy or 0, exact.ratio) if state == "COMPLETE" else None,
        user_attrs=known | attributes,
    )


def studied(
    trials: list[optuna.trial.FrozenTrial], budget: int = 24, cap: float | None = None
) -> tuple[optuna.Study, AdditiveSampler]:
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials(trials)
    return study, AdditiveSampler(SPACE, otherwise=Never, seed=0, steps=200, budget=budget, max_ratio=cap)


def test_steps_that_are_left_are_those_that_nobody_has_had_or_will_have() -> None:
    """Known from another search cost none, one that runs again will go to its end, and each to come gets a start."""
    here = [(4, "COMPLETE"), (1, "RUNNING"), (2, "RUNNING"), (0, "RUNNING"), (0, "FAIL"), (0, "PRUNED")]
    trials = [at(p, level, state) for p, (level, state) in zip(some(6, 0), here, strict=True)]
    known = [at(p, 4, "COMPLETE", **{KNOWN: [1]}) for p in some(20, 0)[6:]]
    study, sampler = studied([*known, *trials])
    left = sampler._room(sampler._history(study, [len(known) + 2, len(known) + 3]))
    assert left == 24 * 200 / 2 - (FULL[3] + FULL[0] + FULL[3] + FULL[0]) - (24 - 6) * FULL[0]


@pytest.mark.parametrize(("lost", "action"), [(False, "settled"), (True, "continue")])
def test_a_trial_goes_on_as_long_as_its_steps_are_there(lost: bool, action: str) -> None:
    """Nine whole trainings are to be had: eight and what the tenth trial lacks, if one has failed at once."""
    placements = some(10, 0)
    trials = [at(p, 4, "COMPLETE") for p in placements[:8]]
    trials += [at(placements[8], 0, "FAIL") if lost else at(placements[8], 4, "COMPLETE"), at(placements[9], 1)]
    study, sampler = studied(trials, budget=10)
    decision = sampler.decide(study, [], False, settle=False)
    assert (decision.action, decision.number) == (action, 9 if lost else None)


@pytest.mark.parametrize(("tried", "modelled"), [(3, False), (4, True)])
def test_the_first_batch_leaves_a_third_of_a_budget_that_has_fewer_trials_than_effects(
    tried: int, modelled: bool
) -> None:
    study, sampler = studied([at(p, 4, "COMPLETE") for p in some(tried, 0)], budget=6)
    assert sampler.decide(study, [], True, settle=False).action == "begin"
    assert (sampler._next is not None) == modelled


def test_of_a_large_space_all_neighbours_of_what_was_tried_are_weighed() -> None:
    space = PlacementSpace(tuple("abcdefghijkl"), (4, 8))
    tried = [Placement.of("abcdef", 8), Placement.of("g", 4)]
    study = optuna.create_study(directions=["maximize", "minimize"])
    for placement, values in zip(tried, [(0.7, 1.6), (0.4, 1.1)], strict=True):
        distributions = dict(space.distributions)
        study.add_trial(
            optuna.trial.create_trial(params=space.params(placement), distributions=distributions, values=values)
        )
    sampler = AdditiveSampler(space, otherwise=Never, seed=0)
    weighed, _, _ = sampler._weigh(sampler._history(study, []), True)
    near = {Placement.of(set(p.groups) ^ {group}, p.rank) for p in tried for group in space.groups}
    near |= {Placement.of(p.groups, rank) for p in tried for rank in space.ranks}
    assert {placement for placement in near if not placement.is_base} <= set(weighed)
    assert len(weighed) > 300, "and others from all over"


def test_what_is_worked_on_is_not_given_out_again() -> None:
    trials = [at(p, 1 + (place < 4)) for place, p in enumerate(some(12, 0))]
    study, sampler = studied(trials)
    running: list[int] = []
    for _ in range(12):
        decision = sampler.decide(study, running, False, settle=False)
        if decision.action == "settled":
            break
        assert decision.number is not None
        assert decision.number not in running
        running.append(decision.number)
    assert len(running) > 1
    assert sampler.decide(study, range(12), False, settle=False).action == "settled"


def test_no_search_is_settled_before_a_trial_is_complete() -> None:
    """All that promises much is being trained, which is no figure yet."""
    by_worth = sorted(GROUPS, key=lambda name: -EFFECTS[name])
    best = [Placement.of(by_worth[: count + 1], 8) for count in range(len(GROUPS))]
    poor = Placement.of(by_worth[-3:], 4)
    running = [*best, *(p for p in some(20, 0) if p not in (*best, poor))]
    trials = [*(at(p, 1) for p in running), at(poor, 1), at(Placement.of(["q"], 4), 0, "FAIL")]
    study, sampler = studied(trials, budget=90)
    decision = sampler.decide(study, range(len(running)), False, settle=True)
    assert (decision.action, decision.number) == ("continue", len(running))
    assert decision.chance < 0.2
    study.add_trial(at(Placement.of(["v"], 4), 4, "COMPLETE"))
    assert sampler.decide(study, range(len(running)), False, settle=True).action == "settled"


def test_where_the_model_explains_nothing_all_that_was_begun_is_trained_whole_and_then_new_ones() -> None:
    random = np.random.default_rng(0)
    trials = [at(p, 1) for p in some(30, 0)]
    for trial in trials:
        trial.user_attrs[COURSE] = [float(random.uniform(0.5, 5.0))]
    study, sampler = studied(trials, budget=40)
    assert sampler.decide(study, [], True, settle=False) == Decision("continue", 0, early=False)
    assert sampler.decide(study, [0, 1], True, settle=False) == Decision("continue", 2, early=False)
    assert sampler.decide(study, range(30), True, settle=False) == Decision("begin", early=False)
    assert sampler.decide(study, range(30), False, settle=False) == Decision("settled")


def test_a_search_is_settled_where_only_what_is_too_slow_could_be_better() -> None:
    """All placements of one group and of two are known, and three are above the cap."""
    fast = [p for p in SPACE if len(p.groups) <= 2]
    for cap, action in ((None, "begin"), (1.25, "settled")):
        study, sampler = studied([at(p, 4, "COMPLETE") for p in fast], budget=90, cap=cap)
        assert sampler.decide(study, [], True, settle=True).action == action

"""The additive model against brute force, and on worlds that it can and cannot explain."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from objectives.placement import Placement
from search.pareto import area
from search.strategy.additive_sampler import COURSE, RATIO, AdditiveSampler
from search.strategy.belief import Observation, believe, bent, design, explains, tells
from search.strategy.fidelity import course, rungs
from search.strategy.space import PlacementSpace
from search.study import Study
from tests.commands import environment

GROUPS = ("down", "gate", "k", "o", "q", "up", "v")
SPACE = PlacementSpace(GROUPS, (4, 8))
EFFECTS = dict(zip(GROUPS, (0.09, 0.02, 0.01, 0.06, 0.02, 0.10, 0.03), strict=True))


def truth(placement: Placement) -> Observation:
    loss = 2.0 - sum(EFFECTS[name] for name in placement.groups) * 4 - 0.02 * placement.rank
    return Observation(placement, 1.0 + 0.1 * len(placement.groups), (loss,), 0.9 - 0.25 * loss)


def noisy(placements: list[Placement], seed: int, noise: float = 0.05) -> list[Observation]:
    random = np.random.default_rng(seed)
    found = []
    for placement in placements:
        exact = truth(placement)
        assert exact.accuracy is not None
        accuracy, loss = exact.accuracy + random.normal(0, noise / 2), exact.course[0] + random.normal(0, noise)
        found.append(Observation(placement, exact.ratio, (loss,), accuracy))
    return found


def modelled(seen: list[Observation]) -> list[Observation]:
    """In a world whose groups add up in the figure that is modelled, which is below zero as -1 / loss is."""
    return [replace(o, course=tuple(loss - 5 for loss in o.course)) for o in seen]


def some(count: int, seed: int) -> list[Placement]:
    every = list(SPACE)
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:count]]


@pytest.mark.parametrize("by_loss", [True, False])
def test_what_was_not_tried_is_predicted_and_the_spread_is_honest(by_loss: bool) -> None:
    every = list(SPACE)
    exact = np.array([truth(placement).accuracy for placement in every])
    inside = []
    for seed in range(10):
        seen = noisy(some(20, seed), seed)
        if by_loss:
            seen = modelled(seen)
        else:
            seen = [Observation(o.placement, o.ratio, (-(o.accuracy or 0),), o.accuracy) for o in seen]
        belief = believe(seen, every, GROUPS, 1, np.random.default_rng(seed))
        assert np.corrcoef(belief.accuracy, exact)[0, 1] > 0.9
        assert belief.ratio == pytest.approx([truth(placement).ratio for placement in every], rel=0.02)
        low, high = np.quantile(belief.draws, [0.05, 0.95], axis=0)
        inside.append(np.mean((low <= exact) & (exact <= high)))
    assert np.mean(inside) > 0.7


@pytest.mark.parametrize("curve", [np.sqrt, np.log, lambda loss: -1 / loss], ids=["root", "logarithm", "inverse"])
def test_accuracy_may_follow_the_loss_along_another_curve_than_groups_do(curve: Callable[[float], float]) -> None:
    """The loss of what was not tried is extrapolated, here sixfold: a line in the wrong power is far off at an end."""
    every = list(SPACE)
    losses = {p: 1 / (0.3 + 5 * sum(EFFECTS[name] for name in p.groups)) for p in every}
    low, high = curve(min(losses.values())), curve(max(losses.values()))
    exact = {placement: 0.9 - 0.6 * (curve(loss) - low) / (high - low) for placement, loss in losses.items()}
    assert max(losses.values()) > 5 * min(losses.values())
    tried = some(24, 1)
    seen = [Observation(p, 1.0, bent([losses[p]]), exact[p]) for p in tried]
    believed = believe(seen, every, GROUPS, 1, np.random.default_rng(0)).accuracy
    assert believed == pytest.approx(list(exact.values()), abs=0.03)


def test_a_world_without_structure_is_found_out() -> None:
    explained, chance = [], []
    for seed in range(20):
        placements = some(24, seed)
        explained.append(explains(modelled(noisy(placements, seed)), GROUPS))
        random = np.random.default_rng(seed)
        chance.append(explains([Observation(p, 1.2, (float(random.normal()),), 0.5) for p in placements], GROUPS))
    assert np.mean(explained) == 1
    assert np.mean(chance) <= 0.3


def test_noise_refutes_the_model_only_where_there_is_enough_of_it() -> None:
    """A first batch of noisy losses does not, which sent live searches to train trial after trial to the end."""

    def explained(count: int, noise: float) -> float:
        worlds = [modelled(noisy(some(count, seed), seed, noise)) for seed in range(40)]
        return float(np.mean([explains(world, GROUPS) for world in worlds]))

    spread = float(np.std([truth(placement).course[0] for placement in SPACE]))
    assert explained(9, noise=spread) >= 0.7
    assert explained(40, noise=spread) >= 0.9
    assert explained(40, noise=20 * spread) <= 0.15


class Never(optuna.samplers.RandomSampler):
    def sample_relative(self, *_: object) -> dict[str, object]:
        raise AssertionError("the model should have been asked")


def propose(study: optuna.Study) -> Placement:
    trial = study.ask(dict(SPACE.distributions))
    return SPACE.placement(trial.params)


def test_the_loss_reaches_the_sampler_through_the_study(tmp_path: object) -> None:
    study = Study(
        f"sqlite:///{tmp_path}/s.db", "s", SPACE, strategy="additive", references=some(4, 0), budget=9, seed=0
    )
    for _ in range(9):
        asked = study.ask()
        assert asked is not None
        number, placement = asked
        exact = truth(placement)
        validation = {"accuracy": exact.accuracy, "loss": exact.course[-1]}
        study.tell(number, "complete", {"validation": validation, "latency": {"ratio": exact.ratio}})
    assert [trial.user_attrs[COURSE] for trial in study._study.trials] == [
        list(truth(SPACE.placement(trial.params)).course) for trial in study._study.trials
    ]


def test_a_designed_batch_shows_all_effects_in_few_trials() -> None:
    tried: list[Placement] = []
    for _ in range(16):
        candidates = [placement for placement in SPACE if placement not in tried]
        tried.append(candidates[int(design(tried, candidates, GROUPS).argmax())])

    def worst(placements: list[Placement]) -> float:
        return float(design(placements, list(SPACE), GROUPS).max())

    assert worst(tried) < 0.6 * min(worst(some(16, seed)) for seed in range(10))
    assert {placement.rank for placement in tried} == {4, 8}


def staged(misleading: float, seed: int) -> tuple[list[Observation], list[Placement]]:
    """32 placements at the first of four rungs, eight of them trained to the end."""
    random = np.random.default_rng(seed)
    seen, placements = [], some(32, seed)
    for count, placement in enumerate(placements):
        final = truth(placement)
        early = [final.course[0] + gap + random.normal(0, misleading) for gap in (1.5, 0.8, 0.3)]
        losses = (*early, final.course[0]) if count < 8 else early[:1]
        noisy_course = tuple(loss + random.normal(0, 0.02) for loss in losses)
        seen.append(Observation(placement, final.ratio, noisy_course, final.accuracy if count < 8 else None))
    return seen, placements[8:]


def test_early_losses_count_as_far_as_they_told_the_end_of_other_trials() -> None:
    spread = {}
    for misleading in (0.0, 1.0):
        found = []
        for seed in range(3):
            seen, stopped = staged(misleading, seed)
            belief = believe(modelled(seen), stopped, GROUPS, 4, np.random.default_rng(seed))
            exact = np.array([truth(placement).accuracy for placement in stopped])
            found.append((np.corrcoef(belief.accuracy, exact)[0, 1], float(belief.draws.std(0).mean())))
        spread[misleading] = np.mean(found, axis=0)
    assert spread[0.0][0] > 0.95
    assert spread[1.0][1] > 2 * spread[0.0][1], "what misleads leaves it unsure"


def search(
    seed: int, settle: bool = True, budget: int = 40, luck: float = 0.02
) -> tuple[optuna.Study, AdditiveSampler, int, float]:
    """A whole search by decide() and plain Optuna: steps that it took, and the chance at which it ended."""
    random = np.random.default_rng(seed)
    sampler = AdditiveSampler(SPACE, otherwise=optuna.samplers.RandomSampler, seed=seed, steps=200, budget=budget)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    steps, open_trials, spent = rungs(200), {}, 0
    while True:
        decision = sampler.decide(study, [], len(study.trials) < budget, settle)
        if decision.action == "settled":
            return study, sampler, spent, decision.chance
        if decision.number is None:
            trial = study.ask(dict(SPACE.distributions))
            open_trials[trial.number] = trial
            if SPACE.placement(trial.params).is_base:
                study.tell(open_trials.pop(trial.number), state=optuna.trial.TrialState.FAIL)
                continue
        else:
            trial = open_trials[decision.number]
        placement = SPACE.placement(trial.params)
        losses = list(trial.user_attrs.get(COURSE, []))
        level = len(losses) if decision.early else len(steps) - 1
        gaps = (1.5, 0.8, 0.3, 0.0)
        while len(losses) <= level:
            spent += steps[len(losses)] - (steps[len(losses) - 1] if losses else 0)
            losses.append(truth(placement).course[0] + gaps[len(losses)] + random.normal(0, 0.03))
        trial.set_user_attr(COURSE, losses)
        trial.set_user_attr(RATIO, truth(placement).ratio)
        if level == len(steps) - 1:
            accuracy = (truth(placement).accuracy or 0) + random.normal(0, luck)
            study.tell(open_trials.pop(trial.number), (accuracy, truth(placement).ratio))


def test_a_search_settles_near_the_front_for_a_fraction_of_the_steps() -> None:
    def reached(placements: list[Placement]) -> float:
        heights = np.array([truth(p).accuracy for p in placements]) - min(truth(p).accuracy or 0 for p in SPACE)
        return area(zip(heights, (1.8 - truth(p).ratio for p in placements), strict=True))

    for seed in range(2):
        study, _, spent, chance = search(seed)
        complete = [SPACE.placement(trial.params) for trial in study.trials if trial.values]
        assert chance < 0.2
        assert len(study.trials) < 40
        assert spent < 20 * 200
        assert reached(complete) > 0.9 * reached(list(SPACE))


def test_without_settling_the_budget_is_used_up() -> None:
    study, _, spent, _ = search(0, settle=False, budget=24)
    assert len(study.trials) == 24
    assert 11 * 200 < spent <= 12 * 200, "half of what whole trainings take"
    placements = [SPACE.placement(trial.params) for trial in study.trials]
    assert len(set(placements)) == len(placements)


def test_where_losses_do_not_tell_accuracy_trials_get_all_of_the_steps() -> None:
    study, sampler, spent, _ = search(0, settle=False, budget=24, luck=5.0)
    assert len(study.trials) == 24
    assert spent == sampler.ceiling == 24 * 200


def test_few_lucky_accuracies_refute_nothing_and_many_do() -> None:
    def told(count: int, luck: float) -> float:
        worlds = []
        for seed in range(40):
            random = np.random.default_rng(seed)
            worlds.append([replace(o, accuracy=random.normal(o.accuracy, luck)) for o in map(truth, some(count, seed))])
        return float(np.mean([tells(world) for world in worlds]))

    spread = float(np.std([truth(placement).accuracy for placement in SPACE]))
    assert told(3, luck=100.0) == 1, "three trials say nothing"
    assert told(10, luck=spread / 2) >= 0.9
    assert told(10, luck=20 * spread) <= 0.2
    assert told(40, luck=20 * spread) == 0
    same = [replace(o, accuracy=0.5) for o in map(truth, some(12, 0))]
    assert tells(same)
    assert tells([replace(o, accuracy=None) for o in same])


@pytest.mark.parametrize(
    ("budget", "steps", "ceiling"),
    [(9, 200, None), (10, 200, 1800), (24, 200, 2400), (24, 79, None)],
    ids=["a first batch", "little more", "more", "too short to stop"],
)
def test_trials_share_half_of_the_steps_where_there_is_something_to_save(
    budget: int, steps: int, ceiling: int | None
) -> None:
    sampler = AdditiveSampler(SPACE, otherwise=optuna.samplers.RandomSampler, seed=0, steps=steps, budget=budget)
    assert (sampler.ceiling, sampler.stops_early) == (ceiling, ceiling is not None)
    study = optuna.create_study(directions=["maximize", "minimize"])
    assert sampler.decide(study, [], True, settle=False).early == sampler.stops_early


def test_many_workers_begin_with_few_steps_each_before_anything_is_known() -> None:
    """More at once than the first batch needs: those beyond it went to the other sampler, and ran to their end."""
    sampler = AdditiveSampler(SPACE, otherwise=Never, seed=0, steps=200, budget=40)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    proposed = []
    for running in range(20):
        decision = sampler.decide(study, range(running), True, settle=False)
        assert (decision.action, decision.early) == ("begin", True)
        proposed.append(propose(study))
    assert len(set(proposed)) == 20
    assert sampler.decide(study, range(20), False, settle=False).action == "settled", "none may begin, none has stopped"


def decided() -> str:
    study, _, spent, _ = search(3, settle=False, budget=24)
    return f"{spent} {[(trial.params, trial.state.name) for trial in study.trials]}\n"


def test_another_process_decides_the_same() -> None:
    """Hashes of strings differ between processes: nothing may go by the order of a set."""
    code = "from tests.search.test_additive_sampler import decided\nprint(decided(), end='')"
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment() | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said == [decided()] * 2


def test_rungs_are_whole_entries_of_the_training_losses() -> None:
    assert rungs(200) == (20, 50, 100, 200)
    assert rungs(80) == (20, 40, 80)
    assert rungs(79) == (79,), "20 steps of 79 are too large a part of it"
    assert rungs(30) == (30,)
    assert rungs(1) == (1,)


def test_a_course_has_the_mean_training_loss_so_far_at_each_rung_and_the_validation_loss_at_the_end() -> None:
    losses = [(step, 100.0 / step) for step in range(10, 81, 10)]
    assert course(losses[:1], None, 80) == ()
    assert course(losses[:3], None, 80) == (7.5,)
    assert course(losses, 0.5, 80) == (7.5, pytest.approx((10 + 5 + 10 / 3 + 2.5) / 4), 0.5)
    assert course(losses[:3], 0.5, 30) == (0.5,)

"""The additive model against brute force, and on worlds that it can and cannot explain."""

from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.placement import Placement
from search.pareto import hypervolume
from search.strategy.additive import Belief, LinearPosterior, Observation, believe, expected_gain, explains, features
from search.strategy.additive_sampler import AdditiveSampler
from search.strategy.space import PlacementSpace
from search.study import Study

GROUPS = ("down", "gate", "k", "o", "q", "up", "v")
SPACE = PlacementSpace(GROUPS, (4, 8))
EFFECTS = dict(zip(GROUPS, (0.09, 0.02, 0.01, 0.06, 0.02, 0.10, 0.03), strict=True))


def truth(placement: Placement) -> Observation:
    loss = 2.0 - sum(EFFECTS[name] for name in placement.groups) * 4 - 0.02 * placement.rank
    return Observation(placement, 0.9 - 0.25 * loss, 1.0 + 0.1 * len(placement.groups), loss)


def noisy(placements: list[Placement], seed: int, noise: float = 0.05) -> list[Observation]:
    random = np.random.default_rng(seed)
    found = []
    for placement in placements:
        exact = truth(placement)
        assert exact.loss is not None
        accuracy, loss = exact.accuracy + random.normal(0, noise / 2), exact.loss + random.normal(0, noise)
        found.append(Observation(placement, accuracy, exact.ratio, loss))
    return found


def some(count: int, seed: int) -> list[Placement]:
    every = list(SPACE)
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:count]]


def test_features_tell_all_placements_apart() -> None:
    rows = features(list(SPACE), GROUPS)
    assert rows.shape == (SPACE.size, 4 + len(GROUPS))
    assert len(np.unique(rows, axis=0)) == SPACE.size
    assert np.all(rows[:, 0] == 1)


@given(st.integers(0, 1000), st.integers(5, 30))
@settings(max_examples=30, deadline=None)
def test_left_out_predictions_are_those_of_a_fit_without_the_row(seed: int, count: int) -> None:
    """For the scales that the whole fit chose."""
    random = np.random.default_rng(seed)
    rows = np.column_stack([np.ones(count), random.normal(size=(count, 3))])
    values = rows @ random.normal(size=4) + random.normal(size=count)
    fit = LinearPosterior(rows, values)
    precision = np.linalg.inv(fit.covariance)
    scaled = (values - values.mean()) / values.std()
    for i, got in enumerate(fit.left_out(rows, values)):
        without = precision - np.outer(rows[i], rows[i])
        weights = np.linalg.solve(without, rows.T @ scaled - rows[i] * scaled[i])
        assert got == pytest.approx(values.mean() + values.std() * float(rows[i] @ weights), abs=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_the_gain_is_that_of_the_hypervolume(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(2, 12))
    accuracy, ratio = random.random(count), 1 + random.random(count)
    tried = random.random(count) < 0.5
    gain = expected_gain(Belief(accuracy, ratio, accuracy[None]), tried)
    points = list(zip(accuracy.tolist(), ratio.tolist(), strict=True))
    known = [point for point, is_tried in zip(points, tried, strict=True) if is_tried]
    for i, point in enumerate(points):
        expected = 0.0 if tried[i] else hypervolume([*known, point]) - hypervolume(known)
        assert gain[i] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("by_loss", [True, False])
def test_what_was_not_tried_is_predicted_and_the_spread_is_honest(by_loss: bool) -> None:
    every = list(SPACE)
    exact = np.array([truth(placement).accuracy for placement in every])
    inside = []
    for seed in range(10):
        seen = noisy(some(20, seed), seed)
        if not by_loss:
            seen = [Observation(o.placement, o.accuracy, o.ratio) for o in seen]
        belief = believe(seen, every, GROUPS, np.random.default_rng(seed))
        assert np.corrcoef(belief.accuracy, exact)[0, 1] > 0.9
        assert belief.ratio == pytest.approx([truth(placement).ratio for placement in every], rel=0.02)
        low, high = np.quantile(belief.draws, [0.05, 0.95], axis=0)
        inside.append(np.mean((low <= exact) & (exact <= high)))
    assert np.mean(inside) > 0.7


def test_a_world_without_structure_is_found_out() -> None:
    explained, chance = [], []
    for seed in range(20):
        placements = some(24, seed)
        explained.append(explains(noisy(placements, seed), GROUPS))
        random = np.random.default_rng(seed)
        chance.append(explains([Observation(p, 0.5, 1.2, float(random.normal())) for p in placements], GROUPS))
    assert np.mean(explained) == 1
    assert np.mean(chance) <= 0.3


class _Never(optuna.samplers.RandomSampler):
    def sample_relative(self, *_: object) -> dict[str, object]:
        raise AssertionError("the model should have been asked")


def told_study(placements: list[Placement]) -> tuple[optuna.Study, AdditiveSampler]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = AdditiveSampler(SPACE, otherwise=_Never(seed=0), seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for observed in noisy(placements, 0):
        trial = optuna.create_trial(
            params=SPACE.params(observed.placement),
            distributions=dict(SPACE.distributions),
            values=[observed.accuracy, observed.ratio],
            user_attrs={"validation_loss": observed.loss},
        )
        study.add_trial(trial)
    return study, sampler


def propose(study: optuna.Study) -> Placement:
    trial = study.ask(dict(SPACE.distributions))
    return SPACE.placement(trial.params)


def test_a_proposal_is_new_and_better_than_what_there_is() -> None:
    tried = [Placement.of([name], 4) for name in GROUPS]
    study, _ = told_study(tried)
    points = [(truth(p).accuracy, truth(p).ratio) for p in tried]
    proposed = propose(study)
    assert proposed not in tried
    gained = hypervolume([*points, (truth(proposed).accuracy, truth(proposed).ratio)]) - hypervolume(points)
    gains = sorted(hypervolume([*points, (truth(p).accuracy, truth(p).ratio)]) - hypervolume(points) for p in SPACE)
    assert gained >= gains[int(len(gains) * 0.8)], "among the best fifth"


def test_workers_side_by_side_get_different_placements() -> None:
    study, _ = told_study(some(8, 1))
    proposed = [propose(study) for _ in range(6)]
    assert len(set(proposed)) == 6


def test_with_plain_optuna_and_no_loss_it_works_too() -> None:
    study, sampler = told_study([])
    sampler._otherwise = optuna.samplers.RandomSampler(seed=1)
    for _ in range(10):
        trial = study.ask(dict(SPACE.distributions))
        placement = SPACE.placement(trial.params)
        if placement.is_base:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, (truth(placement).accuracy, truth(placement).ratio))
    assert any(trial.values for trial in study.trials)


def test_a_space_too_large_to_list_gets_proposals_that_are_allowed() -> None:
    groups = tuple(f"g{i:02d}" for i in range(20))
    space = PlacementSpace(groups, (4, 8), lambda p: len(p.groups) <= 10)
    study = optuna.create_study(directions=["maximize", "minimize"])
    sampler = AdditiveSampler(space, otherwise=_Never(seed=0), seed=0)
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


def test_the_loss_reaches_the_sampler_through_the_study(tmp_path: object) -> None:
    study = Study(
        f"sqlite:///{tmp_path}/s.db", "s", SPACE, strategy="additive", references=some(4, 0), budget=9, seed=0
    )
    for _ in range(9):
        asked = study.ask(())
        assert asked is not None
        number, placement = asked
        exact = truth(placement)
        study.tell(number, "complete", (exact.accuracy, exact.ratio), loss=exact.loss)
    assert [trial.user_attrs["validation_loss"] for trial in study._study.trials] == [
        truth(SPACE.placement(trial.params)).loss for trial in study._study.trials
    ]

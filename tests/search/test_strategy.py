"""Whatever proposes: references first, every placement once, only what is allowed, and all of it before the end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objectives.errors import RequestError
from objectives.placement import BASE, Placement
from search.names import STRATEGIES
from search.strategy.nsga2 import population
from search.strategy.sampler import PlacementSampler, make_sampler
from search.strategy.space import PlacementSpace
from search.strategy.tpe import TPESampler
from search.strategy.tried import KNOWN, Tried

GROUPS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj")
SPACES = st.builds(
    lambda count, ranks: PlacementSpace(GROUPS[:count], tuple(sorted(ranks))),
    st.integers(1, 5),
    st.sets(st.sampled_from([1, 4, 8, 64]), min_size=1, max_size=3),
)


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def worth(placement: Placement) -> tuple[float, float]:
    """A plausible task: more and larger adapters help with falling returns, and each costs time."""
    size = sum(1.0 + GROUPS.index(group) / 3 for group in placement.groups)
    return 1 - 1 / (1 + size * placement.rank**0.2), 1 + 0.05 * len(placement.groups)


def ask_all(
    strategy: str,
    space: PlacementSpace,
    *,
    references: Sequence[Placement] = (),
    limit: int = 1000,
    seed: int = 0,
    budget: int = 40,
    max_ratio: float | None = None,
) -> list[Placement]:
    """Every placement that the strategy gives out, told at once what it is worth, until it has no more."""
    sampler = make_sampler(strategy, space, references, budget=budget, seed=seed, max_ratio=max_ratio)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    given_out: list[Placement] = []
    while len(given_out) < limit:
        try:
            trial = study.ask(space.distributions)
        except LookupError:
            break
        placement = space.placement(trial.params)
        given_out.append(placement)
        study.tell(trial, worth(placement))
    return given_out


@given(SPACES)
def test_a_space_lists_every_placement_once_small_ones_first(space: PlacementSpace) -> None:
    listed = list(space)
    assert len(listed) == len(set(listed)) == space.size == (2 ** len(space.groups) - 1) * len(space.ranks)
    assert BASE not in listed
    assert [len(p.groups) for p in listed] == sorted(len(p.groups) for p in listed)
    assert all(set(p.groups) <= set(space.groups) and p.rank in space.ranks for p in listed)


@given(SPACES, st.data())
def test_parameters_and_placements_are_two_ways_to_write_one_thing(space: PlacementSpace, data: st.DataObject) -> None:
    placement = data.draw(st.sampled_from(list(space)))
    params = space.params(placement)
    assert params.keys() == space.distributions.keys()
    assert space.placement(params) == placement


@given(SPACES, st.data())
def test_untried_is_what_was_neither_tried_nor_known(space: PlacementSpace, data: st.DataObject) -> None:
    """Whatever the trials of other searches say, which only know."""
    everything = list(space)
    some = st.sets(st.sampled_from(everything), max_size=8)
    tried, known, elsewhere = data.draw(some), data.draw(some), data.draw(some)
    study = optuna.create_study(directions=["maximize", "minimize"])
    for placements, attributes in ((elsewhere, {KNOWN: [1]}), (tried, {})):
        for placement in placements:
            params, distributions = space.params(placement), dict(space.distributions)
            study.add_trial(
                optuna.create_trial(
                    params=params, distributions=distributions, values=worth(placement), user_attrs=attributes
                )
            )
    found = Tried(space, known)
    found.read(study)
    assert {placement for placement in everything if placement in found} == tried
    assert found.untried() == next((each for each in everything if each not in tried | known), None)


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(RequestError) as refused:
        make_sampler("foo", PlacementSpace(GROUPS, (8,)), (), budget=10, seed=0)
    known = "auto, additive, tpe, nsga2, gp, random, grid"
    assert str(refused.value) == f"strategy 'foo' is unknown: choose from {known}"


def test_what_is_not_allowed_is_not_listed() -> None:
    space = PlacementSpace(GROUPS[:3], (4, 8), lambda p: p.rank * len(p.groups) <= 8)
    assert [p.label for p in space] == [
        "q_proj r4", "q_proj r8", "k_proj r4", "k_proj r8", "v_proj r4", "v_proj r8",
        "k_proj+q_proj r4", "q_proj+v_proj r4", "k_proj+v_proj r4",
    ]  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=5)
@given(
    count=st.integers(1, 3),
    ranks=st.sampled_from([(8,), (4, 8)]),
    most=st.integers(1, 3),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_all_that_is_allowed_is_given_out_once_then_nothing(
    strategy: str, count: int, ranks: tuple[int, ...], most: int, seed: int, data: st.DataObject
) -> None:
    if strategy == "gp":  # slow where little is left
        most = 1
    space = PlacementSpace(GROUPS[:count], ranks, lambda p: len(p.groups) <= most)
    references = data.draw(st.lists(st.sampled_from(list(space)), unique=True, max_size=4))
    given_out = ask_all(strategy, space, references=references, seed=seed)
    assert given_out[: len(references)] == references
    assert len(given_out) == len(set(given_out))
    assert set(given_out) == set(space)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_larger_space_has_no_repeats(strategy: str) -> None:
    space = PlacementSpace(GROUPS, (4, 8, 16))
    limit = 12 if strategy == "gp" else 24
    given_out = ask_all(strategy, space, limit=limit)
    assert len(set(given_out)) == limit
    assert BASE not in given_out


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_seed_repeats_a_search(strategy: str) -> None:
    space = PlacementSpace(GROUPS, (4, 8))
    assert ask_all(strategy, space, limit=11, seed=5) == ask_all(strategy, space, limit=11, seed=5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_proposed_is_the_same_from_the_trials_alone(strategy: str) -> None:
    """As after a resume: nothing is kept in the sampler, nor in the study beside its trials."""
    space = PlacementSpace(GROUPS, (4, 8))
    lasting = optuna.create_study(directions=["maximize", "minimize"])
    lasting.sampler = make_sampler(strategy, space, [], budget=14, seed=0)
    for _ in range(10 if strategy == "gp" else 14):
        resumed = optuna.create_study(directions=["maximize", "minimize"])
        resumed.sampler = make_sampler(strategy, space, [], budget=14, seed=0)
        resumed.add_trials(lasting.trials)
        trial = lasting.ask(space.distributions)
        assert resumed.ask(space.distributions).params == trial.params
        lasting.tell(trial, worth(space.placement(trial.params)))


@pytest.mark.parametrize("strategy", ["tpe", "nsga2", "gp", "random"])
def test_another_seed_makes_another_search(strategy: str) -> None:
    space = PlacementSpace(GROUPS, (4, 8))
    assert ask_all(strategy, space, limit=11, seed=5) != ask_all(strategy, space, limit=11, seed=6)


def test_a_reference_that_is_not_allowed_is_passed_over() -> None:
    space = PlacementSpace(GROUPS[:2], (4,), lambda p: len(p.groups) == 1)
    both, one = Placement.of(GROUPS[:2], 4), Placement.of(["k_proj"], 4)
    assert ask_all("grid", space, references=[both, one])[0] == one


def test_the_second_generation_of_nsga2_has_parents() -> None:
    """Of Optuna's 50 a budget of 24 would never see one: it would be a random search."""
    assert [population(budget) for budget in (1, 14, 15, 24, 90, 1000)] == [4, 4, 5, 8, 30, 50]
    space = PlacementSpace(GROUPS, (4, 8, 16))
    by_chance, bred = (ask_all(name, space, limit=12, budget=24) for name in ("random", "nsga2"))
    assert bred[:8] == by_chance[:8]
    assert bred != by_chance


def test_tpe_proposes_what_optunas_does_and_fits_once_for_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A placement that was tried is proposed again and again; Optuna's fits all trials anew for each proposal."""
    space = PlacementSpace(GROUPS, (4, 8))
    study = optuna.create_study(directions=["maximize", "minimize"])
    params, distributions = space.params, dict(space.distributions)
    for placement in list(space)[::3]:
        study.add_trial(
            optuna.create_trial(params=params(placement), distributions=distributions, values=worth(placement))
        )
    fits: list[TPESampler] = []
    build = TPESampler._build_parzen_estimator

    def counted(self: TPESampler, *args: Any, **kwargs: Any) -> Any:
        fits.append(self)
        return build(self, *args, **kwargs)

    monkeypatch.setattr(TPESampler, "_build_parzen_estimator", counted)
    settings = {"multivariate": True, "constant_liar": True, "n_startup_trials": 8, "seed": 3}
    ours, optunas = TPESampler(**settings), optuna.samplers.TPESampler(**settings)
    for _ in range(2):
        trial = study.ask()._get_latest_trial()
        for _ in range(5):
            assert ours.sample_relative(study, trial, distributions) == optunas.sample_relative(
                study, trial, distributions
            )
    assert len(fits) == 2 * 2, "good trials and bad ones, for each of two trials"


def test_what_is_known_is_measured_again_only_where_it_is_to_be() -> None:
    space = PlacementSpace(GROUPS[:2], (4,))
    k, q, both = (Placement.of(groups, 4) for groups in (["k_proj"], ["q_proj"], ["k_proj", "q_proj"]))
    sampler = make_sampler("grid", space, [q, both], budget=10, seed=0, known=[q, k], again=[k])
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for placement in (k, both):
        assert not sampler.is_spent(study)
        assert sampler.decide(study, [], may_begin=False, settle=False).action == "settled"
        decision = sampler.decide(study, [], may_begin=True, settle=False)
        assert (decision.action, decision.number, decision.early) == ("begin", None, False)
        trial = study.ask(space.distributions)
        assert space.placement(trial.params) == placement
        study.tell(trial, worth(placement))
    assert sampler.is_spent(study)
    with pytest.raises(LookupError):
        study.ask(space.distributions)
    assert (sampler.runs_whole(k), sampler.runs_whole(both)) == (True, False)


def test_a_space_that_is_known_is_not_spent_before_what_is_to_be_measured_again() -> None:
    space = PlacementSpace(GROUPS[:2], (4,))
    again = Placement.of(["k_proj"], 4)
    sampler = make_sampler("grid", space, [], budget=10, seed=0, known=list(space), again=[again])
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    assert not sampler.is_spent(study)
    study.tell(study.ask(space.distributions), worth(again))
    assert sampler.is_spent(study)


def test_a_grid_walks_the_space_in_its_order() -> None:
    space = PlacementSpace(GROUPS[:3], (4, 8))
    assert ask_all("grid", space) == list(space)


@pytest.mark.parametrize(("budget", "is_grid"), [(14, True), (13, False)])
def test_auto_is_a_grid_where_the_budget_covers_the_space(budget: int, is_grid: bool) -> None:
    space = PlacementSpace(GROUPS[:3], (4, 8))
    assert (ask_all("auto", space, budget=budget) == list(space)) == is_grid


@pytest.mark.parametrize(("budget", "is_grid"), [(6, True), (5, False)])
def test_what_a_cap_leaves_of_the_space_is_what_the_budget_has_to_cover(budget: int, is_grid: bool) -> None:
    space = PlacementSpace(GROUPS[:3], (4, 8), lambda placement: len(placement.groups) == 1)
    assert (space.count(100), space.count(4)) == (6, 4)
    sampler = make_sampler("auto", space, [], budget=budget, seed=0, steps=200)
    assert (sampler._inner is None) == is_grid


def running(study: optuna.Study, params: dict[str, object], space: PlacementSpace) -> int:
    """A trial as a killed process leaves it: RUNNING, with some of its parameters written, or none."""
    storage = study._storage
    trial_id = storage.create_new_trial(study._study_id)
    for name, value in params.items():
        distribution = space.distributions[name]
        storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)
    return trial_id


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=8)
@given(data=st.data())
def test_a_trial_that_was_half_asked_for_is_completed_around_what_it_has(strategy: str, data: st.DataObject) -> None:
    space = PlacementSpace(GROUPS[:3], (4, 8))
    whole = data.draw(st.sampled_from(list(space)))
    others = [p for p in space if p != whole]
    tried = data.draw(st.lists(st.sampled_from(others), unique=True, max_size=13))
    written = data.draw(st.integers(0, 3))

    study = optuna.create_study(directions=["maximize", "minimize"])
    for placement in tried:
        study.add_trial(
            optuna.create_trial(
                params=space.params(placement), distributions=space.distributions, values=worth(placement)
            )
        )
    params = dict(itertools.islice(space.params(whole).items(), written))
    trial_id = running(study, params, space)
    study.sampler = make_sampler(strategy, space, (), budget=40, seed=0)
    trial = optuna.Trial(study, trial_id)
    for name, distribution in space.distributions.items():
        trial.suggest_categorical(name, distribution.choices)
    placement = space.placement(trial.params)
    assert params.items() <= trial.params.items()
    assert placement not in tried
    assert placement in set(space)


def test_no_way_to_complete_a_trial_is_said() -> None:
    space = PlacementSpace(GROUPS[:1], (4, 8))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=PlacementSampler(space, None, (), 0))
    trial_id = running(study, {"q_proj": False}, space)
    with pytest.raises(LookupError, match=r"^every placement was tried$"):
        optuna.Trial(study, trial_id).suggest_categorical("rank", (4, 8))


def test_a_parameter_of_another_space_is_refused() -> None:
    space = PlacementSpace(GROUPS[:1], (4,))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=PlacementSampler(space, None, (), 0))
    with pytest.raises(ValueError, match=r"^dropout is not part of this search's space$"):
        study.ask().suggest_float("dropout", 0, 1)


def test_the_inner_sampler_learns_of_every_trial() -> None:
    calls: list[str] = []

    class Listening(optuna.samplers.RandomSampler):
        def before_trial(self, *_: object) -> None:
            calls.append("before")

        def after_trial(self, *_: object) -> None:
            calls.append("after")

    space = PlacementSpace(GROUPS[:2], (4,))
    sampler = PlacementSampler(space, Listening, (), 0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.tell(study.ask(space.distributions), (0.5, 1.1))
    assert calls == ["before", "after"]


@pytest.mark.parametrize("strategy", ["tpe", "nsga2", "random"])
def test_what_is_too_slow_comes_last_and_of_it_the_fastest_first(strategy: str) -> None:
    space = PlacementSpace(GROUPS, (8,))
    sizes = [len(placement.groups) for placement in ask_all(strategy, space, max_ratio=1.12)]
    after = sizes[6:]  # latencies of so many tell what the others will be
    fast = sum(size <= 2 for size in after)
    assert max(after[:fast]) == 2
    assert after[fast:] == sorted(after[fast:])
    assert sorted(sizes) == [1] * 5 + [2] * 10 + [3] * 10 + [4] * 5 + [5]
    slowest = max(worth(placement)[1] for placement in space)
    assert ask_all(strategy, space, max_ratio=1.1 * slowest) == ask_all(strategy, space), "a cap above all is none"


def test_where_all_is_too_slow_a_large_space_is_not_walked_to_its_end() -> None:
    looked_at: list[Placement] = []

    def allowed(placement: Placement) -> bool:
        looked_at.append(placement)
        return True

    space = PlacementSpace(tuple(f"g{number:02}" for number in range(18)), (8,), allowed)
    sampler = make_sampler("random", space, (), budget=40, seed=0, max_ratio=1.01)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(3):
        trial = study.ask(space.distributions)
        study.tell(trial, (0.5, 1 + 0.05 * len(space.placement(trial.params).groups)))
    assert len(looked_at) < 10_000 < space.size

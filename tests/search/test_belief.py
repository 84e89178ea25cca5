"""What trials say of placements, and whether they say it, against other ways to compute the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from objectives.placement import Placement
from search.strategy.belief import Observation, believe, bent, design, expected_ratios, explains, tells
from search.strategy.linear import features
from search.strategy.space import PlacementSpace

GROUPS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
SPACE = list(PlacementSpace(GROUPS, (8,)))
#: That gate_proj and up_proj are alike is all that the reference placements say of these two.
TRIED = [
    Placement.of(groups, 8)
    for groups in (
        ["o_proj"],
        ["down_proj", "o_proj"],
        ["q_proj", "v_proj"],
        ["k_proj", "o_proj", "q_proj", "v_proj"],
        ["down_proj", "gate_proj", "up_proj"],
        GROUPS,
    )
]


def test_what_would_tell_as_much_is_told_apart_by_no_rounding() -> None:
    """It was: the second placement of a search, and all that followed, differed between processors."""
    other = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    mirrored = [Placement.of([other.get(name, name) for name in placement.groups], 8) for placement in SPACE]
    assert design(TRIED, SPACE, GROUPS).tolist() == design(TRIED, mirrored, GROUPS).tolist()


def test_what_tells_most_is_what_the_determinant_grows_by() -> None:
    """Of the precision of all effects: to take the largest is the greedy D-optimal design."""
    before = 0.1 * np.eye(4 + len(GROUPS)) + features(TRIED, GROUPS).T @ features(TRIED, GROUPS)
    grown = [np.linalg.det(before + np.outer(row, row)) / np.linalg.det(before) for row in features(SPACE, GROUPS)]
    assert design(TRIED, SPACE, GROUPS) + 1 == pytest.approx(grown, abs=1e-8)
    nothing = [np.linalg.det(np.eye(11) + 10 * np.outer(row, row)) for row in features(SPACE, GROUPS)]
    assert design([], SPACE, GROUPS) + 1 == pytest.approx(nothing, abs=1e-8)


def additive(count: int, seed: int) -> list[Observation]:
    """Trials whose groups add up in 1 / loss, in accuracy, which is half of that, and in the ratio's logarithm."""
    random = np.random.default_rng(seed)
    worth = dict(zip(GROUPS, random.uniform(0.02, 0.1, len(GROUPS)), strict=True))
    seen = []
    for index in random.choice(len(SPACE), count, replace=False):
        gained = sum(worth[name] for name in SPACE[index].groups)
        course = bent([1 / (0.8 + 0.5 * gained), 1 / (1 + gained)])
        seen.append(Observation(SPACE[index], 1.05 ** len(SPACE[index].groups), course, (1 + gained) / 2))
    return seen


def test_the_logarithms_of_ratios_add_up() -> None:
    expected = expected_ratios(additive(20, 0), SPACE, GROUPS)
    assert expected == pytest.approx([1.05 ** len(placement.groups) for placement in SPACE], rel=0.01)


def test_of_a_placement_that_was_measured_its_own_ratio_counts() -> None:
    seen = additive(20, 0)
    seen[3] = replace(seen[3], ratio=2.5)
    tried = [o.placement for o in seen]
    ratio = believe(seen, SPACE, GROUPS, 2, np.random.default_rng(0)).ratio
    assert [ratio[SPACE.index(placement)] for placement in tried] == [o.ratio for o in seen]


def test_a_trial_that_has_just_begun_moves_nothing_but_latencies() -> None:
    """It has a ratio, and no losses that could be taken for another's."""
    seen = additive(20, 0)
    begun = Observation(next(p for p in SPACE if p not in [o.placement for o in seen]), 1.1)
    with_it, without = (
        believe(each, SPACE, GROUPS, 2, np.random.default_rng(0)).draws for each in ([begun, *seen], seen)
    )
    assert (with_it == without).all()


def accuracies(seen: list[Observation]) -> list[float]:
    """That are believed of the placements ``seen``, in their order."""
    about = [o.placement for o in seen]
    return believe(seen, about, GROUPS, 2, np.random.default_rng(0)).accuracy.tolist()


def test_three_complete_trials_make_accuracies_of_losses() -> None:
    """Before that the loss's logarithm stands for accuracy, which is on no scale of it."""
    seen = additive(20, 0)
    end = [o.accuracy for o in seen]
    logarithms = [np.log(-o.course[-1]) for o in seen]
    for complete, expected in ((2, logarithms), (3, end)):
        told = [o if place < complete else replace(o, accuracy=None) for place, o in enumerate(seen)]
        assert accuracies(told) == pytest.approx(expected, abs=0.03)


def test_where_less_loss_came_with_less_accuracy_the_loss_alone_is_believed() -> None:
    seen = additive(20, 0)
    against = [replace(o, accuracy=-(o.accuracy or 0) if place < 3 else None) for place, o in enumerate(seen)]
    none = [replace(o, accuracy=None) for o in seen]
    assert accuracies(against) == accuracies(none)
    assert stats.spearmanr(accuracies(against), [o.course[-1] for o in seen]).statistic < -0.98


def test_the_unit_of_the_loss_does_not_matter() -> None:
    """Bits or nats, of a token or of a row: the curve from loss to accuracy has the same shape."""
    random = np.random.default_rng(1)
    seen = [replace(o, accuracy=(o.accuracy or 0) ** 2 + 0.02 * float(random.normal())) for o in additive(20, 1)]
    in_other_units = [replace(o, course=tuple(value / 50 for value in o.course)) for o in seen]
    assert accuracies(in_other_units) == pytest.approx(accuracies(seen), abs=1e-9)


def test_what_is_bent_is_below_zero_whatever_the_loss() -> None:
    assert bent([2.0, 0.5, 0.0]) == (-0.5, -2.0, -1e6)


def believed_to_rank(one: list[float], other: list[float], useful: float) -> bool | None:
    """By scipy; None where it is a matter of rounding."""
    found = stats.spearmanr(one, other).statistic
    least = np.tanh(np.arctanh(useful) + stats.norm.ppf(0.1) / np.sqrt(len(one) - 3))
    return None if abs(found - least) < 1e-3 else bool(found > least)


@given(st.integers(4, 40), st.integers(0, 10_000), st.floats(0, 3))
@settings(max_examples=60)
def test_losses_tell_accuracy_unless_their_ranks_refute_it(count: int, seed: int, noise: float) -> None:
    random = np.random.default_rng(seed)
    gained = random.normal(size=count).round(1)  # with ties
    accuracy = (gained + noise * random.normal(size=count)).round(1)
    if min(gained.std(), accuracy.std()) == 0:
        return
    pairs = list(zip(gained.tolist(), accuracy.tolist(), strict=True))
    expected = believed_to_rank(gained.tolist(), accuracy.tolist(), 0.8)
    assert expected is None or tells([Observation(SPACE[0], 1.0, (9.0, -10 - g), a) for g, a in pairs]) == expected


def test_the_model_is_judged_by_the_first_losses_which_all_trials_have() -> None:
    random = np.random.default_rng(0)
    for chance_at, expected in ((1, True), (0, False)):
        world = []
        for place, o in enumerate(additive(40, 0)):
            course = list(o.course)
            course[chance_at] = -1.0 - 0.5 * float(random.random())
            world.append(replace(o, course=tuple(course if place < 15 else course[:1])))
        begun = Observation(Placement.of(GROUPS, 8), 1.1)
        assert explains([begun, *world], GROUPS) == expected

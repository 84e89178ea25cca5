"""What losses at several levels tell of the last one."""

from __future__ import annotations

import numpy as np
import pytest

from search.strategy.belief import Observation, believe
from search.strategy.curves import CurvePosterior
from search.strategy.linear import features
from search.strategy.space import PlacementSpace

GROUPS = tuple("abcdefg")
PLACEMENTS = list(PlacementSpace(GROUPS, (8,)))


@pytest.mark.parametrize("ended", [1, 2, 3])
def test_the_first_trainings_that_end_do_not_drown_what_early_losses_tell(ended: int) -> None:
    """Differences are often ten times as large at the end as at the first level."""
    random = np.random.default_rng(0)
    worth = np.array([0.4, 0.1, 0.8, 0.5, 0.2, 0.6, 0.3])
    true = np.array([worth[[group in placement.groups for group in GROUPS]].sum() for placement in PLACEMENTS])
    begun = random.choice(len(PLACEMENTS), 9, replace=False)
    seen = []
    for place, index in enumerate(begun):
        early = tuple(-1 - scale * (true[index] + 0.1 * random.standard_normal()) for scale in (0.1, 0.3, 0.6))
        course = (*early, -2 - true[index]) if place < ended else early[:1]
        accuracy = 0.5 + 0.1 * true[index] if place < ended else None
        seen.append(Observation(PLACEMENTS[index], 1.0 + 0.1 * len(PLACEMENTS[index].groups), course, accuracy))
    belief = believe(seen, PLACEMENTS, GROUPS, 4, random)
    assert np.corrcoef(belief.accuracy, true)[0, 1] > 0.85


def test_rounding_does_not_choose_what_is_believed() -> None:
    """While no trial went on, the evidence for how much early losses tell is the same whatever they are."""
    rows = features(PLACEMENTS, GROUPS)
    unknown = np.full(len(rows), -1)
    for seed in range(20):
        random = np.random.default_rng(seed)
        begun = random.choice(len(rows), 9, replace=False)
        losses = np.full((9, 4), np.nan)
        losses[:, 0] = rows[begun, 4:] @ random.uniform(0.1, 0.8, 7) + 0.1 * random.standard_normal(9)
        drawn, thrice = (
            CurvePosterior(rows[begun], values).draws(rows, unknown, 20, np.random.default_rng(0))
            for values in (losses, 3 * losses)
        )
        np.testing.assert_allclose(3 * drawn, thrice, rtol=1e-6)

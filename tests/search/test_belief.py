"""What the model is asked to begin with does not hang on the machine that asks."""

from __future__ import annotations

from objectives.placement import Placement
from search.strategy.belief import design
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

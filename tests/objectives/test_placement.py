"""Placements are canonical: equal ones compare, hash and print equal, in every process and version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.placement import BASE, CUSTOMARY_ALPHA, Alpha, Placement

NAMES = ["q_proj", "k_proj@first", "k_proj@middle", "k_proj@last", "up_proj@first"]
GROUPS = st.lists(st.sampled_from(NAMES), max_size=8)


@given(GROUPS, st.integers(1, 512), st.randoms())
def test_order_and_repeats_of_groups_do_not_matter(groups: list[str], rank: int, random: object) -> None:
    shuffled = [*groups, *groups[:2]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = Placement.of(groups, rank), Placement.of(shuffled, rank)
    assert one == other
    assert hash(one) == hash(other)
    assert one.digest == other.digest
    assert one.groups == tuple(sorted(set(groups)))


@given(GROUPS, GROUPS, st.integers(1, 64), st.integers(1, 64))
def test_digests_and_labels_tell_placements_apart(a: list[str], b: list[str], r: int, s: int) -> None:
    one, other = Placement.of(a, r), Placement.of(b, s)
    assert (one == other) == (one.digest == other.digest) == (one.label == other.label)


@pytest.mark.parametrize("rank", [-1, 0, 1, 8])
def test_no_groups_at_all_are_the_base_model_whatever_the_rank(rank: int) -> None:
    assert Placement.of([], rank) == BASE
    assert BASE.is_base
    assert (BASE.rank, BASE.label) == (0, "base")


def test_a_label_names_groups_and_rank() -> None:
    placement = Placement.of(["o_proj", "k_proj"], 8)
    assert placement.label == "k_proj+o_proj r8"
    assert not placement.is_base


@pytest.mark.parametrize(
    ("groups", "label"),
    [
        (["o_proj@last", "o_proj@first", "k_proj"], "k_proj+o_proj@first,last r8"),
        (["o_proj@last", "o_proj@middle"], "o_proj@middle,last r8"),
        (["o_proj@last", "o_proj@middle", "o_proj@first"], "o_proj r8"),
        ([f"o_proj@{i}of12" for i in range(1, 13)], "o_proj r8"),
        (["o_proj@10of12", "o_proj@9of12"], "o_proj@9of12,10of12 r8"),
        (["o_proj@low", "o_proj@high", "mlp[experts]"], "mlp[experts]+o_proj@high,low r8"),
    ],
)
def test_a_label_has_the_bands_of_a_group_together(groups: list[str], label: str) -> None:
    assert Placement.of(groups, 8).label == label


def test_the_digest_stays_as_it_is_in_databases() -> None:
    assert Placement.of(["k_proj", "o_proj"], 8).digest == "c0e0e715a15409be"
    banded = Placement.of(["k_proj@first", "k_proj@last", "k_proj@middle"], 8)
    assert (banded.name, banded.digest) == ("k_proj@first+k_proj@last+k_proj@middle r8", "3e10496b1469b29f")


@pytest.mark.parametrize("rank", [0, -4])
def test_groups_need_a_rank(rank: int) -> None:
    with pytest.raises(ValueError, match=f"^rank {rank} is below 1$"):
        Placement.of(["o_proj"], rank)


@given(st.integers(1, 999_999), st.integers(1, 512))
def test_alpha_is_the_same_for_all_ranks_or_so_many_times_the_rank(value: int, rank: int) -> None:
    assert Alpha.parse(f"{value}").at(rank) == value
    assert Alpha.parse(f"{value}r").at(rank) == value * rank
    assert CUSTOMARY_ALPHA.at(rank) == 2 * rank


@pytest.mark.parametrize("text", ["", "0", "-1", "r", "0r", "1.5", "2 r", "r2", "2R", "16\n", "²", "1000000"])
def test_what_is_no_alpha(text: str) -> None:
    with pytest.raises(ValueError, match="is no alpha"):
        Alpha.parse(text)

"""Order and padding of batches: what holds for every data set."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from objectives.batches import evaluation_order, in_parts, pad, training_order

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=400)
SIZES = st.integers(1, 32)


@given(LENGTHS, SIZES, st.integers(1, 60), st.integers(0, 2**32))
def test_every_training_batch_is_full_and_no_row_is_in_it_twice(
    lengths: list[int], size: int, steps: int, seed: int
) -> None:
    batches = list(training_order(lengths, size, steps, seed))
    assert len(batches) == steps
    for batch in batches:
        assert len(batch) == min(size, len(lengths)) == len(set(batch))
        assert set(batch) <= set(range(len(lengths)))


@given(LENGTHS, SIZES, st.integers(0, 2**32))
@example(lengths=[1] * 100, size=2, seed=0)  # of several pools
def test_an_epoch_takes_no_row_twice_and_leaves_out_less_than_a_batch_of_each_pool(
    lengths: list[int], size: int, seed: int
) -> None:
    size = min(size, len(lengths))
    full, rest = divmod(len(lengths), size * 16)
    per_epoch = full * 16 + rest // size
    seen = Counter(chain.from_iterable(training_order(lengths, size, per_epoch, seed)))
    assert max(seen.values()) == 1
    assert len(seen) == len(lengths) - rest % size


@given(LENGTHS, SIZES)
def test_in_the_long_run_every_row_is_trained_on(lengths: list[int], size: int) -> None:
    per_epoch = max(1, len(lengths) // size)
    seen = set(chain.from_iterable(training_order(lengths, size, 60 * per_epoch, seed=0)))
    assert seen == set(range(len(lengths)))


@given(LENGTHS, SIZES, st.integers(0, 2**32))
def test_the_order_depends_on_the_seed_alone_and_a_longer_training_begins_as_a_shorter_one(
    lengths: list[int], size: int, seed: int
) -> None:
    longer = list(training_order(lengths, size, 30, seed))
    assert longer[:12] == list(training_order(lengths, size, 12, seed))


def test_another_seed_gives_another_order() -> None:
    lengths = list(range(1, 101))
    assert list(training_order(lengths, 8, 20, 0)) != list(training_order(lengths, 8, 20, 1))


def test_rows_of_a_training_batch_are_of_like_length() -> None:
    lengths = [1 + i * 7919 % 1000 for i in range(512)]
    batches = list(training_order(lengths, 16, 32, seed=0))
    padding = sum(max(lengths[i] for i in b) * len(b) - sum(lengths[i] for i in b) for b in batches)
    assert padding < 0.1 * sum(lengths)


@given(LENGTHS, SIZES)
def test_evaluation_takes_every_row_once_by_length(lengths: list[int], size: int) -> None:
    batches = evaluation_order(lengths, size)
    flat = list(chain.from_iterable(batches))
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths)
    assert all(len(batch) == size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= size


SEQUENCES = st.lists(st.lists(st.integers(3, 99), min_size=1, max_size=20), min_size=1, max_size=8)


@pytest.mark.parametrize("left", [False, True])
@given(sequences=SEQUENCES)
def test_padding_hides_behind_the_mask(left: bool, sequences: list[list[int]]) -> None:
    ids, mask = pad(sequences, 2, left=left)
    longest = max(map(len, sequences))
    assert ids.shape == mask.shape == (len(sequences), longest)
    for row, sequence in enumerate(sequences):
        assert ids[row][mask[row].bool()].tolist() == sequence
        assert (ids[row][~mask[row].bool()] == 2).all()
        free = longest - len(sequence)
        assert mask[row].tolist() == ([0] * free + [1] * len(sequence) if left else [1] * len(sequence) + [0] * free)


@given(st.lists(st.integers(0, 9)), st.integers(1, 20))
def test_parts_have_all_in_their_order_and_no_more_than_is_allowed(sizes: list[int], most: int) -> None:
    parts = list(in_parts(sizes, lambda size: size, most))
    assert list(chain.from_iterable(parts)) == sizes
    assert all(len(part) == 1 or sum(part) <= most for part in parts)
    assert all(sum(part) + after[0] > most for part, after in pairwise(parts)), "no part could have had one more"

"""Which rows go together: batches of like length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

#: Batches sorted together. Large enough for little padding, small enough to keep the order of rows random.
_POOL = 16


def training_order(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """Yield ``steps`` batches of row indices, whole epochs in random order, rows of like length together.

    The order depends on the seed alone, so every placement of a search sees the same batches: what differs between two
    trials is then the placement.
    """
    random = np.random.default_rng(seed)
    size = min(batch_size, len(lengths))
    by_length = np.asarray(lengths)
    done = 0
    while done < steps:
        epoch = random.permutation(len(lengths))
        for start in range(0, len(epoch), size * _POOL):
            pool = epoch[start : start + size * _POOL]
            full = len(pool) // size
            pool = pool[: full * size]  # before sorting: else an epoch would always leave out the longest rows
            pool = pool[np.argsort(by_length[pool], kind="stable")]
            for batch in random.permutation(full):
                yield pool[batch * size : (batch + 1) * size].tolist()
                done += 1
                if done == steps:
                    return


def evaluation_order(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """All rows once, sorted by length; the same for every model, so that figures can be reproduced exactly."""
    order = np.argsort(np.asarray(lengths), kind="stable").tolist()
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def in_parts(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """All in their order, as many at once as have a ``size`` of no more than ``most`` together, and one at least."""
    part: list[T] = []
    held = 0
    for item in items:
        if part and held + size(item) > most:
            yield part
            part, held = [], 0
        part.append(item)
        held += size(item)
    if part:
        yield part


def pad(sequences: Sequence[Sequence[int]], pad_id: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (rows, longest), int64."""
    longest = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        at = slice(longest - len(sequence), longest) if left else slice(0, len(sequence))
        ids[row, at] = torch.tensor(sequence, dtype=torch.long)
        mask[row, at] = 1
    return ids, mask

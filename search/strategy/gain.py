"""How much a placement is expected to add to the front: what decides which one is worth training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.strategy.linear import Array

#: The reference point lies this share of each axis' range outside it, so that the ends of the front count too.
_MARGIN = 0.1


@dataclass(frozen=True)
class Belief:
    """Of placements (n,): joint draws (draws, n) of their accuracy, and their latency ratio."""

    draws: Array
    ratio: Array

    @property
    def accuracy(self) -> Array:
        """(n,) expected."""
        mean: Array = self.draws.mean(0)
        return mean


def axes(belief: Belief) -> tuple[Array, Array]:
    """Heights (draws, n) and speeds (n,) over the reference point, in shares of what all placements span.

    A hypervolume is then a share of a rectangle that is the same whatever the accuracies and latencies are.
    """
    low, high = belief.accuracy.min(), belief.accuracy.max()
    slowest = belief.ratio.max()
    span, reach = high - low or 1.0, slowest - belief.ratio.min() or 1.0
    return (belief.draws - low) / span + _MARGIN, (slowest - belief.ratio) / reach + _MARGIN


def gains(heights: Array, speeds: Array, held: NDArray[np.bool_]) -> Array:
    """(draws, n) area over (0, 0) that each point adds to the ``held`` ones in each draw; zero for those.

    Sorted by falling speed, the held points make a staircase whose integral is a running sum: O(n log n) a draw.
    """
    heights = np.maximum(heights, 0.0)
    order = np.flatnonzero(held)[np.argsort(-speeds[held], kind="stable")]
    # Most of many held points stand under faster ones in every draw, and make no stair.
    tops = np.maximum.accumulate(heights[:, order], axis=1)
    order = order[np.append(True, (tops[:, 1:] > tops[:, :-1]).any(0))[: len(order)]]
    others = np.flatnonzero(~held)
    at = speeds[others]
    edges = np.concatenate([[speeds.max()], speeds[order], [0.0]])
    stair = np.searchsorted(-edges[1:-1], -at, side="right")  # on which each point stands: held ones as fast as it
    added = np.zeros(heights.shape)
    for gain, drawn, stairs in zip(added, heights[:, others], heights[:, order], strict=True):
        front = np.maximum.accumulate(np.append(0.0, stairs))  # height of each stair
        area = np.append(0.0, np.cumsum(front * -np.diff(edges)))  # under all that are faster than each edge
        end = np.searchsorted(front, drawn, side="left")  # the first stair that is as high as the point
        under = area[end] - area[stair] - front[stair] * (edges[stair] - at)
        gain[others] = np.where(end > stair, drawn * (at - edges[end]) - under, 0.0)
    return added

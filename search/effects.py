"""Which modules matter: what adapting each group adds to accuracy and to latency, from the trials of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from objectives.placement import Placement
from search.effect_intervals import PAIR_SHARES, column_weights, intervals
from search.pair_effects import pair_weights
from search.strategy.linear import Array

#: Pairs of groups that are told, by how sure their sign is.
_PAIRS = 5


def effects(
    placements: Sequence[Placement], accuracy: Sequence[float], ratio: Sequence[float]
) -> dict[str, Any] | None:
    """Main effects on accuracy and on the latency ratio, and the surest pairs; None from too few trials.

    A group's effect is what adapting it adds on average over the placements that were tried, the other groups as they
    are; a pair's is what both add beyond the sum of the two. Fitted by Bayesian linear regression on flags of groups
    (and the rank, where it differs), shrunk towards zero as far as the evidence says, with 95% intervals; pairs by a
    second fit that has them all (:mod:`search.effect_intervals`). Needs more trials than groups that differ between
    them, since else any effect could be another's.
    """
    groups = sorted({name for placement in placements for name in placement.groups})
    differing = [g for g in groups if 0 < sum(g in p.groups for p in placements) < len(placements)]
    if not differing or len(placements) <= len(differing) + 1:
        return None
    values = {"accuracy": np.asarray(accuracy, np.float64), "tpot_ratio": np.asarray(ratio, np.float64)}
    flags = np.array([[float(name in placement.groups) for name in differing] for placement in placements])
    flags -= flags.mean(0)
    rank = np.log2([placement.rank for placement in placements])
    # Centred, so that the constant is the mean and effects are averages over what was tried.
    main = np.column_stack([np.ones(len(placements)), rank - rank.mean(), flags])
    return {
        "trials": len(placements),
        "groups": {
            key: _told([[group] for group in differing], intervals(column_weights(main, each, 2)))
            for key, each in values.items()
        },
        "pairs": {key: _surest_pairs(main, flags, each, differing) for key, each in values.items()},
    }


def _surest_pairs(main: Array, flags: Array, values: Array, groups: Sequence[str]) -> list[dict[str, Any]]:
    first, second = np.triu_indices(len(groups), 1)
    if main.shape[1] + len(first) > len(values):
        found = pair_weights(main, flags, values)
    else:
        rows, width = np.column_stack([main, flags[:, first] * flags[:, second]]), main.shape[1]
        found = [each for share in PAIR_SHARES for each in column_weights(rows, values, width, share)]
    means, low, high = intervals(found)
    # Half the interval in units of the effect: below one, its sign is known.
    doubt = (high - low) / 2 / np.maximum(np.abs(means), 1e-12)
    surest = np.argsort(doubt, kind="stable")[:_PAIRS]
    names = [[groups[first[pair]], groups[second[pair]]] for pair in surest]
    return _told(names, (means[surest], low[surest], high[surest]))


def _told(names: Sequence[list[str]], intervals: tuple[Array, Array, Array]) -> list[dict[str, Any]]:
    return [
        {"groups": groups, "effect": float(mean), "effect_ci": [float(low), float(high)]}
        for groups, mean, low, high in zip(names, *intervals, strict=True)
    ]

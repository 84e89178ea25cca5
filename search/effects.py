"""Which modules matter: what adapting each group adds to accuracy and to latency, from the trials of a search."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from objectives.placement import Placement
from search.strategy.linear import Array, LinearPosterior

#: Pairs of groups that are told, by how sure their sign is.
_PAIRS = 5


def effects(
    placements: Sequence[Placement], accuracy: Sequence[float], ratio: Sequence[float]
) -> dict[str, Any] | None:
    """Main effects on accuracy and on the latency ratio, and the surest pairs; None from too few trials.

    A group's effect is what adapting it adds on average over the placements that were tried, the other groups as they
    are; a pair's is what both add beyond the sum of the two. Fitted by Bayesian linear regression on flags of groups
    (and the rank, where it differs), shrunk towards zero by the evidence, with 95% intervals; pairs by a second fit
    that has them all. Needs more trials than groups that differ between them, since else any effect could be another's.
    """
    groups = sorted({name for placement in placements for name in placement.groups})
    differing = [g for g in groups if 0 < sum(g in p.groups for p in placements) < len(placements)]
    if not differing or len(placements) <= len(differing) + 1:
        return None
    values = {"accuracy": np.asarray(accuracy, np.float64), "tpot_ratio": np.asarray(ratio, np.float64)}
    flags = np.array([[float(name in placement.groups) for name in differing] for placement in placements])
    rank = np.log2([placement.rank for placement in placements])
    # Centred, so that the constant is the mean and effects are averages over what was tried.
    main = np.column_stack([np.ones(len(placements)), rank - rank.mean(), flags - flags.mean(0)])
    pairs = list(combinations(range(len(differing)), 2))
    both = (flags - flags.mean(0))[:, [a for a, _ in pairs]] * (flags - flags.mean(0))[:, [b for _, b in pairs]]
    with_pairs = np.column_stack([main, both])
    return {
        "trials": len(placements),
        "groups": {key: _told(main, each, [[g] for g in differing], 2) for key, each in values.items()},
        "pairs": {
            key: sorted(
                _told(with_pairs, each, [[differing[a], differing[b]] for a, b in pairs], main.shape[1]), key=_doubt
            )[:_PAIRS]
            for key, each in values.items()
        },
    }


def _told(rows: Array, values: Array, names: Sequence[list[str]], first: int) -> list[dict[str, Any]]:
    """The weights of the columns from ``first`` on, by the groups that they stand for."""
    contrasts = np.eye(rows.shape[1])[first:]
    means, low, high = LinearPosterior(rows, values).intervals(contrasts)
    return [
        {"groups": groups, "effect": float(mean), "effect_ci": [float(a), float(b)]}
        for groups, mean, a, b in zip(names, means, low, high, strict=True)
    ]


def _doubt(row: dict[str, Any]) -> float:
    """Half the interval in units of the effect: below one, its sign is known."""
    low, high = row["effect_ci"]
    return float((high - low) / 2 / max(abs(row["effect"]), 1e-12))

"""What is done to splits so that they can be compared: made where missing, kept apart, grouped and sampled.

All draws are the same on every platform for one seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from objectives.rows import Row

#: Of the distinct inputs, for each split that is made: one file becomes 80/10/10.
SHARE = 0.1
#: Fewer rows than this have no standard error.
FEWEST = 2


def spaced(text: str) -> str:
    """By what inputs are the same: a line end or a space more does not make another of one."""
    return " ".join(text.split())


def set_aside(pairs: Iterable[tuple[str, str]], parts: int, seed: int) -> list[set[str]]:
    """Disjoint sets of inputs, one for each of ``parts`` splits, drawn from (input, stratum) pairs.

    Whole inputs are set aside, never single rows, so that no input stands on both sides. Each stratum is represented
    in proportion, to within one input, and keeps at least one input on the train side. Each set holds ``SHARE`` of
    the distinct inputs, and no fewer than ``FEWEST``. Raises ValueError if there are too few inputs.
    """
    strata: dict[str, dict[str, None]] = {}
    for text, stratum in pairs:
        strata.setdefault(stratum, {})[text] = None
    rng = random.Random(seed)
    order = sorted(strata)
    rng.shuffle(order)
    kept: set[str] = set()
    pool: dict[str, None] = {}
    for stratum in order:
        texts = list(strata[stratum])
        rng.shuffle(texts)
        kept.add(texts[0])
        pool.update(dict.fromkeys(texts))
    candidates = [text for text in pool if text not in kept]

    total = parts * max(FEWEST, round(SHARE * len(pool)))
    spare = max(0, min(len(candidates), len(pool) - FEWEST))
    if total > spare:
        kept_by = f", since each of {len(strata)} labels keeps one in train" if len(strata) > 1 else ""
        raise ValueError(f"{total} different inputs are needed, {spare} can be spared{kept_by}")
    # Systematic sampling: evenly spaced picks from a list in which each stratum is one stretch.
    picks = [candidates[(2 * pick + 1) * len(candidates) // (2 * total)] for pick in range(total)]
    return [set(picks[part::parts]) for part in range(parts)]


def group_by_prompt(rows: Sequence[Row]) -> list[Row]:
    """One row a prompt, in order of first appearance, with all its different completions as references."""
    completions: dict[str, dict[str, None]] = {}
    for row in rows:
        completions.setdefault(row.text, {})[row.target] = None
    return [Row(prompt, next(iter(targets)), tuple(targets)) for prompt, targets in completions.items()]


def sample(rows: Sequence[Row], count: int, seed: int, split: str) -> list[Row]:
    """``count`` of the rows without replacement, in their order; draws for different splits are independent."""
    chosen = random.Random(f"{seed} {split}").sample(range(len(rows)), count)
    return [rows[index] for index in sorted(chosen)]

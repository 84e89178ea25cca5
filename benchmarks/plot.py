"""Curves of hypervolume against training steps: medians, and bands from quartile to quartile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

from benchmarks.scoring import Score, quartiles
from objectives.tabular import Table

#: Points of a curve for each full training's worth of steps.
_FINENESS = 4


def plot(
    file: Path, tables: Mapping[str, Table], scores: Mapping[tuple[str, str], Sequence[Score]], *, budget: int
) -> None:
    """One panel a table, written as SVG; the same scores give the same file."""
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "strategies", "svg.fonttype": "none"})  # text as text: smaller
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(tables), figsize=(1 + 6 * len(tables), 4.5), squeeze=False)
    for (name, table), axis in zip(tables.items(), axes[0], strict=True):
        grid = [table.steps * i / _FINENESS for i in range(_FINENESS * budget + 1)]
        of_table = [(strategy, found) for (of, strategy), found in scores.items() if of == name]
        for (strategy, found), colour in zip(of_table, _colours(len(of_table)), strict=True):
            curve = [(steps, *quartiles([score.share_at(steps) for score in found])) for steps in grid]
            # Points at which nothing changes would be most of the file.
            corners = [here for i, here in enumerate(curve) if i in (0, len(curve) - 1) or here[1:] != curve[i - 1][1:]]
            at, low, middle, high = zip(*corners, strict=True)
            axis.plot(at, middle, color=colour, label=strategy, linewidth=1.2, drawstyle="steps-post")
            axis.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0, step="post")
        axis.set(title=name, xlabel="training steps spent", ylim=(0.5, 1.005), xlim=(0, grid[-1]))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("share of the exhaustive front's hypervolume")
    axes[0][-1].legend(loc="lower right", fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def _colours(count: int) -> list[str]:
    """Matplotlib's ten, again from the first where there are more strategies."""
    return [f"C{i % 10}" for i in range(count)]

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
    matplotlib.rcParams["svg.hashsalt"] = "strategies"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(tables), figsize=(1 + 6 * len(tables), 4.5), squeeze=False)
    colours = pyplot.get_cmap("tab10").colors  # type: ignore[attr-defined]  # a listed map has them, its base class not
    for (name, table), axis in zip(tables.items(), axes[0], strict=True):
        grid = [table.steps * i / _FINENESS for i in range(_FINENESS * budget + 1)]
        of_table = [(strategy, found) for (of, strategy), found in scores.items() if of == name]
        for (strategy, found), colour in zip(of_table, colours, strict=False):
            low, middle, high = zip(
                *(quartiles([score.share_at(steps) for score in found]) for steps in grid), strict=True
            )
            axis.plot(grid, middle, color=colour, label=strategy, linewidth=1.2)
            axis.fill_between(grid, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.set(title=name, xlabel="training steps spent", ylim=(0.5, 1.005), xlim=(0, grid[-1]))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("share of the exhaustive front's hypervolume")
    axes[0][-1].legend(loc="lower right", fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)

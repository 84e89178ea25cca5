"""How soon a strategy could be there that knew every figure of one recording before its first step.

    python -m benchmarks.reachable TABLE.parquet ...

It trains, one after the other, the placement that adds most to the hypervolume by the figures that it believes, and is
judged by the truth (scoring.py). A search has to find these figures first, so it cannot be sooner except by luck; where
the share is never reached, the noise of one recording hides it. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.arguments import sentences
from benchmarks.runs import read_tables
from benchmarks.scoring import MARGIN, Yardstick
from objectives.placement import Placement
from objectives.tabular import Table
from search.shrinkage import estimates
from search.strategy.gain import gains


def order(believed: Mapping[Placement, float], table: Table) -> list[Placement]:
    """Placements by what each adds, until none is believed to add anything."""
    placements = list(believed)
    figures = np.array(list(believed.values()))
    ratios = np.array([table.ratio(placement) for placement in placements])
    heights = MARGIN + (figures - figures.min()) / np.ptp(figures)
    speeds = MARGIN + (ratios.max() - ratios) / (ratios.max() - 1)
    held = np.zeros(len(placements), bool)
    taken: list[Placement] = []
    while (added := gains(heights[None], speeds, held)[0]).max() > 1e-12:
        best = int(added.argmax())
        held[best] = True
        taken.append(placements[best])
    return taken


def beliefs(table: Table, seed: int) -> dict[str, dict[Placement, float]]:
    """What one may believe of each placement, by what it is told of the recording ``seed``."""
    found = {p: table.outcome(p, seed)["measurement"]["validation"] for p in table.placements}
    accuracy, error, loss = (
        np.array([figures[name] for figures in found.values()]) for name in ("accuracy", "standard_error", "loss")
    )
    shrunk = estimates(list(found), accuracy, error, loss)
    columns = {"accuracy": accuracy, "less loss": -loss, "estimates": accuracy if shrunk is None else shrunk[0]}
    return {name: dict(zip(found, column.tolist(), strict=True)) for name, column in columns.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    args = parser.parse_args(argv)
    with sentences(parser):
        tables = read_tables(args.tables)
    print("| table | recording | believed | trainings to 95% | to 99% | share at the end |")
    print("| --- | --- | --- | --- | --- | --- |")
    for file, table in tables.items():
        yardstick = Yardstick.of(table)
        told = {("all", "truth"): {p: table.truth(p) for p in table.placements}}
        told |= {(str(seed), name): each for seed in table.seeds for name, each in beliefs(table, seed).items()}
        for (seed, name), believed in told.items():
            trained = order(believed, table)
            shares = [yardstick.share(trained[: count + 1]) for count in range(len(trained))]
            reached = [next((str(n) for n, s in enumerate(shares, 1) if s >= bar), "never") for bar in (0.95, 0.99)]
            print(f"| {file} | {seed} | {name} | {' | '.join(reached)} | {shares[-1]:.3f} of {len(trained)} |")


if __name__ == "__main__":
    main()

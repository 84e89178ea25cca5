"""Strategies as `run` has them: the budget counts trials.

    python -m benchmarks.budgeted TABLE.parquet ... [--strategies tpe,additive] [--budgets 24,40] [--runs 8]

Replays the real search on recorded tables, and judges it by the truth (scoring.py). What `benchmarks.strategies` asks
is how soon a front is there; this is what a user gets, and pays, who leaves the flags alone. Prints Markdown: means of
runs, of the regret the median.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from benchmarks.arguments import positive, positives, sentences, some_of
from benchmarks.replay import replay
from benchmarks.runs import read_tables
from benchmarks.scoring import Yardstick
from objectives.tabular import Table
from search.names import STRATEGIES
from search.pareto import hypervolume


def row(table: Table, strategy: str, budget: int, runs: int, workers: int, pack: int) -> str:
    yardstick = Yardstick.of(table)
    done, shares, measured, steps, within, regret, tested = [], [], [], [], [], [], []
    for seed in range(runs):
        run = replay(table, strategy, seed=seed, budget=budget, workers=workers, pack=pack, as_live=True)
        recorded = table.seeds[seed % len(table.seeds)]
        placements = [placement for _, placement in run.trained]
        accuracies = [table.outcome(p, recorded)["measurement"]["validation"]["accuracy"] for p in placements]
        score = yardstick.score(run)
        done.append(len(placements))
        shares.append(yardstick.share(placements))
        measured.append(hypervolume(list(zip(accuracies, map(table.ratio, placements), strict=True))))
        steps.append(run.spent / (min(budget, len(table.placements)) * table.steps))
        within.append(score.within)
        regret.append(score.regret)
        # Of the adapter that this user takes away, with the luck of its training.
        tested.append(table.curve(run.recommended, recorded)[-1]["test_accuracy"])
    return (
        f"{strategy} | {budget} | {fmean(done):.1f} | {fmean(steps):.0%} | {fmean(shares):.3f} ({min(shares):.3f}) | "
        f"{fmean(measured):.3f} | {median(regret):.3f} | {sum(within)} of {runs} | {fmean(tested):.3f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--strategies", type=some_of(STRATEGIES), default="tpe,additive")
    parser.add_argument("--budgets", type=positives, default="24,40", help="in trials")
    parser.add_argument("--runs", type=positive, default=8)
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--pack", type=positive, default=1)
    args = parser.parse_args(argv)
    with sentences(parser):
        tables = read_tables(args.tables)
    print(
        "| table | strategy | budget | trained whole | steps | true share (worst) | measured | regret | within | test |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, table in tables.items():
        for budget in args.budgets:
            for strategy in args.strategies:
                print(f"| {name} | {row(table, strategy, budget, args.runs, args.workers, args.pack)} |", flush=True)


if __name__ == "__main__":
    main()

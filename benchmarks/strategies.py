"""Strategies side by side on recorded tables, ours and other people's, in simulated time.

    python -m benchmarks.strategies TABLE.parquet ... [--runs 20] [--budget 60] [--jobs 2] [--keep FILE.jsonl]
                                                      [--plot FILE.svg] [--write]

A strategy sees one recorded seed's validation figures, as a user would, and is judged by the truth (scoring.py). All
get the same latency and the same reference placements first. Prints Markdown, or with `--write` puts it into its
section of benchmarks/README.md, in which no table or strategy may get lost. Peers of other packages need the `bench`
extra. record_table.py writes the tables. With `--keep` what each run gave stands in a file by the table's content, and
is not made again: take out the lines of strategies that have changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.arguments import positive, sentences
from benchmarks.peers import Peer, RayOptunaSearch, run_peer
from benchmarks.replay import replay
from benchmarks.report import left_out, markdown, write_section
from benchmarks.runs import Run, read_tables
from benchmarks.scoring import Score, Yardstick
from objectives.tabular import Table

#: Strategies of `--strategy`, through the real search; the first five are Optuna's samplers and ours.
OURS = ("random", "tpe", "nsga2", "gp", "additive")
SYNE_TUNE = ("moasha", "moasha-ranks", "morea", "morea-ranks")
STRATEGIES = (*OURS, "ray-optuna", *SYNE_TUNE)
README = Path(__file__).with_name("README.md")


def run(table: Table, strategy: str, *, seed: int, budget: int, workers: int) -> Run:
    """One run of any of STRATEGIES. Raises ImportError where a peer's package is missing."""
    if strategy in OURS:
        return replay(table, strategy, seed=seed, budget=budget, workers=workers)
    return run_peer(table, peer(strategy), seed=seed, budget=budget, workers=workers)


def peer(strategy: str) -> Callable[..., Peer]:
    if strategy == "ray-optuna":
        return RayOptunaSearch
    from benchmarks.peers_syne_tune import MultiObjectiveAsha, MultiObjectiveEvolution, ranks

    name, _, corrected = strategy.partition("-")
    made: Callable[..., Peer] = {"moasha": MultiObjectiveAsha, "morea": MultiObjectiveEvolution}[name]
    return partial(made, priority=ranks) if corrected else made


@lru_cache(maxsize=1)
def _table(file: Path) -> tuple[Table, Yardstick]:
    table = Table(file)
    return table, Yardstick.of(table)


def _score(file: Path, strategy: str, seed: int, budget: int, workers: int) -> Score:
    table, yardstick = _table(file)
    return yardstick.score(run(table, strategy, seed=seed, budget=budget, workers=workers))


def _digest(file: Path) -> str:
    """Of a table's content: one that was recorded anew under its name is another."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _kept(file: Path | None) -> dict[tuple[str, str, int, int, int], Score]:
    """What earlier calls kept, by the table's digest, strategy, seed, budget and workers."""
    lines = file.read_text().splitlines() if file is not None and file.exists() else []
    return {tuple(key): Score.from_json(score) for key, score in map(json.loads, lines)}


def _quiet() -> None:
    """Optuna's GP warns at each proposal that it leaves a rank that has one value to another sampler."""
    logging.getLogger("optuna.samplers._gp").setLevel(logging.ERROR)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--runs", type=positive, default=20, help="seeds of each strategy on each table")
    parser.add_argument("--workers", type=positive, default=1, help="of the simulated search")
    parser.add_argument("--budget", type=positive, default=60, help="training steps of a run, in full trainings")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--jobs", type=positive, default=1, help="processes")
    parser.add_argument("--keep", type=Path, help="JSON lines, one a run")
    parser.add_argument("--plot", type=Path, help="SVG of the curves")
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/README.md")
    args = parser.parse_args(argv)
    strategies = args.strategies.split(",")
    if unknown := set(strategies) - set(STRATEGIES):
        parser.error(f"no strategy {', '.join(sorted(unknown))}: choose from {', '.join(STRATEGIES)}")
    with sentences(parser):
        tables = read_tables(args.tables)
    if args.write and (lost := left_out(README, tables, strategies)):
        parser.error(f"--write would lose what {README.name} has of {', '.join(lost)}: give all of its section again")
    for strategy in set(strategies) - set(OURS):
        try:
            peer(strategy)
        except ImportError as error:
            parser.error(f"{strategy} needs a package that is missing ({error}): pip install '.[bench]'")
    # One thread each, also for linear algebra: processes side by side are what uses the cores.
    os.environ["OMP_NUM_THREADS"] = "1"
    wanted = [
        (file, strategy, seed, args.budget, args.workers)
        for file in args.tables
        for strategy in strategies
        for seed in range(args.runs)
    ]
    digests = {file: _digest(file) for file in args.tables}
    keys = {one: (digests[one[0]], *one[1:]) for one in wanted}
    kept = _kept(args.keep)
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), _quiet) as pool:
        tasks = {pool.submit(_score, *one): one for one in wanted if keys[one] not in kept}
        try:
            for count, task in enumerate(as_completed(tasks), start=1):
                key = keys[tasks[task]]
                kept[key] = task.result()
                if args.keep:
                    with args.keep.open("a") as file:
                        file.write(json.dumps([key, asdict(kept[key])]) + "\n")
                print(f"{count}/{len(tasks)} {tasks[task][0].stem} {key[1]}", file=sys.stderr)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    scores: dict[tuple[str, str], list[Score]] = {}
    for one in wanted:
        scores.setdefault((one[0].stem, one[1]), []).append(kept[keys[one]])
    text = markdown(tables, scores, runs=args.runs, budget=args.budget, workers=args.workers)
    if args.plot:
        from benchmarks.plot import plot

        plot(args.plot, tables, scores, budget=args.budget)
    if args.write:
        write_section(README, text, args.plot)
    else:
        print(text)


if __name__ == "__main__":
    main()

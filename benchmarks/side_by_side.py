"""Our search beside the script a user would write today, in one run, and where our time goes.

    python benchmarks/side_by_side.py --script USER_SCRIPT --model DIR --data DIR --trials 8 --steps 200 --workers 2

USER_SCRIPT takes MODEL DATA TRIALS STEPS WORKERS and prints a JSON line with "wall_s" and "best". The order is ours,
theirs, ours, so that a machine that slows down or speeds up does not favour either. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from search.catalog.store import Catalog


def theirs(args: argparse.Namespace) -> tuple[float, float]:
    """Seconds from command to exit, and the best validation accuracy."""
    began = time.monotonic()
    command = [sys.executable, args.script, args.model, args.data, str(args.trials), str(args.steps), str(args.workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - began
    (result,) = [line for line in done.stdout.splitlines() if line.startswith('{"trials"')]
    return seconds, json.loads(result)["best"]


def ours(args: argparse.Namespace, home: Path) -> tuple[float, dict[str, Any]]:
    """Seconds from command to exit, and the result document."""
    flags = [
        "--budget",
        args.trials,
        "--steps",
        args.steps,
        "--workers",
        args.workers,
        "--ranks",
        8,
        "--batch-size",
        16,
        # The script trains every trial to its end; auto does not.
        "--strategy",
        "tpe",
    ]
    flags += ["--learning-rate", 3e-3, "--model", args.model, "--data", args.data, "--home", home, "--name", "side"]
    began = time.monotonic()
    command = [sys.executable, "-m", "search", "run", "--json", *map(str, flags)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.monotonic() - began, json.loads(done.stdout)


def profile(home: Path, workers: int, wall: float) -> list[tuple[str, str]]:
    """Where the workers' time went between the first trial's start and the last one's end."""
    catalog = Catalog(f"sqlite:///{home / 'search.db'}")
    search = catalog.search("side")
    trials = catalog.trials(search.id)
    catalog.close()
    first, last = min(t.asked_at for t in trials), max(t.ended_at for t in trials if t.ended_at)
    available = (last - first).total_seconds() * workers
    rows = [("seconds from command to exit", f"{wall:.1f}")]
    phases: dict[str, float] = {}
    for trial in trials:
        for phase, seconds in (trial.measurement or {}).get("seconds", {}).items():
            phases[phase] = phases.get(phase, 0.0) + seconds
    for phase, seconds in sorted(phases.items(), key=lambda item: -item[1]):
        rows.append((phase, f"{seconds:.1f} s, {seconds / available:.1%} of worker time"))
    useful = sum(phases.get(phase, 0.0) for phase in ("training", "evaluation", "latency"))
    rows.append(("training + evaluation + latency", f"{useful / available:.1%} of worker time"))
    # The first jobs of the workers load the base model and their libraries; what is left is the driver's.
    later = trials[workers:]
    own = [(t.ended_at - t.asked_at).total_seconds() - sum((t.measurement or {})["seconds"].values()) for t in later]  # type: ignore[operator]
    rows.append(("driver overhead per trial, after each worker's first", f"{sum(own) / max(1, len(own)):.2f} s"))
    rows.append(("row in the catalog to first trial given out", f"{(first - search.created_at).total_seconds():.1f} s"))
    rows.append(
        ("elapsed before the row (start-up)", f"{wall - search.elapsed_s:.1f} s outside the search's own clock")
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--script", "--model", "--data"):
        parser.add_argument(flag, required=True)
    for flag, value in (("--trials", 8), ("--steps", 200), ("--workers", 2)):
        parser.add_argument(flag, type=int, default=value)
    args = parser.parse_args()
    # Absolute: Tune starts trials in folders of their own.
    args.script, args.model, args.data = (str(Path(p).resolve()) for p in (args.script, args.model, args.data))
    with tempfile.TemporaryDirectory() as scratch:
        first, document = ours(args, Path(scratch, "a"))
        their_seconds, their_best = theirs(args)
        second, again = ours(args, Path(scratch, "b"))
        our_seconds = (first + second) / 2
        best = max(p["validation_accuracy"] for p in document["points"] if p["validation_accuracy"] is not None)
        best_again = max(p["validation_accuracy"] for p in again["points"] if p["validation_accuracy"] is not None)
        print(f"{args.trials} trials, {args.steps} steps, batch 16, {args.workers} workers\n")
        print("| | seconds | trials per minute | best validation accuracy |\n| --- | --- | --- | --- |")
        print(f"| ours, first | {first:.1f} | {args.trials / first * 60:.2f} | {best:.3f} |")
        print(f"| user's script | {their_seconds:.1f} | {args.trials / their_seconds * 60:.2f} | {their_best:.3f} |")
        print(f"| ours, again | {second:.1f} | {args.trials / second * 60:.2f} | {best_again:.3f} |")
        print(f"\nratio of trials per minute: {their_seconds / our_seconds:.2f}\n")
        print("| ours, second run | |\n| --- | --- |")
        for name, value in profile(Path(scratch, "b"), args.workers, second):
            print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()

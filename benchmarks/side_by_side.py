"""Our search beside the script a user would write today, in one run, and where our time goes.

    python -m benchmarks.side_by_side --script USER_SCRIPT --model DIR --data DIR --trials 8 --steps 200 --workers 2

USER_SCRIPT takes MODEL DATA TRIALS STEPS WORKERS and prints a JSON line with "best", its best validation accuracy. The
order is ours, theirs, ours, so that a machine that slows down or speeds up does not favour either; the script trains
every trial to its end, and so does ours then. Last comes ours as it runs by default, where most trials stop on the way.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arguments import absolute, positive, sentences
from objectives.errors import RequestError
from search.catalog.store import Catalog


def answer(command: Sequence[str]) -> str:
    """What a command prints. One that fails ends this program, with the end of what it had to say."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}:\n{(done.stderr or done.stdout)[-4000:]}")
    return done.stdout


def best_in(printed: str) -> float:
    """Of the last line that is a JSON object with "best". Raises RequestError if there is none."""
    for line in reversed(printed.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("best"), int | float):
            return float(found["best"])
    raise RequestError(
        'the script printed no JSON line with "best", a number: see the head of benchmarks/side_by_side.py'
    )


def theirs(args: argparse.Namespace) -> tuple[float, float]:
    """Seconds from command to exit, and the best validation accuracy."""
    began = time.monotonic()
    command = [sys.executable, args.script, args.model, args.data, str(args.trials), str(args.steps), str(args.workers)]
    printed = answer(command)
    return time.monotonic() - began, best_in(printed)


def ours(args: argparse.Namespace, home: Path, strategy: str) -> tuple[float, dict[str, Any]]:
    """Seconds from command to exit, and the result document."""
    settings = {"budget": args.trials, "steps": args.steps, "workers": args.workers, "strategy": strategy}
    settings |= {"ranks": 8, "batch-size": 16, "learning-rate": 3e-3}
    settings |= {"model": args.model, "data": args.data, "home": home, "name": "side"}
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    began = time.monotonic()
    command = [sys.executable, "-m", "search", "run", "--json", *flags]
    printed = answer(command)
    return time.monotonic() - began, json.loads(printed)


def best_of(document: dict[str, Any]) -> float:
    """The best validation accuracy of a trial that was trained to its end."""
    found: float = max(p["validation_accuracy"] for p in document["points"] if p["validation_accuracy"] is not None)
    return found


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
    own = [
        (trial.ended_at - trial.asked_at).total_seconds() - sum(trial.measurement["seconds"].values())
        for trial in trials[workers:]
        if trial.ended_at and trial.measurement  # one that failed has none
    ]
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
        parser.add_argument(flag, type=positive, default=value)
    args = parser.parse_args()
    # Absolute: Tune starts trials in folders of their own.
    args.script, args.model, args.data = (absolute(place) for place in (args.script, args.model, args.data))
    with tempfile.TemporaryDirectory() as scratch, sentences(parser):
        first, document = ours(args, Path(scratch, "a"), "tpe")
        their_seconds, their_best = theirs(args)
        second, again = ours(args, Path(scratch, "b"), "tpe")
        default, stopping = ours(args, Path(scratch, "c"), "auto")
        full = args.trials * args.steps
        runs = [
            ("ours, first", first, best_of(document), full),
            ("user's script", their_seconds, their_best, full),
            ("ours, again", second, best_of(again), full),
            ("ours, by default", default, best_of(stopping), stopping["steps"]["spent"]),
        ]
        print(f"{args.trials} trials, {args.steps} steps, batch 16, {args.workers} workers\n")
        print("| | seconds | trials per minute | best validation accuracy | steps |\n| --- | --- | --- | --- | --- |")
        for name, seconds, best, steps in runs:
            print(f"| {name} | {seconds:.1f} | {args.trials / seconds * 60:.2f} | {best:.3f} | {steps:,} |")
        print(f"\nratio of trials per minute: {their_seconds * 2 / (first + second):.2f}")
        print(f"by default: {their_seconds / default:.2f}\n")
        print("| ours, second run | |\n| --- | --- |")
        for part, figure in profile(Path(scratch, "b"), args.workers, second):
            print(f"| {part} | {figure} |")


if __name__ == "__main__":
    main()

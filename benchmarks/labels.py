"""What the choice among labels adds to a training: the reference placements under several --label-weight.

    python -m benchmarks.labels --model DIR --data DIR [--weights 0,4] [--rank 8] [--seeds 0,1] [--steps N]

Prints Markdown: validation accuracy, the mean over seeds, of every placement under every weight. A training that
diverged counts as 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.arguments import positive, sentences, whole_numbers
from benchmarks.trainings import mean_accuracy
from objectives.workbench import Workbench
from search.prepare import prepare
from search.spec import SearchSpec


def weights_of(text: str) -> list[float]:
    """Numbers with commas between."""
    try:
        return [float(weight) for weight in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas between") from None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--weights", type=weights_of, default="0,4")
    parser.add_argument("--rank", type=positive, default=8)
    parser.add_argument("--seeds", type=whole_numbers, default="0,1")
    parser.add_argument("--steps", type=positive)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with sentences(parser):
        spec = SearchSpec(model=args.model, data=args.data, ranks=(args.rank,), steps=args.steps, workers=1)
        prepared = prepare(spec)
    given = replace(prepared.assignment, threads=1)
    bench = Workbench(given)
    print("| placement | " + " | ".join(f"{weight:g}" for weight in args.weights) + " |")
    print("| --- |" + " --- |" * len(args.weights))
    for placement, name in prepared.references.items():
        cells = []
        for weight in args.weights:
            training = replace(given.training, label_weight=weight)
            cells.append(mean_accuracy(bench, given, placement, training, alpha=given.alpha, seeds=args.seeds))
            print(f"{placement.label} weight {weight:g}: {cells[-1]:.3f}", file=sys.stderr)
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()

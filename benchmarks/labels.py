"""What the choice among labels adds to a training: the reference placements under several --label-weight.

    python -m benchmarks.labels --model DIR --data DIR [--weights 0,4] [--rank 8] [--seeds 0,1] [--steps N]

Prints Markdown: validation accuracy, the mean over seeds, of every placement under every weight. A training that
diverged counts as 0.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import torch

from benchmarks.arguments import positive, sentences
from benchmarks.trainings import mean_accuracy
from objectives.workbench import Workbench
from search.prepare import prepare
from search.spec import SearchSpec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--weights", default="0,4")
    parser.add_argument("--rank", type=positive, default=8)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=positive)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with sentences(parser):
        spec = SearchSpec(model=args.model, data=args.data, ranks=(args.rank,), steps=args.steps, workers=1)
        prepared = prepare(spec)
    given = replace(prepared.assignment, threads=1)
    bench = Workbench(given)
    weights = [float(weight) for weight in args.weights.split(",")]
    seeds = [int(seed) for seed in args.seeds.split(",")]
    print("| placement | " + " | ".join(f"{weight:g}" for weight in weights) + " |")
    print("| --- |" + " --- |" * len(weights))
    for placement, name in prepared.references.items():
        cells = []
        for weight in weights:
            training = replace(given.training, label_weight=weight)
            cells.append(mean_accuracy(bench, given, placement, training, alpha=given.alpha, seeds=seeds))
            print(f"{placement.label} weight {weight:g}: {cells[-1]:.3f}", file=sys.stderr)
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()

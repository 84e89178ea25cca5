"""What rank does to accuracy, and what of it is alpha: the reference placements at several ranks, under several rules.

    python -m benchmarks.alpha --model DIR --data DIR [--ranks 4,8,16,64] [--alphas 2r,16] [--seeds 0,1]

Prints Markdown: validation accuracy, the mean over seeds, of every placement at every rank. The learning rate is the
default one throughout; a training that diverged counts as 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch

from benchmarks.arguments import positive, sentences, whole_numbers
from benchmarks.trainings import mean_accuracy
from objectives.placement import Alpha, Placement
from objectives.workbench import Workbench
from search.prepare import prepare
from search.spec import SearchSpec, parse_ranks


def alphas_of(text: str) -> dict[str, Alpha]:
    """Rules with commas between, by what was written."""
    try:
        return {rule: Alpha.parse(rule) for rule in text.split(",")}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: write it like 16, or 2r for twice the rank") from None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--ranks", default="4,8,16,64")
    parser.add_argument("--alphas", type=alphas_of, default="2r,16")
    parser.add_argument("--seeds", type=whole_numbers, default="0,1")
    parser.add_argument("--label-weight", type=float, default=SearchSpec.label_weight)
    parser.add_argument("--steps", type=positive)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with sentences(parser):
        spec = SearchSpec(
            model=args.model,
            data=args.data,
            ranks=parse_ranks(args.ranks),
            label_weight=args.label_weight,
            steps=args.steps,
            workers=1,
        )
        prepared = prepare(spec)
    given = replace(prepared.assignment, threads=1)
    bench = Workbench(given)
    known: dict[tuple[Placement, int], float] = {}  # two rules may come to the same alpha

    def accuracy(placement: Placement, alpha: int) -> float:
        if (placement, alpha) not in known:
            known[placement, alpha] = mean_accuracy(
                bench, given, placement, given.training, alpha=Alpha(alpha), seeds=args.seeds
            )
            print(f"{placement.label} alpha {alpha}: {known[placement, alpha]:.3f}", file=sys.stderr)
        return known[placement, alpha]

    print("| placement | alpha | " + " | ".join(f"r {rank}" for rank in spec.ranks) + " |")
    print("| --- | --- |" + " --- |" * len(spec.ranks))
    for placement, name in prepared.references.items():
        for text, alpha in args.alphas.items():
            cells = [accuracy(Placement.of(placement.groups, rank), alpha.at(rank)) for rank in spec.ranks]
            print(f"| {name} | {text} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()

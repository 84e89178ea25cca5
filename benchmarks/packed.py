"""Several adapters trained in one pass of their base, against training them one after the other.

    python -m benchmarks.packed --model DIR --data DIR --slots 1,2,4,8 --rounds 5

Each round draws new placements, trains copies of them both ways by turns, and takes the time of one step of one slot:
CPU time of one thread, or on a GPU wall-clock time. Prints Markdown: medians over rounds, and of the rounds' ratios
(apart / packed, above one where packing gains) the median and the range.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from benchmarks.arguments import positive, positives, sentences
from objectives.backbone import attach
from objectives.packable import why_not_packed
from objectives.packed import train_packed
from objectives.placement import Placement
from objectives.training import train
from objectives.workbench import Workbench
from search.prepare import prepare
from search.spec import SearchSpec


def seconds(work: Callable[[], object]) -> float:
    """CPU time of ``work``, or on a GPU the time until it is done."""
    if not torch.cuda.is_available():
        began = time.process_time()
        work()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--slots", type=positives, default="1,2,4,8")
    parser.add_argument("--rank", type=positive, default=8)
    parser.add_argument("--batch-size", type=positive, default=16)
    parser.add_argument("--steps", type=positive, default=10)
    parser.add_argument("--rounds", type=positive, default=5)
    args = parser.parse_args()
    with sentences(parser):
        spec = SearchSpec(model=args.model, data=args.data, batch_size=args.batch_size, steps=args.steps, workers=1)
        given = replace(prepare(spec).assignment, threads=1)
    bench = Workbench(given)
    names = [group.name for group in given.space.groups]
    draw = random.Random(0)

    def models(placements: list[Placement]) -> list[Any]:
        return [attach(bench.base, given.space, placement, seed=0).get_base_model() for placement in placements]

    def apart(placements: list[Placement]) -> float:
        ours = models(placements)
        return seconds(lambda: [train(model, given.task, given.training, cut=bench.cut) for model in ours])

    def packed(placements: list[Placement]) -> float:
        ours = models(placements)
        if reason := why_not_packed(bench.base, ours, given.task):
            parser.error(f"{args.model} cannot be packed: {reason}")
        return seconds(lambda: train_packed(bench.base, ours, given.task, given.training, cut=bench.cut))

    figures: dict[int, list[tuple[float, float]]] = {slots: [] for slots in args.slots}
    for round_ in range(args.rounds + 1):
        for slots, taken in figures.items():
            placements = [
                Placement.of(draw.sample(names, draw.randint(1, len(names))), args.rank) for _ in range(slots)
            ]
            ways = (apart, packed) if round_ % 2 else (packed, apart)
            times = {way: 1000 * way(placements) / slots / args.steps for way in ways}
            if round_ > 0:  # the first warms up
                taken.append((times[apart], times[packed]))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, one thread"
    print(
        f"{device}, batches of {args.batch_size} rows, rank {args.rank}, {args.rounds} rounds of {args.steps} steps\n"
    )
    print("| slots | apart, ms per slot and step | packed | apart / packed |\n| --- | --- | --- | --- |")
    for slots, taken in figures.items():
        ratios = sorted(one / other for one, other in taken)
        middle = [f"{median(column):.2f}" for column in zip(*taken, strict=True)]
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {slots} | {' | '.join(middle)} | {spread} |")


if __name__ == "__main__":
    main()

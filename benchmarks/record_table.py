"""Train every placement of a space, and record all that a search could have seen: a table to replay strategies on.

    python -m benchmarks.record_table --model DIR --data DIR --ranks 8 --seeds 0,1 --steps 200 --out TABLE.parquet

One row is one placement at one fidelity under one seed: validation loss and accuracy, at full fidelity also the test
split's and the training's own losses, and the latency ratio, which is measured at the end for all placements together.
Finished trainings stand in TABLE.parquet.jsonl, so an
interrupted recording goes on where it was; the Parquet file is written when the last one is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from objectives.backbone import attach
from objectives.latency.rounds import measure_in_rounds
from objectives.placement import Placement
from objectives.training import train
from objectives.workbench import Workbench
from search.prepare import Prepared, prepare
from search.spec import SearchSpec, parse_ranks

#: Shares of all steps at which validation is measured.
FIDELITIES = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)

#: Most for one placement. Other placements' intervals are pooled with its own, so the ratios are better than that.
LATENCY_SECONDS = 1.5


def record_training(bench: Workbench, prepared: Prepared, placement: Placement, seed: int) -> list[dict[str, Any]]:
    """Rows of one placement trained with one seed, one for each fidelity."""
    given = prepared.assignment
    settings = replace(given.training, seed=seed)
    model = attach(bench.base, given.space, placement, seed=seed, alpha=given.alpha).get_base_model()
    rows: list[dict[str, Any]] = []

    def measure(split: str) -> tuple[float, float, float]:
        figures = bench.evaluate(model, split).to_json(seed)
        return figures["accuracy"], figures["loss"], figures["standard_error"]

    def look(step: int) -> None:
        accuracy, loss, error = measure("validation")
        row = {"groups": list(placement.groups), "rank": placement.rank, "seed": seed, "step": step}
        rows.append(row | {"accuracy": accuracy, "loss": loss, "standard_error": error})

    pauses = sorted({max(1, round(share * settings.steps)) for share in FIDELITIES})
    trained = train(model, given.task, settings, cut=bench.cut, pauses=pauses, look=look)
    rows[-1]["test_accuracy"], rows[-1]["test_loss"], _ = measure("test")
    rows[-1]["losses"] = [loss for _, loss in trained.losses]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--task")
    parser.add_argument("--ranks", default="8")
    parser.add_argument("--alpha", default="2r")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--label-weight", type=float, default=SearchSpec.label_weight)
    parser.add_argument("--validation-rows", type=int)
    parser.add_argument("--test-rows", type=int)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    torch.set_num_threads(1)
    spec = SearchSpec(
        model=args.model,
        data=args.data,
        task=args.task,
        ranks=parse_ranks(args.ranks),
        alpha=args.alpha,
        steps=args.steps,
        learning_rate=args.learning_rate,
        label_weight=args.label_weight,
        validation_rows=args.validation_rows,
        test_rows=args.test_rows,
        workers=1,
    )
    prepared = prepare(spec)
    bench = Workbench(replace(prepared.assignment, threads=1))
    journal = args.out.with_name(args.out.name + ".jsonl")
    done = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    known = {(tuple(rows[0]["groups"]), rows[0]["rank"], rows[0]["seed"]) for rows in done}
    todo = [
        (placement, seed)
        for seed in seeds
        for placement in prepared.space
        if (placement.groups, placement.rank, seed) not in known
    ]
    began = time.monotonic()
    with journal.open("a") as file:
        for count, (placement, seed) in enumerate(todo, start=1):
            rows = record_training(bench, prepared, placement, seed)
            file.write(json.dumps(rows) + "\n")
            file.flush()
            done.append(rows)
            left = (time.monotonic() - began) / count * (len(todo) - count)
            figure = f"{placement.label} seed {seed}: {rows[-1]['accuracy']:.3f}"
            print(f"{count}/{len(todo)} {figure}, left {left / 60:.0f} min", file=sys.stderr)
    print("measuring latency", file=sys.stderr)
    settings = replace(prepared.assignment.latency, max_seconds=LATENCY_SECONDS)
    profiles = measure_in_rounds(bench.engine, list(prepared.space), settings, seed=seeds[0])
    facts = {name: prepared.facts[name] for name in ("data_hash", "structure", "metric", "versions", "groups")}
    sizes = {f"{split}_rows": len(prepared.assignment.task.splits[split]) for split in ("validation", "test")}
    # Of paths the names alone: a table is read on other machines.
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    about = facts | sizes | {"command": " ".join(["python -m benchmarks.record_table", *words]), "ranks": spec.ranks}
    about["label_weight"] = spec.label_weight
    rows = [
        row | {"ratio": profiles[Placement.of(row["groups"], row["rank"])]["ratio"]} for trial in done for row in trial
    ]
    table = pyarrow.Table.from_pylist(sorted(rows, key=lambda row: -row["step"]))  # so that all columns are seen
    table = table.replace_schema_metadata({b"about": json.dumps(about).encode()})
    pyarrow.parquet.write_table(table, args.out, compression="zstd")


if __name__ == "__main__":
    main()

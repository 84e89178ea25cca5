"""Train every placement of a space, and record all that a search could have seen: a table to replay strategies on.

    python -m benchmarks.record_table --model DIR --data DIR --ranks 8 --seeds 0,1 --steps 200 --out TABLE.parquet

One row is one placement at one fidelity under one seed: validation loss and accuracy, at full fidelity also the test
split's and the training's own losses, and the latency ratio, which is measured at the end for all placements together.
Finished trainings stand in TABLE.parquet.jsonl, so an
interrupted recording goes on where it was, or to more seeds and ranks; its first line has the settings, and others are
refused. The Parquet file is written when the last training is there. It leaves out placements of which a training
diverged, which is no accuracy to compare with, and says which they are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch

from benchmarks.arguments import positive, sentences, whole_numbers
from objectives.backbone import attach
from objectives.errors import RequestError
from objectives.latency.rounds import measure_in_rounds
from objectives.placement import Placement
from objectives.training import TrainingDiverged, train
from objectives.workbench import Workbench
from search.prepare import Prepared, prepare
from search.spec import SearchSpec, parse_ranks

#: Shares of all steps at which validation is measured.
FIDELITIES = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0)

#: Most for one placement. Other placements' intervals are pooled with its own, so the ratios are better than that.
LATENCY_SECONDS = 1.5


def record_training(bench: Workbench, prepared: Prepared, placement: Placement, seed: int) -> list[dict[str, Any]]:
    """Rows of one placement trained with one seed, one for each fidelity. Raises TrainingDiverged."""
    given = prepared.assignment
    settings = replace(given.training, seed=seed)
    model = attach(bench.base, given.space, placement, seed=seed, alpha=given.alpha).get_base_model()
    rows: list[dict[str, Any]] = []

    def measure(split: str, step: int) -> tuple[float, float, float]:
        figures = bench.evaluate(model, split).to_json(seed)
        if not math.isfinite(figures["loss"]):
            raise TrainingDiverged(f"the {split} loss became {figures['loss']} by step {step}", step)
        return figures["accuracy"], figures["loss"], figures["standard_error"]

    def look(step: int) -> None:
        accuracy, loss, error = measure("validation", step)
        row = {"groups": list(placement.groups), "rank": placement.rank, "seed": seed, "step": step}
        rows.append(row | {"accuracy": accuracy, "loss": loss, "standard_error": error})

    pauses = sorted({max(1, round(share * settings.steps)) for share in FIDELITIES})
    trained = train(model, given.task, settings, cut=bench.cut, together=bench.together, pauses=pauses, look=look)
    rows[-1]["test_accuracy"], rows[-1]["test_loss"], _ = measure("test", settings.steps)
    rows[-1]["losses"] = [loss for _, loss in trained.losses]
    return rows


def settings_of(prepared: Prepared) -> dict[str, Any]:
    """What figures depend on, beside placement and seed."""
    facts = ("data_hash", "structure", "model_digest", "template", "metric")
    rows = {f"{split}_rows": len(prepared.assignment.task.splits[split]) for split in ("validation", "test")}
    training = asdict(prepared.assignment.training)
    del training["seed"]
    return {name: prepared.facts[name] for name in facts} | rows | training | {"alpha": prepared.spec.alpha}


def read_journal(journal: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was recorded before. Begins the journal where there is none; raises RequestError where others began it.

    A last line without its end, which a full disk or a kill leaves, is cut off: its training is made again.
    """
    written = journal.read_bytes() if journal.exists() else b""
    if (whole := written.rfind(b"\n") + 1) < len(written):
        os.truncate(journal, whole)
    if not whole:
        journal.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")
    first, *done = (json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines())
    began = first.get("settings") if isinstance(first, dict) else None
    if began is None:
        raise RequestError(f"{journal} does not say by what settings it was recorded: give another --out")
    for name, value in settings.items():
        if began.get(name) != value:
            raise RequestError(
                f"{journal} was recorded with {name} {began.get(name)}, and not {value}: give what it was recorded "
                "with, or another --out"
            )
    return done


def kept(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the placements of which no training diverged. Raises RequestError if there are none."""
    lost = {(*trial["groups"], trial["rank"]) for trial in trials if "diverged" in trial}
    rows = [row for trial in trials if (*trial["groups"], trial["rank"]) not in lost for row in trial["rows"]]
    if not rows:
        raise RequestError("a training of every placement diverged: try a lower --learning-rate")
    return rows


def write_table(file: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    table = pyarrow.Table.from_pylist(sorted(rows, key=lambda row: -row["step"]))  # so that all columns are seen
    table = table.replace_schema_metadata({b"about": json.dumps(about).encode()})
    pyarrow.parquet.write_table(table, file, compression="zstd")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--task")
    parser.add_argument("--ranks", default="8")
    parser.add_argument("--alpha", default="2r")
    parser.add_argument("--seeds", type=whole_numbers, default="0,1")
    parser.add_argument("--steps", type=positive)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--label-weight", type=float, default=SearchSpec.label_weight)
    parser.add_argument("--validation-rows", type=positive)
    parser.add_argument("--test-rows", type=positive)
    parser.add_argument("--out", required=True, type=Path)
    given = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    with sentences(parser):
        prepared = prepare(
            SearchSpec(
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
        )
        settings = settings_of(prepared)
        journal = args.out.with_name(args.out.name + ".jsonl")
        done = {(tuple(t["groups"]), t["rank"], t["seed"]): t for t in read_journal(journal, settings)}
    bench = Workbench(replace(prepared.assignment, threads=1))
    wanted = [(placement, seed) for seed in args.seeds for placement in prepared.space]
    todo = [(placement, seed) for placement, seed in wanted if (placement.groups, placement.rank, seed) not in done]
    began = time.monotonic()
    with journal.open("a", encoding="utf-8") as file:
        for count, (placement, seed) in enumerate(todo, start=1):
            trial: dict[str, Any] = {"groups": list(placement.groups), "rank": placement.rank, "seed": seed}
            try:
                trial["rows"] = record_training(bench, prepared, placement, seed)
                figure = f"{trial['rows'][-1]['accuracy']:.3f}"
            except TrainingDiverged as error:
                trial["diverged"] = figure = str(error)
            file.write(json.dumps(trial) + "\n")
            file.flush()
            done[placement.groups, placement.rank, seed] = trial
            left = (time.monotonic() - began) / count * (len(todo) - count)
            print(
                f"{count}/{len(todo)} {placement.label} seed {seed}: {figure}, left {left / 60:.0f} min",
                file=sys.stderr,
            )
    trials = [done[placement.groups, placement.rank, seed] for placement, seed in wanted]
    with sentences(parser):
        rows = kept(trials)
    print("measuring latency", file=sys.stderr)
    latency = replace(prepared.assignment.latency, max_seconds=LATENCY_SECONDS)
    placements = list(dict.fromkeys(Placement.of(row["groups"], row["rank"]) for row in rows))
    profiles = measure_in_rounds(bench.engine, placements, latency, seed=args.seeds[0])
    facts = {name: prepared.facts[name] for name in ("data_hash", "structure", "metric", "versions", "groups")}
    # Of paths the names alone: a table is read on other machines.
    words = [Path(word).name if "/" in word else word for word in given]
    about = facts | {name: settings[name] for name in ("validation_rows", "test_rows", "label_weight", "learning_rate")}
    about |= {"command": " ".join(["python -m benchmarks.record_table", *words]), "ranks": prepared.spec.ranks}
    about["diverged"] = [trial for trial in trials if "diverged" in trial]
    rows = [row | {"ratio": profiles[Placement.of(row["groups"], row["rank"])]["ratio"]} for row in rows]
    write_table(args.out, rows, about)


if __name__ == "__main__":
    main()

"""Whether latency profiles repeat, rank, predict and stay cheap. Prints Markdown; the tables are in README.md.

    python -m benchmarks.latency_checks repeat [MODEL]      two runs of `latency` beside a process that computes
    python -m benchmarks.latency_checks rank MODEL          a default profile against one ten times as long
    python -m benchmarks.latency_checks cost MODEL DATA     a profile against a search of 24 trials of 200 steps

Without MODEL, `repeat` makes a tiny random GPT-2.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.arguments import absolute, sentences
from benchmarks.side_by_side import answer


def _compute_for_ever() -> None:
    while True:
        sum(range(10_000))


def _latency(model: str, home: str, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "search", "latency", "--model", model, "--home", home, "--json", *flags]
    document: dict[str, Any] = json.loads(answer(command))
    return document


def _tiny_gpt2(folder: str) -> str:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=64, n_layer=4, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def repeat(model: str | None) -> None:
    """Both runs measure anew, each with a home of its own, while another process computes."""
    with tempfile.TemporaryDirectory() as scratch:
        path = model or _tiny_gpt2(f"{scratch}/gpt2")
        other = multiprocessing.Process(target=_compute_for_ever, daemon=True)
        other.start()
        one, two = (_latency(path, f"{scratch}/home{run}") for run in range(2))
        other.terminate()
    print("| | placements | both ratios in both intervals | widest interval (half) |\n| --- | --- | --- | --- |")
    for source in ("measured", "predicted"):
        pairs = [(a, b) for a, b in zip(_rows(one).values(), _rows(two).values(), strict=True) if a["source"] == source]
        inside = [
            a["ratio_ci"][0] <= b["ratio"] <= a["ratio_ci"][1] and b["ratio_ci"][0] <= a["ratio"] <= b["ratio_ci"][1]
            for a, b in pairs
        ]
        if not pairs:  # of few groups all are measured
            print(f"| {source} | 0 | | |")
            continue
        width = max((high - low) / 2 for row, _ in pairs for low, high in [row["ratio_ci"]])
        print(f"| {source} | {len(pairs)} | {sum(inside)} ({np.mean(inside):.0%}) | {width:.3f} |")
    for run in (one, two):
        low, high = run["drift"]["ratio_ci"]
        print(f"\nbase against base: {run['drift']['ratio']:.3f} [{low:.3f}, {high:.3f}]")


def _rows(document: dict[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    return {tuple(row["targets"]): row for row in sorted(document["profiles"], key=lambda row: row["targets"])}


def rank(model: str) -> None:
    """Twenty placements: those that a profile measures, and others drawn at random, which it predicts."""
    from objectives.latency.profiling import design, held_out, profile_model
    from objectives.latency.rounds import measure_in_rounds
    from objectives.latency.settings import LatencySettings
    from objectives.placement import Placement
    from search.inspection import structure_of
    from search.latency import open_engine
    from search.spec import SearchSpec

    spec = SearchSpec(model=model)
    path, space = structure_of(spec)
    settings = LatencySettings(max_seconds=0.6)
    engine = open_engine(spec, path, space, settings)
    began = time.perf_counter()
    profile = profile_model(engine, space, [8], settings, seed=0)
    took = time.perf_counter() - began
    found = {Placement.of(row["targets"], 8): row for row in profile.rows}
    chosen = [*design(space, 8), *held_out(space, 8)][:20]
    others = [placement for placement in found if placement not in chosen]  # of many groups no profile has all sets
    picks = np.random.default_rng(1).permutation(len(others))[: 20 - len(chosen)]
    chosen += [others[pick] for pick in picks]
    longer = replace(settings, max_seconds=10 * settings.max_seconds, half_width=0.0)
    reference = measure_in_rounds(engine, chosen, longer, seed=1000)
    print("| placement | source | profile | ten times as long | error |\n| --- | --- | --- | --- | --- |")
    for placement in sorted(chosen, key=lambda placement: reference[placement]["ratio"]):
        row, truth = found[placement], reference[placement]["ratio"]
        low, high = row["ratio_ci"]
        profiled = f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}]"
        print(
            f"| {placement.label} | {row['source']} | {profiled} | {truth:.3f} | {abs(row['ratio'] / truth - 1):.1%} |"
        )
    pairs = [(found[p]["ratio"], reference[p]["ratio"]) for p in chosen]
    errors = [abs(found[p]["ratio"] / reference[p]["ratio"] - 1) for p in chosen if found[p]["source"] == "predicted"]
    print(
        f"\nKendall tau-b {_tau(pairs):.2f} over {len(chosen)} placements; median error of {len(errors)} predictions "
    )
    print(f"{np.median(errors):.1%}; the profile took {took:.1f} s.")


def _tau(pairs: list[tuple[float, float]]) -> float:
    from scipy.stats import kendalltau

    one, two = zip(*pairs, strict=True)
    return float(kendalltau(one, two).statistic)


def cost(model: str, data: str) -> None:
    """One after the other, each with a new home; the profile's own time is that of its command less an empty one."""
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        _latency(model, f"{scratch}/a")
        first = time.perf_counter() - began
        _latency(model, f"{scratch}/a")  # all kept from before: what is left is starting up
        profile = first - (time.perf_counter() - began - first)
        flags = ["--model", model, "--data", data, "--budget", "24", "--steps", "200", "--ranks", "8"]
        command = [sys.executable, "-m", "search", "run", *flags, "--home", f"{scratch}/b", "--name", "cost", "--json"]
        began = time.perf_counter()
        printed = answer(command)
        search = time.perf_counter() - began
    phases: dict[str, float] = {}
    for point in json.loads(printed)["points"]:
        for phase, seconds in point["seconds"].items():
            phases[phase] = phases.get(phase, 0.0) + seconds
    print("| | seconds |\n| --- | --- |")
    print(f"| `latency`, from command to exit | {first:.1f} |\n| of that measuring and fitting | {profile:.1f} |")
    print(f"| search of 24 trials, 200 steps | {search:.1f} |\n| share of the profile | {profile / search:.1%} |")
    print(f"| the trials' own latency measurements | {phases['latency']:.1f} of {sum(phases.values()):.1f} |")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=["repeat", "rank", "cost"])
    parser.add_argument("model", nargs="?")
    parser.add_argument("data", nargs="?")
    args = parser.parse_args(argv)
    # Absolute: Tune starts trials in folders of their own.
    model, data = (absolute(each) if each else None for each in (args.model, args.data))
    if args.check == "repeat":
        repeat(model)
    elif args.check == "rank":
        if not model:
            parser.error("rank needs MODEL")
        with sentences(parser):
            rank(model)
    elif model and data:
        cost(model, data)
    else:
        parser.error("cost needs MODEL and DATA")


if __name__ == "__main__":
    main()

"""What it takes to choose the next trial of a study that has many: CPU and wall time of one process.

    python -m benchmarks.asking [--trials 100,1000,3000,10000] [--strategies ...] [--backends ...]

A study is filled with complete trials of random placements, and then the real study (search/study.py) decides, asks
and is told, one trial after the other, as the search does. Two spaces: seven module groups in three bands at ranks 4,
8 and 16 (22 parameters), and seven groups at one rank, of which all but a few placements have been tried, so that a
strategy proposes what is known again and again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import optuna
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import create_engine, func, insert, select
from sqlalchemy import text as text_of

from benchmarks.arguments import positive, positives, some_of
from benchmarks.databases import BACKENDS, database
from objectives.placement import Placement
from search import names
from search.catalog.store import Catalog
from search.strategy.additive_sampler import COURSE
from search.strategy.space import PlacementSpace
from search.study import Study

STEPS = 200
LEAVES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LARGE = PlacementSpace(tuple(f"{leaf}@{band}" for leaf in LEAVES for band in ("low", "mid", "high")), (4, 8, 16))
SMALL = PlacementSpace(LEAVES, (8,))
STRATEGIES = ("tpe", "additive", "nsga2", "random", "grid")
#: Beyond so many trials Optuna's Gaussian processes take minutes a trial.
GP_TRIALS = 300
POPULATION = 50


def worth(placement: Placement, random: np.random.Generator) -> tuple[float, float, list[float]]:
    """Accuracy, latency ratio and course of a made-up task: nearly additive, with noise."""
    gain = sum(0.02 + 0.01 * (sum(map(ord, group)) % 7) for group in placement.groups) * placement.rank**0.1
    loss = 2.0 * float(np.exp(-gain)) + random.normal(0, 0.02)
    course = [loss + 0.6, loss + 0.4, loss + 0.2, loss]
    return float(np.exp(-loss)) + random.normal(0, 0.01), 1.04 + 0.03 * len(placement.groups), course


def measured(accuracy: float, ratio: float, loss: float, steps: int = STEPS) -> dict[str, Any]:
    """As of a worker that trained so many steps of a made-up trial."""
    latency = {"ratio": ratio, "ratio_ci": [ratio, ratio], "tpot_p95_ms": 4.0 * ratio}
    losses = [(step, loss + 1 - step / STEPS) for step in range(10, steps + 1, 10)]
    measurement = {"parameters": 1, "seconds": {}, "losses": losses, "latency": latency}
    if steps == STEPS:
        validation = {"accuracy": accuracy, "loss": loss, "standard_error": 0.02, "accuracy_ci": [accuracy, accuracy]}
        return measurement | {"validation": validation}
    return measurement


def drawn(space: PlacementSpace, random: np.random.Generator) -> Placement:
    while True:
        picks = random.random(len(space.groups)) < random.random()
        placement = Placement.of(itertools.compress(space.groups, picks), int(random.choice(space.ranks)))
        if not placement.is_base:
            return placement


def fill(url: str, name: str, space: PlacementSpace, count: int, random: np.random.Generator) -> None:
    """Complete trials of different placements, up to ``count``: in bulk, through Optuna it takes 40 ms each."""
    study = optuna.load_study(study_name=name, storage=url)
    known = {space.placement(trial.params) for trial in study.get_trials(deepcopy=False)}
    tables = models.BaseModel.metadata.tables
    rows: dict[str, list[dict[str, Any]]] = {}
    engine = create_engine(url)
    with engine.begin() as connection:
        trial_id = connection.scalar(select(func.max(tables["trials"].c.trial_id))) or 0
        for number in range(len(known), count):
            while (placement := drawn(space, random)) in known:
                pass
            known.add(placement)
            trial_id += 1
            of, now = {"trial_id": trial_id}, datetime.now()
            trial = {"number": number, "study_id": study._study_id, "state": TrialState.COMPLETE}
            rows.setdefault("trials", []).append(of | trial | {"datetime_start": now, "datetime_complete": now})
            accuracy, ratio, course = worth(placement, random)
            rows.setdefault("trial_values", []).extend(
                of | {"objective": i, "value": value, "value_type": "FINITE"}
                for i, value in enumerate((accuracy, ratio))
            )
            for key, value in space.params(placement).items():
                distribution = space.distributions[key]
                param = {"param_name": key, "param_value": distribution.to_internal_repr(value)}
                text = optuna.distributions.distribution_to_json(distribution)
                rows.setdefault("trial_params", []).append(of | param | {"distribution_json": text})
            attrs = of | {"key": COURSE, "value_json": json.dumps(course)}
            rows.setdefault("trial_user_attributes", []).append(attrs)
            generation = of | {"key": "NSGAIISampler:generation", "value_json": str(number // POPULATION)}
            rows.setdefault("trial_system_attributes", []).append(generation)
        for table, values in rows.items():
            connection.execute(insert(tables[table]), values)
        if engine.name == "postgresql":
            connection.execute(text_of("SELECT setval('trials_trial_id_seq', :last)"), {"last": trial_id})
    engine.dispose()


def open_study(url: str, name: str, space: PlacementSpace, strategy: str) -> Study:
    return Study(
        url, name, space, strategy=strategy, references=(), budget=3 * POPULATION, seed=0, steps=STEPS, max_ratio=None
    )


def choose(study: Study, asks: int, random: np.random.Generator) -> list[tuple[float, float]]:
    """(CPU, wall) seconds of choosing each of so many trials, told at once."""
    took = []
    for _ in range(asks):
        cpu, wall = time.process_time(), time.perf_counter()
        study.decide((), True, False)
        asked = study.ask()
        took.append((time.process_time() - cpu, time.perf_counter() - wall))
        if asked is None:
            break
        number, placement = asked
        accuracy, ratio, course = worth(placement, random)
        study.tell(number, "complete", measured(accuracy, ratio, course[-1]))
    return took


def measure(
    backend: str, space: PlacementSpace, strategies: Sequence[str], counts: Sequence[int], asks: int
) -> list[str]:
    """Rows of the table."""
    rows = []
    random = np.random.default_rng(0)
    with database(backend) as url:
        catalog = Catalog(url)
        for strategy in strategies:
            name = f"{space.size} {strategy}"
            cells = []
            open_study(catalog.url, name, space, strategy)
            for count in counts:
                if strategy == "gp" and count > GP_TRIALS:
                    cells.append("")
                    continue
                fill(catalog.url, name, space, count, random)
                study = open_study(catalog.url, name, space, strategy)
                choose(study, 1, random)  # reads the whole study once, as a resume does
                took = choose(study, asks, random)
                cells.append(cell(took))
                print(backend, name, count, cells[-1], file=sys.stderr)
            rows.append(f"| {strategy} | {backend} | {' | '.join(cells)} |")
        catalog.close()
    return rows


def cell(took: Sequence[tuple[float, float]]) -> str:
    cpu, wall = ([1000 * times[i] for times in took] for i in (0, 1))
    return " / ".join(f"{statistics.median(v):.0f} ({np.quantile(v, 0.95):.0f})" for v in (cpu, wall))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=positives, default="100,1000,3000,10000")
    parser.add_argument("--strategies", type=some_of(names.STRATEGIES), default=",".join(STRATEGIES))
    parser.add_argument("--backends", type=some_of(BACKENDS), default=",".join(BACKENDS))
    parser.add_argument("--asks", type=positive, default=20)
    args = parser.parse_args()
    for backend in args.backends:
        print("\n".join(measure(backend, LARGE, args.strategies, args.trials, args.asks)))
        print("\n".join(measure(backend, SMALL, args.strategies, [90], args.asks)))


if __name__ == "__main__":
    main()

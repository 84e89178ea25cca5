"""One placement trained under several seeds, outside a search: what programs that compare trainings share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from objectives.backbone import attach
from objectives.placement import Alpha, Placement
from objectives.training import TrainingDiverged, TrainingSettings, train
from objectives.workbench import Assignment, Workbench


def mean_accuracy(
    bench: Workbench,
    given: Assignment,
    placement: Placement,
    training: TrainingSettings,
    *,
    alpha: Alpha,
    seeds: Sequence[int],
) -> float:
    """On validation; 0 for a training that diverged."""
    found = []
    for seed in seeds:
        model = attach(bench.base, given.space, placement, seed=seed, alpha=alpha).get_base_model()
        try:
            train(model, given.task, replace(training, seed=seed), cut=bench.cut, together=bench.together)
        except TrainingDiverged:
            found.append(0.0)
            continue
        found.append(bench.evaluate(model, "validation").to_json(seed)["accuracy"])
    return fmean(found)

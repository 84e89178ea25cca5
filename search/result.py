"""The result document of a search, from the catalog alone: what ``run --json`` and ``show --json`` print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from objectives.latency.paired import Ratio
from search.baseline import against_baseline
from search.catalog.champions import decided_in, registered
from search.catalog.figures import TrialFigures, figures
from search.catalog.records import SearchRecord, TrialRecord
from search.catalog.store import Catalog
from search.effects import effects
from search.latency_check import latency_check, predicted_ratios
from search.pareto import front, hypervolume, knee
from search.recommend import Candidate, recommend

#: Searches that one statement names; of more all are read, since databases take so many values and no more.
_NAMED = 1000
_LATENCY = ("tpot_p50_ms", "tpot_p95_ms", "tpot_p99_ms", "ttft_p50_ms", "ttft_p95_ms", "ttft_p99_ms")


def result_document(catalog: Catalog, search: SearchRecord) -> dict[str, Any]:
    """Plain values only. Figures that are not known yet are None; a search without a complete trial has no front."""
    trials = catalog.trials(search.id)
    spec, facts, base, latency = search.spec, search.facts, search.base or {}, search.base_latency
    complete = _complete(trials)
    points = [_point(t) for t in complete]
    members = front(points)
    on_front = {complete[i].number for i in members}
    axis = latency.get("axis", "tpot")
    base_validation = base.get("validation", {})
    chosen = recommend([_candidate(t) for t in complete], base_validation.get("accuracy", 0.0), facts["metric"], axis)
    found = registered(catalog, search, chosen.trial if chosen else None)
    bend = knee(points)
    ended = [t for t in trials if t.status != "running"]
    engine = latency.get("engine", "transformers")
    rows = [_table_row(t, t.number in on_front, search.created_at) for t in ended]
    for row, ratio in zip(rows, _predicted(ended, engine), strict=True):
        row["tpot_ratio_predicted"] = ratio
    return {
        "search": search.name,
        "status": _status(catalog, search),
        "reason": search.reason,
        "model": facts["model"],
        "data": facts["data"],
        "task": facts["task"],
        "metric": facts["metric"],
        "latency_axis": axis,
        "latency_engine": engine,
        "latency_mode": latency.get("mode", "unmerged"),
        "budget": spec["budget"],
        "trials": _counts(trials),
        "steps": {"spent": sum(t.steps for t in trials), "full": len(trials) * spec["steps"]},
        "base": {
            "accuracy": base.get("test", {}).get("accuracy"),
            "accuracy_ci": base.get("test", {}).get("accuracy_ci"),
            "validation_accuracy": base_validation.get("accuracy"),
            "validation_accuracy_ci": base_validation.get("accuracy_ci"),
            **{name: latency.get(name) for name in _LATENCY},
            # Base against base: what noise alone does to a ratio on this machine.
            "drift": {"ratio": latency.get("ratio"), "ratio_ci": latency.get("ratio_ci")},
        },
        "front": [_front_member(complete[i]) for i in members],
        "recommended": {"trial": chosen.trial, "why": chosen.why} if chosen else None,
        "baseline": against_baseline(search, trials, chosen.trial if chosen else None),
        "knee": {"trial": complete[bend].number} if bend is not None else None,
        "champion": _champion(catalog, search),
        "registry_uri": f"models:/{found[0]}@champion" if found else None,
        "hypervolume": hypervolume(points),
        "effects": effects([t.placement for t in complete], *zip(*points, strict=True)) if points else None,
        "latency_check": latency_check(rows),
        "elapsed_s": search.elapsed_s,
        "points": rows,
        "notes": facts["notes"] + ([search.reason] if search.reason else []),
        "mlflow_run_id": search.mlflow_run_id,
        "provenance": {
            "seed": spec["seed"],
            "training_seed": spec.get("training_seed", spec["seed"]),
            "data_hash": facts["data_hash"],
            "structure": facts["structure"],
            "versions": facts["versions"],
            "device": base.get("device"),
            "dtype": base.get("dtype"),
            "trust_remote_code": spec.get("trust_remote_code", False),
            "command": facts["command"],
            "created_at": search.created_at.isoformat(),
            "learning_rate": spec["learning_rate"],
            "alpha": search.alpha,
            "label_weight": search.label_weight,
            "steps": spec["steps"],
            "batch_size": spec["batch_size"],
            "template": facts["template"],
            "kind": facts["kind"],
            "model_type": facts.get("model_type"),  # searches of older versions lack it
            "labels": facts["labels"],
        },
    }


def _complete(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    return [t for t in trials if t.status == "complete" and t.measurement and t.adapter]


def _counts(trials: Sequence[TrialRecord] | Sequence[TrialFigures]) -> dict[str, int]:
    counts = Counter(t.status for t in trials)
    return {status: counts[status] for status in ("complete", "stopped", "failed", "infeasible")}


def _champion(catalog: Catalog, search: SearchRecord) -> dict[str, Any] | None:
    """Of the search's series, as it was decided when the search ended."""
    decided = decided_in(catalog, search.id)
    if decided is None:
        return None
    trial = catalog.trial(decided.champion_search, decided.champion_trial)
    return {
        "series": decided.series,
        "verdict": decided.verdict,
        "why": decided.why,
        "search": catalog.search_of(decided.champion_search).name,
        "trial": trial.number,
        "label": trial.placement.label,
        "measured": decided.figures,
    }


def _point(trial: TrialRecord) -> tuple[float, float]:
    return trial.validation["accuracy"], trial.latency["ratio"]


def _candidate(trial: TrialRecord) -> Candidate:
    validation = trial.validation
    return Candidate(
        trial.number,
        trial.placement,
        validation["accuracy"],
        validation["standard_error"],
        Ratio.of(trial.latency),
        validation.get("loss"),
    )


def _predicted(trials: Sequence[TrialRecord], engine: str) -> list[float | None]:
    """On a server placements of one latency class share a measurement, so that each would be told by its own."""
    measured = {t.placement: t.latency["ratio"] for t in trials if t.latency}
    if engine != "transformers" or not measured:
        return [None] * len(trials)
    told = dict(zip(measured, predicted_ratios(measured), strict=True))
    return [told.get(t.placement) for t in trials]


def _base_ms(latency: dict[str, Any], since: datetime) -> float | None:
    """The base model's median beside the placement; None for a profile from before ``since``, or of unknown age."""
    measured_at = latency.get("measured_at")
    if measured_at is None or datetime.fromisoformat(measured_at) < since:
        return None
    median: float = latency["base"][f"{latency['axis']}_p50_ms"]
    return median


def _shape(trial: TrialRecord) -> dict[str, Any]:
    """What stands in both tables: the placement and its latency."""
    latency = trial.latency
    return {
        "trial": trial.number,
        "targets": trial.groups,
        "rank": trial.rank,
        "label": trial.placement.label,
        "reference": trial.reference,
        "tpot_ratio": latency.get("ratio"),
        "tpot_ratio_ci": latency.get("ratio_ci"),
        # Predictions guide no trial: each is measured before it is trained.
        "latency_source": latency.get("source"),
        "latency_settled": latency.get("settled"),
        **{name: latency.get(name) for name in _LATENCY},
        "parameters": (trial.measurement or {}).get("parameters"),
        "mlflow_run_id": trial.mlflow_run_id,
    }


def _front_member(trial: TrialRecord) -> dict[str, Any]:
    test = trial.test or {}
    parameters = (trial.measurement or {})["parameters"]
    return {
        **_shape(trial),
        "accuracy": test.get("accuracy"),
        "accuracy_ci": test.get("accuracy_ci"),
        "validation_accuracy": trial.validation["accuracy"],
        "validation_accuracy_ci": trial.validation["accuracy_ci"],
        "adapter": trial.adapter,
        "adapter_mb": parameters * 4 / 1e6,
    }


def _table_row(trial: TrialRecord, is_front: bool, began: datetime) -> dict[str, Any]:
    measurement, validation = trial.measurement or {}, trial.validation
    return {
        **_shape(trial),
        "status": trial.status,
        "reason": trial.reason,
        "base_p50_ms": _base_ms(trial.latency, began),
        "validation_accuracy": validation.get("accuracy"),
        "validation_accuracy_ci": validation.get("accuracy_ci"),
        "validation_loss": validation.get("loss"),
        "steps": trial.steps,
        "seconds": measurement.get("seconds", {}),
        "losses": measurement.get("losses", []),
        "front": is_front,
    }


def _status(catalog: Catalog, search: SearchRecord) -> str:
    """As its row has it, but for a search whose process ended without a word, which ``resume`` takes up."""
    return "interrupted" if search.status == "running" and catalog.holder(search.id) is None else search.status


def result_rows(catalog: Catalog, searches: Sequence[SearchRecord]) -> list[dict[str, Any]]:
    """The lines of ``list``, from one look at all trials of `searches`: there may be a search for each night."""
    found = figures(catalog, None if len(searches) > _NAMED else [search.id for search in searches])
    return [_row(catalog, search, found.get(search.id, ())) for search in searches]


def _row(catalog: Catalog, search: SearchRecord, trials: Sequence[TrialFigures]) -> dict[str, Any]:
    points = [t.point for t in trials if t.point]
    return {
        "search": search.name,
        "status": _status(catalog, search),
        "trials": _counts(trials),
        "budget": search.spec["budget"],
        "front": len(front(points)),
        "metric": search.facts["metric"],
        "best": max((accuracy for accuracy, _ in points), default=None),
        "model": search.facts["model"],
        "data": search.facts["data"],
        "started": search.created_at.isoformat(timespec="seconds"),
    }


def standing(catalog: Catalog, search: SearchRecord) -> dict[str, Any]:
    """What may change from one second to the next while it runs, for those who watch: of 1000 trials the whole document
    takes a second."""
    trials = figures(catalog, [search.id]).get(search.id, [])
    complete = [(trial, trial.point) for trial in trials if trial.point]
    members = [complete[i] for i in front([point for _, point in complete])]
    counts = _counts(trials)
    return {
        "status": _status(catalog, search),
        "trials": counts,
        "done": sum(counts.values()),
        "budget": search.spec["budget"],
        "front": [
            {
                "trial": trial.number,
                "label": trial.placement.label,
                "validation_accuracy": accuracy,
                "accuracy": trial.test_accuracy,
                "tpot_ratio": ratio,
            }
            for trial, (accuracy, ratio) in members
        ],
    }

"""Result documents as ``run --json`` prints them, small enough to check by eye."""

from __future__ import annotations

from typing import Any


def point(trial: int, label: str, accuracy: float | None, ratio: float | None, **changes: Any) -> dict[str, Any]:
    targets, rank = label.rsplit(" r", 1)
    return {
        "trial": trial,
        "status": "complete",
        "reason": None,
        "targets": targets.split("+"),
        "rank": int(rank),
        "label": label,
        "reference": None,
        "validation_accuracy": accuracy,
        "validation_accuracy_ci": None if accuracy is None else [accuracy - 0.04, accuracy + 0.04],
        "validation_loss": 0.9,
        "tpot_ratio": ratio,
        "tpot_ratio_ci": None if ratio is None else [ratio - 0.02, ratio + 0.02],
        "tpot_ratio_predicted": None if ratio is None else ratio + 0.01,
        "base_p50_ms": None if ratio is None else 4.0,
        "tpot_p50_ms": 4.3,
        "tpot_p95_ms": 4.6,
        "ttft_p95_ms": 9.6,
        "parameters": 12800,
        "steps": 200,
        "seconds": {"latency": 1.0, "training": 3.9, "evaluation": 0.6},
        "front": False,
        "losses": [[10, 2.1], [20, 1.7]],
        **changes,
    }


def member(source: dict[str, Any], accuracy: float | None) -> dict[str, Any]:
    keys = ("trial", "targets", "rank", "label", "validation_accuracy", "tpot_p50_ms", "tpot_p95_ms", "ttft_p95_ms")
    return {
        **{key: source[key] for key in (*keys, "tpot_ratio", "tpot_ratio_ci", "parameters")},
        "accuracy": accuracy,
        "accuracy_ci": None if accuracy is None else [accuracy - 0.03, accuracy + 0.03],
        "adapter": "adapters/trial",
        "adapter_mb": 0.05,
        "mlflow_run_id": "0123abc",
    }


def effect(groups: str, value: float, reach: float) -> dict[str, Any]:
    return {"groups": groups.split("+"), "effect": value, "effect_ci": [value - reach, value + reach]}


def document(**changes: Any) -> dict[str, Any]:
    """Six trials: three on the front, one dominated, one failed, one infeasible."""
    front = [
        point(7, "o_proj r8", 0.60, 1.12, front=True, reference="o_proj only"),
        point(2, "down_proj+o_proj r8", 0.66, 1.20, front=True),
        point(4, "down_proj+o_proj+q_proj r16", 0.69, 1.31, front=True),
    ]
    others = [
        point(0, "q_proj r4", 0.50, 1.15),
        point(1, "k_proj r4", None, None, status="failed", reason="the loss is NaN at step 3", losses=[]),
        point(3, "all r4", None, 1.9, status="infeasible", reason="TPOT ratio 1.90 is over 1.5", losses=[], steps=0),
    ]
    tests = (0.61, 0.64, 0.68)
    return {
        "search": "demo",
        "status": "complete",
        "model": "models/tiny",
        "data": "data/questions",
        "task": "classification",
        "metric": "accuracy",
        "latency_axis": "tpot",
        "trials": {"complete": 4, "stopped": 0, "failed": 1, "infeasible": 1},
        "budget": 6,
        "steps": {"spent": 800, "full": 1200},
        "base": {
            "accuracy": 0.21,
            "accuracy_ci": [0.18, 0.25],
            "validation_accuracy": 0.2,
            "tpot_p50_ms": 3.9,
            "tpot_p95_ms": 4.1,
            "ttft_p95_ms": 9.0,
            "drift": {"ratio": 1.003, "ratio_ci": [0.98, 1.02]},
        },
        "front": [member(source, accuracy) for source, accuracy in zip(front, tests, strict=True)],
        "recommended": {"trial": 2, "why": "the cheapest within one standard error of the best"},
        "knee": {"trial": 7},
        "hypervolume": 0.53,
        "effects": {
            "trials": 4,
            "groups": {
                "accuracy": [
                    effect("down_proj", 0.08, 0.03),
                    effect("o_proj", -0.04, 0.03),
                    effect("q_proj", 0.01, 0.05),
                ],
                "tpot_ratio": [
                    effect("down_proj", 0.1, 0.01),
                    effect("o_proj", 0.12, 0.01),
                    effect("q_proj", 0.11, 0.02),
                ],
            },
            "pairs": {
                "accuracy": [effect("down_proj+o_proj", -0.05, 0.01), effect("o_proj+q_proj", 0.01, 0.02)],
                "tpot_ratio": [],
            },
        },
        "latency_check": {
            "predictions": {"trials": 5, "median_error": 0.008, "largest_error": 0.021},
            "drift": {
                "trials": 5,
                "base_first_ms": 4.0,
                "base_last_ms": 4.3,
                "base_change": 0.075,
                "ratio_change": -0.004,
                "ratio_change_ci": [-0.012, 0.005],
            },
        },
        "elapsed_s": 131.0,
        "points": [*others, *front],
        "notes": ["3 texts were cut at 128 tokens."],
        "provenance": {"seed": 0, "versions": {"torch": "2.13.0"}, "device": "cpu", "command": "search run"},
        **changes,
    }


def empty() -> dict[str, Any]:
    """Interrupted before anything was measured."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("base", "recommended", "knee", "hypervolume", "effects", "latency_check", "elapsed_s", "provenance")
    )
    return document(status="interrupted", trials={}, front=[], points=[], notes=[], **nothing)


def untested() -> dict[str, Any]:
    """Interrupted before the test split was read."""
    full = document(status="interrupted")
    full["front"] = [{**row, "accuracy": None, "accuracy_ci": None} for row in full["front"]]
    full["base"] = {**full["base"], "accuracy": None, "accuracy_ci": None}
    return full


def single() -> dict[str, Any]:
    full = document(recommended={"trial": 7, "why": "the only one"}, trials={"complete": 1}, budget=1)
    return {**full, "front": full["front"][:1], "points": [row for row in full["points"] if row["trial"] == 7]}


def encoder() -> dict[str, Any]:
    """A model without output tokens: its TPOT figures are null, its ratio is of request time."""
    full = document(latency_axis="ttft")
    for row in [*full["points"], *full["front"], full["base"]]:
        row.update(tpot_p50_ms=None, tpot_p95_ms=None)
    return full


def large(trials: int = 1000) -> dict[str, Any]:
    names = "+".join(f"{name}_proj" for name in ("down", "gate", "k", "o", "q", "up", "v"))
    losses = [[step, 1000 / (step + 1)] for step in range(0, 2000, 10)]
    points = [
        point(number, f"{names} r{number + 1}", 0.3 + number / 2500, 1.1 + number / 2000, losses=losses)
        for number in range(trials)
    ]
    for row in points[::20]:
        row["front"] = True
    front = [member(row, row["validation_accuracy"]) for row in points[::20]]
    return document(points=points, front=front, recommended={"trial": 20, "why": "near the best"}, knee={"trial": 40})


def many_groups(groups: int = 70) -> dict[str, Any]:
    """Of accuracy, the first half adds, the more the earlier; of the rest every second takes, the more the later."""
    effects = [
        effect(f"layer{i}", 0.5 - i / groups if i < groups / 2 else -(i % 2) * i / groups, 0.005) for i in range(groups)
    ]
    full = document()
    full["effects"]["groups"] = {"accuracy": effects, "tpot_ratio": effects}
    return full


ALL = {"document": document, "empty": empty, "untested": untested, "single": single, "encoder": encoder, "large": large}


def compared(label: str, ratio: float, regret: tuple[float, float], **changes: Any) -> dict[str, Any]:
    """A placement on the tasks `ablate-mails` and `ablate-talks`."""
    targets, rank = label.rsplit(" r", 1)
    tasks = ("ablate-mails", "ablate-talks")
    figures = dict(zip(tasks, regret, strict=True))
    return {
        "targets": targets.split("+"),
        "rank": int(rank),
        "label": label,
        "reference": None,
        "tpot_ratio": ratio,
        "tpot_ratio_ci": [ratio - 0.02, ratio + 0.02],
        "tpot_p95_ms": 4.6,
        "parameters": 12800,
        "accuracy": {task: 0.8 - value for task, value in figures.items()},
        "accuracy_ci": {task: [0.76 - value, 0.84 - value] for task, value in figures.items()},
        "gain": {task: 0.6 - value for task, value in figures.items()},
        "gain_ci": {task: [0.55 - value, 0.65 - value] for task, value in figures.items()},
        "regret": figures,
        "regret_ci": {task: [max(0.0, value - 0.03), value + 0.03] for task, value in figures.items()},
        "mean_regret": sum(regret) / 2,
        "mean_regret_ci": [0.0, sum(regret) / 2 + 0.02],
        "worst_regret": max(regret),
        "worst_regret_ci": [0.0, max(regret) + 0.03],
        **changes,
    }


def comparison(**changes: Any) -> dict[str, Any]:
    """Three placements on two tasks; the second is the robust default, told against the third."""
    tasks = ["ablate-mails", "ablate-talks"]
    against = {"targets": ["k_proj", "v_proj"], "rank": 8, "label": "k_proj+v_proj r8"}
    against |= {"what": "the most accurate on average", "tpot_saving": 0.2, "tpot_p95_saving": 0.226}
    return {
        "tasks": tasks,
        "model": "models/tiny",
        "data": {"ablate-mails": "data/mails", "ablate-talks": "data/talks"},
        "metric": {"ablate-mails": "accuracy", "ablate-talks": "rouge_l"},
        "split": "validation",
        "rows": dict.fromkeys(tasks, 500),
        "paired": dict.fromkeys(tasks, True),
        "latency_axis": "tpot",
        "max_tpot_ratio": None,
        "base": {task: {"accuracy": 0.2, "accuracy_ci": [0.17, 0.23]} for task in tasks},
        "placements": [
            compared("q_proj r8", 1.1, (0.3, 0.1)),
            compared("o_proj r8", 1.2, (0.02, 0.0), reference="o_proj only"),
            compared("k_proj+v_proj r8", 1.5, (0.0, 0.01)),
        ],
        "rank_stability": {"kendall_tau_b": 1 / 3},
        "robust_default": {
            "targets": ["o_proj"],
            "rank": 8,
            "label": "o_proj r8",
            "against": against | {"tpot_p95_saving_ci": [0.18, 0.261]},
            "why": "the fastest of those",
            "sentence": "o_proj only r8 is it.",
        },
        "left_out": [
            {"targets": ["v_proj"], "rank": 4, "label": "v_proj r4", "why": "not tried by ablate-talks"},
            {"targets": ["q_proj"], "rank": 4, "label": "q_proj r4", "why": "failed in ablate-mails: out of memory"},
        ],
        "notes": ["the searches differ in --steps: 100 in ablate-mails, 200 in ablate-talks"],
        **changes,
    }

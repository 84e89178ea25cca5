"""What a search looks like in MLflow: one parent run, one nested run per trial."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashboards.words import DESCRIPTION_LIMIT
from objectives.storage import fetched
from search.catalog import Catalog, OutboxRecord, SearchRecord, TrialRecord
from search.catalog.champions import registered
from search.catalog.outbox import AGAIN, queue_again, waiting
from search.mlflow_agreement import disagreement, key_of, status_of
from search.mlflow_registry import make_champion
from search.mlflow_store import EXPERIMENT, KEY, PARENT, follow_artifacts, open_store, runs_of
from search.spec import CHANGEABLE

if TYPE_CHECKING:
    from mlflow.entities import Run

ADAPTER = "adapter"
_CURVE = "training_loss"
HOW_TO_READ = """\
Which modules of a model should a LoRA adapter target? Each top-level run is one **search**; its nested runs are the
placements that it trained and measured.

- A search's description holds its result in words. Its artifacts hold the front as a figure (`front.html`) and as a
  table (`front.json`).
- `tags.front = 'true'` finds the placements that no other one beats on both accuracy and latency, and
  `tags.recommended = 'true'` the one to take.
- `accuracy` is measured on the validation split, by which placements are chosen; `test_accuracy` on the test split.
  A search has the base model's as `base_accuracy` and `base_test_accuracy`.
  `tpot_ratio` is latency relative to the base model.
- For parallel coordinates, take the parameters `group.*` and `rank`, and the metrics `accuracy` and `tpot_ratio`.
- A trial's trained adapter is its artifact folder `adapter`. What a search recommends is registered under its name, and
  the champion of a series under the series': `models:/NAME@champion`.
- `tags.comparison = 'true'` finds comparisons of searches across tasks: regret by placement and task as a heat map
  (`comparison.html`) and as a table (`comparison.json`).
"""

#: The least of MLflow's own limits for one call: 1000 metrics, 100 parameters, 100 tags.
_METRICS_PER_CALL, _OTHERS_PER_CALL = 900, 100
#: Characters of a run's name in its databases; SQLite alone takes more.
_NAME_LIMIT = 250


class MlflowRuns:
    """Writes the catalog's searches and trials to MLflow; to deliver the same thing again changes nothing.

    Any method raises what MLflow, the network or the disk raise.
    """

    def __init__(
        self,
        catalog: Catalog,
        tracking_uri: str,
        artifact_root: Path,
        document: Callable[[str], dict[str, Any]],
        flags: str = "",
    ) -> None:
        """Migrates MLflow's database if it is new, which is for one process at a time, and takes seconds.

        ``flags`` are those by which commands find the catalog.
        """
        self._catalog = catalog
        self._document = document
        self._flags = flags
        self._client = open_store(tracking_uri)
        follow_artifacts(tracking_uri, artifact_root)
        server = tracking_uri.startswith(("http:", "https:", "databricks"))
        self._experiment = self._prepare_experiment(None if server else artifact_root.resolve().as_uri())

    def _prepare_experiment(self, artifact_location: str | None) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            tags = {"mlflow.note.content": HOW_TO_READ, "mlflow.experimentKind": "custom_model_development"}
            return str(self._client.create_experiment(EXPERIMENT, artifact_location, tags))
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def deliver(self, row: OutboxRecord) -> None:
        """Brings what the row names to its present state, which may be newer than the row."""
        search = self._catalog.search_of(row.search_id)
        trial = None if row.trial is None else self._catalog.trial(row.search_id, row.trial)
        if row.kind == AGAIN:
            self._leave_one(search, key_of(search.id, row.trial), (trial or search).mlflow_run_id)
        parent, experiment = self._parent(search)
        if search.mlflow_run_id not in (None, parent):  # somebody deleted that one: what was nested in it comes along
            queue_again(self._catalog, search.id, disagreement(self._catalog, search, {}).missing)
        if trial is not None:
            self._write_trial(search, parent, experiment, trial)
            if search.status != "running" and None not in waiting(self._catalog, search.id):
                # It was refused when the result was written, which marks the front's runs: that is written once more.
                queue_again(self._catalog, search.id, [])
        elif search.status == "running":
            self._client.update_run(parent, status="RUNNING")
            self._client.set_tag(parent, "status", "running")
        elif row.kind != "search":
            self._write_result(search, parent, self._document(search.id))

    def _parent(self, search: SearchRecord) -> tuple[str, str]:
        """The search's run, and the experiment that it is in, where its trials' are nested: somebody may have renamed
        the one that it was begun in."""
        run = self._find(search.id, search.mlflow_run_id, search)
        if run is None:
            tags = {
                KEY: search.id,
                "search": search.name,
                "model": str(search.facts.get("model")),
                "data": str(search.facts.get("data")),
                "status": search.status,
                "mlflow.source.name": "lora-target-search",
                **_changeable(search),
            }
            run = self._client.create_run(self._experiment, _ms(search.created_at), tags, search.name)
        run_id = str(run.info.run_id)
        if (search.mlflow_experiment_id, search.mlflow_run_id) != (run.info.experiment_id, run_id):
            self._catalog.set_mlflow_search(search.id, run.info.experiment_id, run_id)
        if not run.data.params:
            self._log(run_id, params=_flat({k: v for k, v in search.spec.items() if k not in CHANGEABLE}))
        return run_id, str(run.info.experiment_id)

    def _write_trial(self, search: SearchRecord, parent: str, experiment: str, trial: TrialRecord) -> None:
        asked, ended = _ms(trial.asked_at), _ms(trial.ended_at or trial.asked_at)
        key = key_of(search.id, trial.number)
        run = self._find(key, trial.mlflow_run_id, search)
        if run is None:
            tags = {
                KEY: key,
                "search": search.name,
                "mlflow.source.name": "lora-target-search",
                "trial": str(trial.number),
                "front": "false",
                "recommended": "false",
            }
            run = self._client.create_run(experiment, asked, tags, _run_name(trial.placement.label))
        run_id = str(run.info.run_id)
        if trial.mlflow_run_id != run_id:
            self._catalog.set_mlflow_trial(search.id, trial.number, run_id)
        losses = (trial.measurement or {}).get("losses") or []
        # What is there already has times of its own where the trial went on after it had been given up.
        there = self._client.get_metric_history(run_id, _CURVE) if _CURVE in run.data.metrics else []
        known = {point.step for point in there}
        curve = [
            # As if steps took equal time: timestamps must not change when a trial is delivered again.
            (_CURVE, loss, asked + (ended - asked) * number // len(losses), step)
            for number, (step, loss) in enumerate(losses, start=1)
            if step not in known
        ]
        figures = [(name, value, ended, 0) for name, value in _trial_metrics(trial).items()]
        tags = {"status": trial.status, PARENT: parent}
        tags |= {name: text for name in ("reason", "reference", "adapter_sha256") if (text := getattr(trial, name))}
        if trial.reason is None and "reason" in run.data.tags:
            tags["reason"] = ""
        if trial.adapter is not None:
            with fetched(trial.adapter) as folder:
                if folder.is_dir():
                    self._client.log_artifacts(run_id, str(folder), ADAPTER)
                else:
                    tags["adapter"] = f"not found when this run was written: {trial.adapter}"
        self._log(run_id, figures + curve, _trial_params(search, trial), tags)
        self._client.set_terminated(run_id, status_of(trial), ended)

    def _write_result(self, search: SearchRecord, parent: str, document: dict[str, Any]) -> None:
        from dashboards.embedding import figure_html
        from dashboards.figures import front_figure
        from dashboards.words import description, front_rows

        ended = _ms(search.ended_at or search.created_at)
        self._client.set_terminated(parent, status_of(search), ended)
        self._mark_trials(search, parent, document)
        metrics = {"hypervolume": document.get("hypervolume"), "elapsed_s": search.elapsed_s}
        metrics |= {"front_size": len(document["front"])}
        # Under the names that a trial's have: `accuracy` is that of validation.
        base = dict(document.get("base") or {})
        base |= {"test_accuracy": base.pop("accuracy", None), "accuracy": base.pop("validation_accuracy", None)}
        metrics |= {f"base_{name}": value for name, value in base.items()}
        metrics |= {f"trials_{status}": count for status, count in document["trials"].items()}
        tags = {
            "status": search.status,
            "reason": search.reason or "",
            **_changeable(search),
            "mlflow.note.content": description(document, self._flags),
            # With this tag MLflow's table view and `load_table` know the artifact.
            "mlflow.loggedArtifacts": json.dumps([{"path": "front.json", "type": "table"}]),
        }
        self._log(parent, [(name, value, ended, 0) for name, value in metrics.items()], tags=tags)
        self._client.log_dict(parent, _table(front_rows(document)), "front.json")
        self._client.log_text(parent, figure_html(front_figure(document), full_page=True), "front.html")
        if document.get("registry_uri"):
            found = registered(self._catalog, search, (document.get("recommended") or {}).get("trial"))
            if found is not None:
                self._register(*found)

    def _register(self, name: str, trial: TrialRecord) -> None:
        """The trial's adapter is the version of the registered model that has the alias champion."""
        search = self._catalog.search_of(trial.search_id)
        key = key_of(search.id, trial.number)
        run = self._find(key, trial.mlflow_run_id, search)
        if run is None:  # another tracking server than before
            self._write_trial(search, *self._parent(search), trial)
            run = self._find(key, self._catalog.trial(search.id, trial.number).mlflow_run_id, search)
        if run and self._client.list_artifacts(run.info.run_id, ADAPTER):
            make_champion(self._client, name, run, f"{run.info.artifact_uri}/{ADAPTER}")

    def write_comparison(self, document: dict[str, Any]) -> None:
        """A run of its own beside those of the searches; the same searches again write to the same run."""
        from dashboards.comparison import called, rows_of, sentences
        from dashboards.report import comparison_page

        key = f"comparison {' '.join(document['tasks'])}"
        run = self._find(key, None, None)
        if run is None:
            tags = {KEY: key, "model": document["model"], "mlflow.source.name": "lora-target-search"}
            name = f"comparison of {len(document['tasks'])} tasks"
            run = self._client.create_run(self._experiment, tags=tags, run_name=name)
        run_id, ended = str(run.info.run_id), int(time.time() * 1000)
        figures = {"kendall_tau_b": document["rank_stability"]["kendall_tau_b"]}
        for placement in document["placements"]:
            kinds = ("mean_regret", "worst_regret", "tpot_ratio")
            figures |= {_metric_name(called(placement), kind): placement[kind] for kind in kinds}
        tags = {
            "comparison": "true",
            "searches": ", ".join(document["tasks"]),
            "mlflow.note.content": "\n\n".join(sentences(document))[:DESCRIPTION_LIMIT],
            "mlflow.loggedArtifacts": json.dumps([{"path": "comparison.json", "type": "table"}]),
        }
        self._log(run_id, [(name, value, ended, 0) for name, value in figures.items()], tags=tags)
        self._client.log_dict(run_id, _table(rows_of(document)), "comparison.json")
        self._client.log_text(run_id, comparison_page(document), "comparison.html")
        self._client.set_terminated(run_id, "FINISHED", ended)

    def _experiments(self, search: SearchRecord | None) -> set[str]:
        """In which the runs of a search, or of none, may be, see :meth:`_parent`."""
        return {self._experiment, (search and search.mlflow_experiment_id) or self._experiment}

    def _mark_trials(self, search: SearchRecord, parent: str, document: dict[str, Any]) -> None:
        """Front, recommendation and test figures: known at the end, and for few; runs that have them are left alone."""
        trials = {trial.number: trial for trial in self._catalog.trials(search.id)}
        front = {member["trial"] for member in document["front"]}
        recommended = (document.get("recommended") or {}).get("trial")
        for run in runs_of(self._client, self._experiments(search), f"tags.`{PARENT}` = '{parent}'"):
            number = int(run.data.tags.get("trial", -1))
            wanted = {"front": str(number in front).lower(), "recommended": str(number == recommended).lower()}
            tags = {name: value for name, value in wanted.items() if run.data.tags.get(name) != value}
            trial = trials.get(number)
            figures = _test_metrics(trial) if trial else {}
            new = [
                (name, value, run.info.end_time, 0) for name, value in figures.items() if name not in run.data.metrics
            ]
            if tags or new:
                self._log(run.info.run_id, new, tags=tags)

    def _leave_one(self, search: SearchRecord, key: str, known: str | None) -> None:
        """Of the runs of one key the known one, else the oldest. What is deleted can be restored in MLflow."""
        runs = list(runs_of(self._client, self._experiments(search), f"tags.`{KEY}` = '{key}'"))
        kept = next((run for run in runs if run.info.run_id == known), runs[-1] if runs else None)
        for run in runs:
            if run is not kept:
                self._client.delete_run(run.info.run_id)

    def _find(self, key: str, known: str | None, search: SearchRecord | None) -> Run | None:
        """The run of this key; even if it was created and a kill kept its id from the catalog."""
        from mlflow import MlflowException

        if known:
            try:
                run = self._client.get_run(known)
            except MlflowException as error:
                # Another tracking server than before, perhaps.
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
            else:
                if run.info.lifecycle_stage == "active":
                    return run
        found = self._client.search_runs([*self._experiments(search)], f"tags.`{KEY}` = '{key}'", max_results=1)
        return found[0] if found else None

    def _log(
        self,
        run_id: str,
        metrics: list[tuple[str, Any, int, int]] | None = None,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        """In as few calls as MLflow's limits allow. A metric is name, value, timestamp in ms, step."""
        from mlflow.entities import Metric, Param, RunTag

        finite = (Metric(_name(name), *rest) for name, *rest in metrics or [] if isinstance(rest[0], int | float))
        others = (Param(_name(name), value) for name, value in (params or {}).items())
        marks = [RunTag(_name(name), value) for name, value in (tags or {}).items()]
        while True:
            batch = list(islice(finite, _METRICS_PER_CALL - len(marks))), list(islice(others, _OTHERS_PER_CALL)), marks
            if not any(batch):
                return
            self._client.log_batch(run_id, *batch)
            marks = []


def _run_name(label: str) -> str:
    """As long as MLflow's databases take it; the parameter ``targets`` has all groups."""
    return label if len(label) <= _NAME_LIMIT else f"{label[: _NAME_LIMIT - 1]}…"


def _metric_name(label: str, figure: str) -> str:
    """``label.figure``, as long as MLflow takes it; labels that begin alike stay apart."""
    if len(name := f"{label}.{figure}") <= _NAME_LIMIT:
        return name
    end = f"-{sha256(label.encode()).hexdigest()[:8]}.{figure}"
    return label[: _NAME_LIMIT - len(end)] + end


def _trial_params(search: SearchRecord, trial: TrialRecord) -> dict[str, str]:
    groups = search.facts.get("groups") or trial.groups
    return {
        "targets": ",".join(trial.groups),
        "rank": str(trial.rank),
        "alpha": str(search.alpha_at(trial.rank)),
        "seed": str(search.spec.get("seed")),
        **{f"group.{group}": str(int(group in trial.groups)) for group in groups},
    }


def _trial_metrics(trial: TrialRecord) -> dict[str, Any]:
    measured = trial.measurement or {}
    validation, latency = measured.get("validation") or {}, measured.get("latency") or {}
    return {
        "accuracy": validation.get("accuracy"),
        "validation_loss": validation.get("loss"),
        "tpot_ratio": latency.get("ratio"),
        **{name: value for name, value in latency.items() if name.endswith("_ms")},
        "parameters": measured.get("parameters"),
        "steps": trial.steps,
        **{f"seconds_{part}": value for part, value in (measured.get("seconds") or {}).items()},
        **_test_metrics(trial),
    }


def _test_metrics(trial: TrialRecord) -> dict[str, Any]:
    return {"test_accuracy": trial.test["accuracy"]} if trial.test else {}


def _table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """As MLflow's table view reads it."""
    return {"columns": list(rows[0]) if rows else [], "data": [list(row.values()) for row in rows]}


def _changeable(search: SearchRecord) -> dict[str, str]:
    """Tags, since MLflow holds parameters to their first value."""
    return _flat({name: search.spec.get(name) for name in CHANGEABLE})


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"a": {"b": [1, 2]}}`` as ``{"a.b": "1,2"}``; what is null is left out."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _name(name: str) -> str:
    """MLflow takes letters, digits and ``_-./ `` in a name."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)

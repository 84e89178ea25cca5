"""Taking a search out of MLflow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from search.catalog.records import SearchRecord
from search.mlflow_store import KEY, follow_artifacts, opened, runs_of

if TYPE_CHECKING:
    from mlflow import MlflowClient


def delete_runs(tracking_uri: str, search: SearchRecord, artifact_root: Path) -> int:
    """Moves the search's run and those of its trials to MLflow's trash, and deletes the versions of registered models
    that were made of them. Returns how many runs those are; once more changes nothing.

    MLflow's trash keeps artifacts, adapters above all: those under ``artifact_root`` are deleted, others by the
    server's own ``mlflow gc``. Not by that from here: whatever it is asked for, it empties the trash of experiments.
    Raises what MLflow, the network or the disk raise.
    """
    if (store := opened(tracking_uri, [search.mlflow_experiment_id])) is None:
        return 0
    client, experiments = store
    follow_artifacts(tracking_uri, artifact_root)
    named = runs_of(client, experiments, f"tags.search = '{search.name}'", trashed=True)
    # Another search may have had this name before.
    runs = [run.info for run in named if run.data.tags.get(KEY, "").partition("/")[0] == search.id]
    _delete_versions(client, search.spec.get("series") or search.name, {run.run_id for run in runs})
    active = [run for run in runs if run.lifecycle_stage == "active"]
    for run in active:
        client.delete_run(run.run_id)
    for run in runs:
        folder = Path(url2pathname(urlsplit(run.artifact_uri).path)).parent
        if folder == artifact_root.resolve() / run.run_id and folder.is_dir():
            shutil.rmtree(folder)
    return len(active)


def _delete_versions(client: MlflowClient, name: str, runs: set[str]) -> None:
    """And the registered model, if it has no other."""
    versions = client.search_model_versions(f"name = '{name}'")
    gone = [version for version in versions if version.run_id in runs]
    for version in gone:
        client.delete_model_version(name, version.version)
    if gone and len(gone) == len(versions):
        client.delete_registered_model(name)

"""MLflow's model registry: one registered model for a series or a search, whose alias names the adapter to serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ALIAS = "champion"
#: Of a trial's run, what its model version shows too.
_TAGS = ("search", "trial", "adapter_sha256")


def make_champion(client: MlflowClient, name: str, run: Run, source: str) -> None:
    """The adapter at ``source``, of the trial of ``run``, becomes the champion; once more changes nothing.

    Each step looks first for what a process that died has left. Raises what MLflow or the network raise.
    """
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description="LoRA adapters; PEFT loads the folder that a version names.")
    versions = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    version = next((each for each in versions if each.name == name), None)
    if version is None:
        tags = {tag: run.data.tags[tag] for tag in _TAGS if tag in run.data.tags}
        version = client.create_model_version(name, source, run.info.run_id, tags, description=run.info.run_name)
    (model,) = client.search_registered_models(f"name = '{name}'")
    if str(model.aliases.get(ALIAS)) != str(version.version):
        client.set_registered_model_alias(name, ALIAS, version.version)

"""The champion in MLflow's registry, on a real MLflow database."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest

from search.catalog import Catalog
from search.tracking import Tracker
from tests.dashboards.documents import document
from tests.search.recorded import Reader, begin, end_trial


@pytest.fixture
def storage(sqlite: str) -> str:
    return sqlite


def test_the_recommended_adapter_is_registered_once_and_comes_back_by_its_alias(
    catalog: Catalog, tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "adapters" / "2"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    result = document() | {"registry_uri": "models:/demo@champion"}
    tracker = Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: result)
    search = begin(catalog)
    end_trial(catalog, search, 2, adapter=str(adapter))
    for _ in range(2):
        catalog.set_status(search.id, "complete")
        assert tracker.drain() > 0
    (model,) = Reader(tracking_uri).client.search_registered_models()
    assert (model.name, {name: str(version) for name, version in model.aliases.items()}) == ("demo", {"champion": "1"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    folder = mlflow.artifacts.download_artifacts("models:/demo@champion")
    assert (Path(folder) / "adapter_model.safetensors").read_bytes() == bytes(range(256))

"""The champion in MLflow's registry, on a real MLflow database."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from sqlalchemy import create_engine, text

from search.catalog import Catalog
from search.catalog.champions import decide
from search.tracking import Tracker
from tests.dashboards.documents import document
from tests.search.recorded import FACTS, SPEC, Reader, begin, end_trial


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    folder = tmp_path / "adapters" / "2"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    return str(folder)


@pytest.fixture
def storage(sqlite: str) -> str:
    return sqlite


def test_the_recommended_adapter_is_registered_once_and_comes_back_by_its_alias(
    catalog: Catalog, tracking_uri: str, tmp_path: Path, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = document() | {"registry_uri": "models:/demo@champion"}
    tracker = Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: result)
    search = begin(catalog)
    end_trial(catalog, search, 2, adapter=adapter)
    for _ in range(2):
        catalog.set_status(search.id, "complete")
        assert tracker.drain() > 0
    (model,) = Reader(tracking_uri).client.search_registered_models()
    assert (model.name, {name: str(version) for name, version in model.aliases.items()}) == ("demo", {"champion": "1"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    folder = mlflow.artifacts.download_artifacts("models:/demo@champion")
    assert (Path(folder) / "adapter_model.safetensors").read_bytes() == bytes(range(256))

    end_trial(catalog, search, 7, adapter=adapter)
    tracker.drain()
    client, run = Reader(tracking_uri).client, Reader(tracking_uri).trials()[7]
    client.create_registered_model("mine")  # as a user may, of the same run
    client.create_model_version("mine", f"{run.info.artifact_uri}/adapter", run.info.run_id)
    result["recommended"] = {"trial": 7, "why": "better"}
    catalog.set_status(search.id, "complete")
    assert tracker.drain() == 1
    champion = client.get_model_version_by_alias("demo", "champion")
    assert (str(champion.version), champion.run_id) == ("2", run.info.run_id)


def test_a_champion_of_an_earlier_night_comes_to_another_tracking_server_with_its_adapter(
    catalog: Catalog, tracking_uri: str, tmp_path: Path, adapter: str
) -> None:
    first = begin(catalog, "s-1")
    end_trial(catalog, first, 2, adapter=adapter)
    catalog.set_status(first.id, "complete")
    with create_engine(catalog.url).begin() as connection:
        connection.execute(text("DELETE FROM catalog_outbox"))
    second = catalog.create_search("s-2", SPEC | {"series": "s"}, FACTS)
    decide(catalog, second.id, "s", "kept", catalog.trial(first.id, 2), "champion of series s unchanged", {})
    catalog.set_status(second.id, "complete")
    result = document() | {"registry_uri": "models:/s@champion"}
    Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: result).drain()
    client = Reader(tracking_uri).client
    version = client.get_model_version_by_alias("s", "champion")
    assert {"search": "s-1", "trial": "2"}.items() <= version.tags.items()
    assert client.get_run(version.run_id).data.tags["search.key"] == f"{first.id}/2"


def test_an_adapter_that_has_vanished_is_not_registered(catalog: Catalog, tracking_uri: str, tmp_path: Path) -> None:
    search = begin(catalog)
    end_trial(catalog, search, 2, adapter="/nowhere/2")
    catalog.set_status(search.id, "complete")
    result = document() | {"registry_uri": "models:/demo@champion"}
    assert Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: result).drain() == 3
    assert not Reader(tracking_uri).client.search_registered_models()

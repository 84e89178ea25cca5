from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Two test processes share two cores: more threads than that make both slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that it is not what one process does at the end while the others wait.

    Tests of one ``xdist_group`` run in one process: they look at a search that the first of them runs.
    """
    items.sort(key=lambda item: not any(map(item.get_closest_marker, ("slow", "xdist_group"))))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and data of a development checkout, beside the repository; they are never part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("no shared folder beside this checkout")
    return folder


@pytest.fixture(scope="session")
def migrated_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database: its migrations take seconds, a copy of it takes none."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def tracking_uri(migrated_mlflow: Path, tmp_path: Path) -> str:
    """URI of a new, empty MLflow database."""
    copy = shutil.copyfile(migrated_mlflow, tmp_path / "mlflow.db")
    return f"sqlite:///{copy}"

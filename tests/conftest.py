from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Two test processes share two cores: more threads than that make both slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

#: Of memory-backed disk, and far more than the tests' files take.
_ROOM = 4 << 30
_MEMORY = Path("/dev/shm")

# Databases wait for the disk at every commit, and hundreds of new ones are made here: in memory they do not. No test
# cuts the power, and what a killed process had written survives it there as well. The processes of xdist inherit it.
_scratch: str | None = None
if "TMPDIR" not in os.environ and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
    _scratch = tempfile.mkdtemp(prefix="t-", dir=_MEMORY)  # short, since sockets lie in it
    os.environ["TMPDIR"] = _scratch
    tempfile.tempdir = None


def pytest_sessionfinish(exitstatus: int) -> None:
    """What killed processes left behind goes too; after a failure all stays, to be looked at."""
    if _scratch is not None and exitstatus == 0:
        shutil.rmtree(_scratch, ignore_errors=True)


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

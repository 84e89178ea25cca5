from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in each run, however slow the machine: CI is to fail of what changed, and of nothing else.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

# Two test processes share two cores: more threads than that make both slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Temporary folders lie in memory where there is plenty: SQLite waits for the disk at every commit.

    Processes of xdist are told their folder, which is a part of the first process's.
    """
    memory, enough = Path("/dev/shm"), 2 * 2**30
    if config.option.basetemp or "PYTEST_DEBUG_TEMPROOT" in os.environ or not os.path.ismount(memory):
        return
    there = os.statvfs(memory)
    if there.f_bavail * there.f_frsize > enough and not there.f_flag & os.ST_NOEXEC:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(memory)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with what takes long come first, and those of few tests last, so that no process is left with much to do.

    Files, since with ``--dist loadfile`` tests that look at one search run in the process that ran it.
    """
    long = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in long, 0 if item.path in long else -tests[item.path]))


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

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two test processes share two cores: more threads than that make both slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and data of a development checkout, beside the repository; they are never part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("no shared folder beside this checkout")
    return folder

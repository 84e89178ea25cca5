"""The wheel holds all that the program reads at run time, and works where there is no repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("search", "objectives", "cluster", "dashboards")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Built once, also where several processes test, from a copy: a build leaves files behind in its source tree."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "wheel"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            _build(folder)
    (built,) = folder.glob("*.whl")
    return built


def _build(folder: Path) -> None:
    source = folder.with_name("wheel-source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    _run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source), cwd=source)


def _run(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="session")
def names(wheel: Path) -> Iterator[set[str]]:
    with ZipFile(wheel) as archive:
        yield set(archive.namelist())


def test_the_wheel_holds_every_file_that_is_read_at_run_time(names: set[str]) -> None:
    expected = {f"{package}/py.typed" for package in PACKAGES}
    expected |= {f"dashboards/{page}.html" for page in ("report", "comparison", "page", "table")}
    expected |= {"dashboards/draw.js", "dashboards/plotlyjs/plotly.min.js", "search/catalog/migrations/script.py.mako"}
    for pattern in ("objectives/demo/model/*", "objectives/demo/data/*", "search/catalog/migrations/**/*.py"):
        files = {str(file.relative_to(ROOT)) for file in ROOT.glob(pattern)}
        assert files, pattern
        expected |= files
    for package in PACKAGES:
        expected |= {str(file.relative_to(ROOT)) for file in (ROOT / package).rglob("*.py")}
    assert expected <= names


def test_the_wheel_holds_nothing_else(names: set[str]) -> None:
    foreign = {name for name in names if name.partition("/")[0] not in PACKAGES and ".dist-info/" not in name}
    assert not foreign
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    _run(*install, cwd=folder)
    return folder


def test_the_installed_program_answers(installed: Path, tmp_path: Path) -> None:
    shown = _run("-m", "search", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert shown.startswith("Usage: python -m search")


def test_the_installed_program_finds_its_demonstration(installed: Path, tmp_path: Path) -> None:
    shown = _run("-m", "search", "modules", "--json", cwd=tmp_path, PYTHONPATH=str(installed), HF_HUB_OFFLINE="1")
    document = json.loads(shown)
    assert Path(document["model"]) == installed / "objectives" / "demo" / "model"
    assert {"q_proj", "o_proj", "down_proj"} <= {group["name"] for group in document["groups"]}


def test_the_installed_program_makes_its_database(installed: Path, tmp_path: Path) -> None:
    add = ("-m", "search", "token", "add", "t", "--scope", "read", "--home", "home")
    assert _run(*add, cwd=tmp_path, PYTHONPATH=str(installed)).strip()
    assert (tmp_path / "home" / "search.db").is_file()

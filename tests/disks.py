"""Small file systems, for tests of what does not fit on one or has to leave one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Disk = Callable[[Path, int], None]
ReadOnly = Callable[[Path], None]


@pytest.fixture
def read_only() -> Iterator[ReadOnly]:
    """Makes a folder, until the end of the test, one that this user cannot write, be it root."""
    mounted: list[Path] = []

    def read_only(folder: Path) -> None:
        for how in (["--bind", folder], ["-o", "remount,ro,bind"]):
            try:
                subprocess.run(["mount", *how, folder], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no folder can be mounted here: {error}")
            mounted.append(folder)

    yield read_only
    for folder in set(mounted):
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Puts a file system of so many KiB on a folder, or gives the one that is there so many."""
    mounted: list[Path] = []

    def disk(folder: Path, kib: int) -> None:
        folder.mkdir(exist_ok=True)
        options = f"size={kib}k" + (",remount" if folder in mounted else "")
        try:
            mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no file system can be mounted here: {error}")
        mounted.append(folder)

    yield disk
    for folder in set(mounted):
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

"""Copies the demonstration's model and data to a folder: python -m objectives.demo DIR makes DIR/model and DIR/data."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from objectives.demo import data_dir, model_dir


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m objectives.demo", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="new or empty folder")
    folder: Path = parser.parse_args().folder
    try:
        if folder.exists() and any(folder.iterdir()):
            parser.error(f"{folder} is not an empty folder: choose another")
        for source in (model_dir(), data_dir()):
            shutil.copytree(source, folder / source.name)
    except OSError as error:
        parser.error(f"{folder} cannot be written ({error.strerror}): choose another")


if __name__ == "__main__":
    main()

"""Where the rows of each split come from: a folder of split files, one file, or a dataset of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from objectives.errors import DataError
from objectives.formats import SUFFIXES, RawRows, needed, read_file, table_rows

Split = Literal["train", "validation", "test"]

_SPLIT_OF_NAME: Mapping[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "dev": "validation",
    "val": "validation",
    "test": "test",
}

#: Beside the Arrow files of a `DatasetDict`, and of a `Dataset`.
_SAVED = {"dataset_dict.json", "state.json"}


def find(source: str, columns: Collection[str]) -> tuple[str, dict[Split, RawRows], list[str]]:
    """A short name for the data, and its splits; train is among them, and all there is for a single file.

    Third is what else there is with rows, under names that are no split's. ``columns`` are those whose values are
    wanted. Raises DataError if nothing is there that can be read.
    """
    if not source.strip():
        raise DataError("The data source is empty. Pass a folder, a file or a hub id.")
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    try:
        if path.is_dir():
            files, others = _split_files(path)
            return path.resolve().name, {split: read_file(file, columns) for split, file in files.items()}, others
        if path.exists():
            if path.suffix.lower() not in SUFFIXES:
                raise DataError(f"{path} is of no known format. Use one of {', '.join(SUFFIXES)}.")
            return path.stem, {"train": read_file(path, columns)}, []
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}.") from error
    if _looks_like_path(source):
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"{source} does not exist{where}. Check the path.")
    return source, *_hub_splits(source, columns)


def _looks_like_path(source: str) -> bool:
    hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source)
    return not hub_id or source.startswith(".") or bool(re.search(r"\.[A-Za-z]\w*$", source))


def _split_files(folder: Path) -> tuple[dict[Split, Path], list[str]]:
    entries = sorted(folder.iterdir())
    found: dict[Split, Path] = {}
    others: list[str] = []
    for path in entries:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        split = _SPLIT_OF_NAME.get(path.stem.lower())
        if split is None:
            others.append(path.name)
            continue
        if split in found:
            raise DataError(f"{folder} has two files for {split}: {found[split].name} and {path.name}. Keep one.")
        found[split] = path
    if "train" not in found:
        names = [path.name for path in entries]
        if _SAVED & {*names}:
            raise DataError(
                f"{folder} was written by save_to_disk of datasets, which is not read. "
                "Write each split with to_parquet, as train.parquet, into one folder."
            )
        there = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise DataError(
            f"{folder} has no train file; it {'holds ' + there if names else 'is empty'}. "
            f"Name one train with a suffix of {', '.join(SUFFIXES)}, or pass one file itself."
        )
    return found, others


def _hub_splits(source: str, columns: Collection[str]) -> tuple[dict[Split, RawRows], list[str]]:
    import datasets
    import huggingface_hub

    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            # One question first: load_dataset retries for half a minute where there is no network.
            huggingface_hub.HfApi().dataset_info(source, timeout=10)
        loaded: Mapping[str, Any] = datasets.load_dataset(source)
    except Exception as error:  # datasets and its transports share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(
            f"{source} is no file or folder here, and it cannot be loaded as a hub dataset: {reason}. "
            "Pass the path of a folder or file, or check the id and the network (HF_HUB_OFFLINE=1 uses the cache)."
        ) from error

    found: dict[Split, RawRows] = {}
    for name, dataset in loaded.items():
        if (split := _SPLIT_OF_NAME.get(name)) and split not in found:
            features = dataset.features.items()
            classes = {
                column: feature.names for column, feature in features if isinstance(feature, datasets.ClassLabel)
            }
            title = f"hub dataset {source} ({name})"
            names = dataset.column_names
            tables = dataset.select_columns(needed(names, columns)).with_format("arrow").iter(batch_size=1000)
            found[split] = RawRows(title, "row", table_rows(title, tables, names, classes))
    if "train" not in found:
        raise DataError(f"hub dataset {source} has no train split, only {', '.join(loaded)}. Choose one that has.")
    return found, [name for name in loaded if name not in _SPLIT_OF_NAME]

"""Where the rows of each split come from: a folder of split files, one file, or a dataset of the Hugging Face hub."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from objectives.errors import DataError, first_line
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
#: What datasets reads of a clone as it stands; of tables as text it would take 007 for a number and NA for nothing.
_CLONED = (".parquet", ".jsonl", ".json")
#: Files that datasets' save_to_disk leaves in the folder of several splits, or in that of one.
_SAVED = ({"dataset_dict.json"}, {"state.json", "dataset_info.json"})


def some(names: list[str]) -> str:
    """The first of many, for a sentence."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def find(source: str, columns: Collection[str]) -> tuple[str, dict[Split, RawRows], list[str]]:
    """A short name for the data, and its splits; train is among them, and all there is for a single file.

    With them the names of what may be data too, but are those of no split. ``columns`` are those whose values are
    wanted. Raises DataError if nothing is there that can be read.
    """
    if not source.strip():
        raise DataError("The data source is empty. Pass a folder, a file or a hub id.")
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    try:
        if path.is_dir():
            name = path.resolve().name
            if any(all((path / file).is_file() for file in files) for files in _SAVED):
                return name, *_splits(str(path), _saved(path), columns)
            if _is_repository(path):
                return name, *_splits(str(path), _cloned(path), columns)
            files, unused = _split_files(path)
            return name, {split: read_file(file, columns) for split, file in files.items()}, unused
        if path.exists():
            if path.suffix.lower() not in SUFFIXES:
                raise DataError(f"{path} is of no known format. Use one of {', '.join(SUFFIXES)}.")
            return path.stem, {"train": read_file(path, columns)}, []
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror or error}.") from error
    if _looks_like_path(source):
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise DataError(f"{source} does not exist{where}. Check the path.")
    return source, *_splits(f"hub dataset {source}", _from_hub(source), columns)


def _looks_like_path(source: str) -> bool:
    hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source)
    return not hub_id or source.startswith(".") or bool(re.search(r"\.[A-Za-z]\w*$", source))


def _split_files(folder: Path) -> tuple[dict[Split, Path], list[str]]:
    entries = sorted(folder.iterdir())
    found: dict[Split, Path] = {}
    unused: list[str] = []
    for path in entries:
        split = _names_split(path)
        if split is None:
            if not path.name.startswith(".") and _may_be_data(path):
                unused.append(path.name)
            continue
        if not path.is_file():
            raise DataError(f"{path} is no file, or a link to one that is not there. Put the rows of {split} there.")
        if split in found:
            raise DataError(f"{folder} has two files for {split}: {found[split].name} and {path.name}. Keep one.")
        found[split] = path
    if "train" not in found:
        there = f"holds {some([path.name for path in entries])}" if entries else "is empty"
        raise DataError(
            f"{folder} has no train file; it {there}. "
            f"Name one train with a suffix of {', '.join(SUFFIXES)}, or pass one file itself."
        )
    return found, unused


def _names_split(path: Path) -> Split | None:
    return _SPLIT_OF_NAME.get(path.stem.lower()) if path.suffix.lower() in SUFFIXES else None


def _may_be_data(path: Path) -> bool:
    """By its name: rows in a format that is read, or a split in another, such as test.jsonl.gz or a folder of parts."""
    return path.suffix.lower() in SUFFIXES or path.name.lower().partition(".")[0] in _SPLIT_OF_NAME


def _saved(folder: Path) -> Mapping[str, Any]:
    import datasets

    try:
        loaded: Any = datasets.load_from_disk(str(folder))
    except Exception as error:  # as below
        raise DataError(
            f"{folder} holds a dataset that save_to_disk wrote, and it cannot be read: {first_line(error)}. "
            "Save it again."
        ) from error
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    files = [os.path.abspath(file["filename"]) for split in splits.values() for file in split.cache_files]  # noqa: PTH100
    _refuse_elsewhere(folder, "state.json or dataset_dict.json", files)
    return splits


def _is_repository(folder: Path) -> bool:
    """As the hub has data sets: splits in ``data``, in folders of their own or in numbered parts, none as one file.

    Beside those datasets would pass over such a file, and without a name for train take all files together for it.
    """
    if any(_names_split(path) for path in folder.iterdir()):
        return False
    within = itertools.chain(folder.glob("train-*-of-*"), folder.glob("data/*train*"), folder.glob("train/*"))
    return any(path.suffix.lower() in _CLONED for path in within)


def _cloned(folder: Path) -> Mapping[str, Any]:
    import datasets

    try:
        _refuse_elsewhere(folder, "README.md or .huggingface.yaml", _named_in_cards(folder))
        loaded: Mapping[str, Any] = datasets.load_dataset(str(folder))
    except DataError:
        raise
    except Exception as error:  # as below
        raise DataError(
            f"{folder} looks like a data set of the hub, and it cannot be read as one: {first_line(error)}. "
            "Fetch what git lfs left out (git lfs pull), or pass one of its files, or a folder with a file named train "
            f"with a suffix of {', '.join(SUFFIXES)}."
        ) from error
    return loaded


def _named_in_cards(folder: Path) -> Iterator[str]:
    """What a clone says of where its data lie."""
    import huggingface_hub
    import yaml

    configs: list[Any] = []
    if (card := folder / "README.md").is_file():
        configs += huggingface_hub.DatasetCard.load(card).data.get("configs") or []
    if (card := folder / ".huggingface.yaml").is_file():
        configs += (yaml.safe_load(card.read_text(encoding="utf-8")) or {}).get("configs") or []
    for config in configs:
        yield from _texts([config.get("data_dir"), config.get("data_files")])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


def _refuse_elsewhere(folder: Path, where: str, places: Iterable[str]) -> None:
    """Raises DataError for a place that is not in the folder: datasets would open any file, and ask any server.

    By the words alone: a link in the folder is its owner's, who may keep large files elsewhere.
    """
    root = os.path.abspath(folder)  # noqa: PTH100 - resolve() would follow links
    for place in places:
        path = os.path.normpath(os.path.join(root, place))  # noqa: PTH118
        if "://" in place or "::" in place or not f"{path}/".startswith(f"{root}/"):
            raise DataError(
                f"{folder} is not whole: its {where} takes data from {place!r}, which is not in it. "
                "Copy them there and correct that, or pass the files that you mean."
            )


def _from_hub(source: str) -> Mapping[str, Any]:
    import datasets
    import huggingface_hub

    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            # One question first: load_dataset retries for half a minute where there is no network.
            huggingface_hub.HfApi().dataset_info(source, timeout=10)
        loaded: Mapping[str, Any] = datasets.load_dataset(source)
    except Exception as error:  # datasets and its transports share no base class
        if several := re.search(r"available configs: \[(.*)\]", str(error)):
            raise DataError(
                f"{source} has several configurations ({several[1]}), and --data names none. Write the one you mean to "
                "a folder (load_dataset and save_to_disk of datasets), and pass that."
            ) from error
        raise DataError(
            f"{source} is no file or folder here, and it cannot be loaded as a hub dataset: {first_line(error)}. "
            "Pass the path of a folder or file, or check the id and the network (HF_HUB_OFFLINE=1 uses the cache)."
        ) from error
    return loaded


def _splits(title: str, loaded: Mapping[str, Any], columns: Collection[str]) -> tuple[dict[Split, RawRows], list[str]]:
    import datasets

    unused: list[str] = []
    found: dict[Split, RawRows] = {}
    for name, dataset in loaded.items():
        if (split := _SPLIT_OF_NAME.get(name.lower())) and split not in found:
            features = dataset.features.items()
            classes = {
                column: feature.names for column, feature in features if isinstance(feature, datasets.ClassLabel)
            }
            part = f"{title} ({name})"
            names = dataset.column_names
            tables = dataset.select_columns(needed(names, columns)).with_format("arrow").iter(batch_size=1000)
            found[split] = RawRows(part, "row", table_rows(part, tables, names, classes))
        else:
            unused.append(name)
    if "train" not in found:
        raise DataError(f"{title} has no train split, only {', '.join(loaded)}. Choose one that has.")
    return found, unused

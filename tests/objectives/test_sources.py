"""Where splits come from: folders that datasets wrote, and the hub at its boundary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from objectives.data import Row, load_data
from objectives.errors import DataError

datasets = pytest.importorskip("datasets")


def reviews() -> Any:
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "id": datasets.Value("int8"),
        }
    )
    rows = [{"text": f"text {i}", "label": i % 2, "id": i} for i in range(40)]
    return datasets.Dataset.from_list(rows, features=features)


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    train = reviews()
    both = datasets.DatasetDict(train=train, dev=train.select([3, 2, 1]), unsupervised=train)
    both.save_to_disk(tmp_path / "both")
    data = load_data(str(tmp_path / "both"))
    assert (data.name, data.labels) == ("both", ("neg", "pos"))
    assert data.splits["validation"] == tuple(Row(f"text {i}", ["neg", "pos"][i % 2]) for i in (3, 2, 1))
    assert data.notes[1] == ("not used, since only train, validation (valid, dev, val) and test are: unsupervised")
    datasets.DatasetDict(Train=train, DEV=train.select([3, 2, 1])).save_to_disk(tmp_path / "capitals")
    assert load_data(str(tmp_path / "capitals")).splits["validation"] == data.splits["validation"]
    train.save_to_disk(tmp_path / "one")
    one = load_data(str(tmp_path / "one"))
    assert {split: len(rows) for split, rows in one.splits.items()} == {"train": 32, "validation": 4, "test": 4}

    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"cut short")
    with pytest.raises(DataError) as error:
        load_data(str(tmp_path / "one"))
    start, end = str(error.value).split(": ", 1)
    assert start == f"{tmp_path}/one holds a dataset that save_to_disk wrote, and it cannot be read"
    assert end.endswith(". Save it again.")
    assert "\n" not in end


@pytest.mark.parametrize("form", ["{split}-{part:05}-of-00002.parquet", "data/{split}-{part:05}-of-00002.parquet"])
def test_a_clone_of_the_hub_with_numbered_parts(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    both, clone = reviews(), tmp_path / "clone"
    (clone / "data").mkdir(parents=True)
    for split, rows in {"train": both, "test": both.select(range(4))}.items():
        for part in range(2):
            rows.shard(2, part, contiguous=True).to_parquet(clone / form.format(split=split, part=part))
    (clone / "README.md").write_text("# Reviews\n")
    data = load_data(str(clone))
    assert (data.name, data.labels) == ("clone", ("neg", "pos"))
    assert data.splits["test"] == tuple(Row(f"text {i}", ["neg", "pos"][i % 2]) for i in range(4))
    assert len(data.splits["train"]) + len(data.splits["validation"]) == 36, "four train rows are in test"


def test_a_clone_of_the_hub_with_folders_of_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split, count in (("train", 40), ("validation", 6)):
        (tmp_path / "set" / split).mkdir(parents=True)
        rows = "".join(f'{{"text": "{split} {i}", "label": "{i % 2}"}}\n' for i in range(count))
        (tmp_path / "set" / split / "part.jsonl").write_text(rows)
    data = load_data(str(tmp_path / "set"))
    assert [row.text for row in data.splits["validation"]] == [f"validation {i}" for i in range(6)]

    (tmp_path / "set" / "train" / "part.jsonl").write_text("{broken")
    with pytest.raises(DataError, match="looks like a data set of the hub, and it cannot be read as one: ") as error:
        load_data(str(tmp_path / "set"))
    assert "\n" not in str(error.value)
    assert "Fetch what git lfs left out (git lfs pull), or pass one of its files, or a folder with " in str(error.value)


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "named",
    [
        "data_files: ../elsewhere.jsonl",
        "data_files: {tmp}/elsewhere.jsonl",
        "data_files: http://127.0.0.1:9/rows.jsonl",
        "data_files: 'json://::file://{tmp}/elsewhere.jsonl'",
        "data_files: 'simplecache::{tmp}/elsewhere.jsonl'",
        "data_files: [data/train.jsonl, data/../../elsewhere.jsonl]",
        "data_files: [{{split: train, path: [data/train.jsonl, '{tmp}/clone-too/x.jsonl']}}]",
        "data_dir: ..",
    ],
)
def test_a_clone_has_its_data_in_it(tmp_path: Path, named: str, card: str) -> None:
    """What somebody else wrote into its card would else open any file of this machine, and ask any server."""
    (tmp_path / "clone" / "data").mkdir(parents=True)
    for file in (tmp_path / "elsewhere.jsonl", tmp_path / "clone" / "data" / "train.jsonl"):
        file.write_text("".join(f'{{"text": "text {i}", "label": "{i % 2}"}}\n' for i in range(20)))
    configs = f"configs:\n- config_name: default\n  {named.format(tmp=tmp_path)}\n"
    (tmp_path / "clone" / card).write_text(f"---\n{configs}---\n" if card == "README.md" else configs)
    with pytest.raises(DataError) as error:
        load_data(str(tmp_path / "clone"))
    start, _, end = str(error.value).partition(" takes data from '")
    assert start == f"{tmp_path}/clone is not whole: its README.md or .huggingface.yaml"
    assert end.endswith("', which is not in it. Copy them there and correct that, or pass the files that you mean.")


def test_a_clone_says_which_of_its_files_are_of_which_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    clone = tmp_path / "clone"
    for name in ("data/train_a.jsonl", "data/held_out.jsonl"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text("".join(f'{{"text": "{name} {i}", "label": "{i % 2}"}}\n' for i in range(20)))
    files = "[{split: train, path: data/train_*}, {split: test, path: data/../data/held_out.jsonl}]"
    (clone / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files: {files}\n---\n# It\n")
    assert [row.text for row in load_data(str(clone)).splits["test"]][:2] == [
        "data/held_out.jsonl 0",
        "data/held_out.jsonl 1",
    ]


def test_what_save_to_disk_wrote_is_in_its_folder(tmp_path: Path) -> None:
    reviews().save_to_disk(tmp_path / "one")
    reviews().save_to_disk(tmp_path / "other")
    state = tmp_path / "one" / "state.json"
    (written,) = (tmp_path / "one").glob("*.arrow")
    state.write_text(state.read_text().replace(written.name, f"../other/{written.name}"))
    with pytest.raises(DataError) as error:
        load_data(str(tmp_path / "one"))
    assert str(error.value) == (
        f"{tmp_path}/one is not whole: its state.json or dataset_dict.json takes data from "
        f"'{tmp_path}/other/{written.name}', which is not in it. "
        "Copy them there and correct that, or pass the files that you mean."
    )


@pytest.mark.parametrize(
    "names",
    [
        ("Train.jsonl", "data/train.jsonl"),  # as everywhere, a name may have capitals
        ("train/part.jsonl", "validation.jsonl"),
        ("data/notes.jsonl", "questions.jsonl"),
        ("data/held_out.jsonl", "data/questions.jsonl"),
    ],
)
def test_no_file_is_passed_over_or_taken_for_train_as_if_the_hub_had_it(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows = "".join(f'{{"text": "{name} {i}", "label": "{i % 2}"}}\n' for i in range(20))
        (tmp_path / name).write_text(rows)
    if names[0] == "Train.jsonl":
        assert all(row.text.startswith("Train") for row in load_data(str(tmp_path)).splits["train"])
    else:
        with pytest.raises(DataError, match="has no train file; it holds "):
            load_data(str(tmp_path))


def test_a_clone_of_tables_as_text_is_read_by_its_folder(tmp_path: Path) -> None:
    """Our own reader keeps labels such as 007 and NA, which are a number and nothing to the reader of datasets."""
    (tmp_path / "data").mkdir()
    rows = "".join(f"text {i},{('007', 'NA')[i % 2]}\n" for i in range(40))
    (tmp_path / "data" / "train.csv").write_text(f"text,label\n{rows}")
    with pytest.raises(DataError, match="has no train file; it holds data"):
        load_data(str(tmp_path))
    assert load_data(str(tmp_path / "data")).labels == ("007", "NA")


def test_a_folder_of_several_data_sets_is_none(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(DataError, match="has no train file; it holds one, two"):
        load_data(str(tmp_path))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def serve(**splits: Any) -> None:
        monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_args, **_options: None)
        monkeypatch.setattr(datasets, "load_dataset", lambda _id: datasets.DatasetDict(splits))

    return serve


def test_a_hub_dataset_with_class_numbers(hub: Callable[..., None]) -> None:
    train = reviews()
    hub(train=train, dev=train.select(range(4)), valid=train, unsupervised=train)
    data = load_data("someone/reviews-v1.5")
    assert data.notes[1].endswith("test are: valid, unsupervised")
    assert data.name == "someone/reviews-v1.5"
    assert data.splits["validation"] == tuple(Row(f"text {i}", ["neg", "pos"][i % 2]) for i in range(4))
    assert len(data.splits["train"]) == 32

    hidden = datasets.Dataset.from_list([{"text": "x", "label": -1, "id": 0}], features=train.features)
    hub(train=train, test=hidden)
    with pytest.raises(DataError) as error:
        load_data("glue")
    assert str(error.value) == (
        "hub dataset glue (test), row 1: label -1 is none of the 2 classes of the dataset. "
        "Test labels are often hidden like this: save the other splits to a folder and pass that."
    )
    hub(test=train)
    with pytest.raises(DataError) as error:
        load_data("glue")
    assert str(error.value) == "hub dataset glue has no train split, only test. Choose one that has."


def test_a_hub_dataset_of_several_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("emoji", "irony"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    named = "".join(f"- config_name: {name}\n  data_files: {name}/train.jsonl\n" for name in ("emoji", "irony"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{named}---\n")
    load = datasets.load_dataset
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_args, **_options: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda _id: load(str(tmp_path)))
    with pytest.raises(DataError) as error:
        load_data("someone/tweet_eval")
    assert str(error.value) == (
        "someone/tweet_eval has several configurations ('emoji', 'irony'), and --data names none. Write the one you "
        "mean to a folder (load_dataset and save_to_disk of datasets), and pass that."
    )


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(DataError) as error:
        load_data("someone/reviews")
    start, end = str(error.value).split(": ", 1)
    assert start == "someone/reviews is no file or folder here, and it cannot be loaded as a hub dataset"
    assert end.endswith(
        "Pass the path of a folder or file, or check the id and the network (HF_HUB_OFFLINE=1 uses the cache)."
    )

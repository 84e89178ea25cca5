from __future__ import annotations

import csv
import json
import pickle
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.data import Row, TaskData, load_data
from objectives.errors import DataError
from objectives.splits import set_aside, spaced

Fields = Mapping[str, Any]

#: The first example of a process pays for imports, and a shared machine is slow at times.


def write(path: Path, rows: Sequence[Fields]) -> Path:
    """In the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(rows), indent=2, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def labelled(size: int, labels: str = "ab", prefix: str = "") -> list[Fields]:
    return [{"text": f"{prefix}text {index}", "label": labels[index % len(labels)]} for index in range(size)]


def prompted(size: int, prefix: str = "") -> list[Fields]:
    return [{"prompt": f"{prefix}prompt {index}", "completion": f"answer {index}"} for index in range(size)]


def all_rows(data: TaskData) -> list[Row]:
    return [row for rows in data.splits.values() for row in rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound classification task with all three splits."""
    write(tmp_path / "task" / "train.jsonl", labelled(6))
    write(tmp_path / "task" / "validation.jsonl", labelled(4, prefix="v "))
    write(tmp_path / "task" / "test.jsonl", labelled(4, prefix="t "))
    return tmp_path / "task"


def test_a_folder_of_three_splits_is_used_as_it_is(folder: Path) -> None:
    data = load_data(str(folder))
    assert (data.name, data.task, data.labels, data.notes) == ("task", "classification", ("a", "b"), ())
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.splits["validation"] == tuple(Row(f"v text {index}", "ab"[index % 2]) for index in range(4))
    assert pickle.loads(pickle.dumps(data)) == data


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("validation", ["validation", "valid", "dev", "val"])
def test_every_format_and_name_of_a_split(tmp_path: Path, suffix: str, validation: str) -> None:
    for split in ("train", validation, "test"):
        write(tmp_path / f"{split}{suffix}", labelled(4, prefix=split))
    (tmp_path / "README.md").write_text("not data")
    data = load_data(str(tmp_path))
    assert data.splits["validation"][0] == Row(f"{validation}text 0", "a")
    assert not data.notes


@pytest.mark.parametrize(
    "said",
    [
        '{"info": null}', '{"info": {"features": null}}', "{}", "[1]", "no JSON",
        '{"info": {"features": {"label": {"_type": "ClassLabel"}}}}',
    ],
)  # fmt: skip
def test_what_datasets_left_out_of_a_parquet_is_not_missed(tmp_path: Path, said: str) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist(list(labelled(8))).replace_schema_metadata({"huggingface": said})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert load_data(str(tmp_path)).labels == ("a", "b")


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip),
        min_size=8,
        max_size=8,
        unique=True,
    )
)
def test_any_text_survives_every_format(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    rows = [{"prompt": text, "completion": text} for text in texts]
    for suffix in (".jsonl", ".json", ".csv", ".tsv", ".parquet"):
        if suffix == ".tsv" and any("\t" in text and "\n" in text for text in texts):
            continue  # it may look like rows, and is then refused
        data = load_data(str(write(folder / f"all{suffix}", rows)))
        assert {row.text for row in all_rows(data)} == set(texts)
        assert all(row.target == row.text for row in all_rows(data))


def test_of_prompts_that_all_differ_nothing_is_said(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", prompted(4, split))
    assert load_data(str(tmp_path)).notes == ()


def test_labels_become_text(tmp_path: Path) -> None:
    values = [1, 1.0, True, " yes ", "1", False, 2, -3] * 2
    write(tmp_path / "train.jsonl", [{"text": f"text {i}", "label": value} for i, value in enumerate(values)])
    assert load_data(str(tmp_path)).labels == ("-3", "1", "2", "False", "True", "yes")


def test_class_numbers_of_a_downloaded_parquet_become_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(8)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "train.parquet")
    assert load_data(str(tmp_path)).labels == ("neg", "pos")


def test_the_task_follows_from_the_fields_unless_both_fit(tmp_path: Path) -> None:
    both = [{**a, **b} for a, b in zip(labelled(20), prompted(20), strict=True)]
    path = write(tmp_path / "both.jsonl", both)
    assert load_data(str(path), "generation").splits["train"][0].text.startswith("prompt")
    assert load_data(str(path), "classification").labels == ("a", "b")
    with pytest.raises(DataError) as error:
        load_data(str(path))
    assert str(error.value) == (
        f"{path}, line 1: the fields fit both classification and generation. Say which with --task."
    )


# Splits


def test_one_file_is_split_in_proportion_and_says_so(tmp_path: Path) -> None:
    data = load_data(str(write(tmp_path / "reviews.csv", labelled(200, "aaab"))), seed=3)
    assert data.name == "reviews"
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 160, "validation": 20, "test": 20}
    for split in ("validation", "test"):
        assert Counter(row.target for row in data.splits[split])["b"] in (4, 5, 6)
    assert data.notes == (
        "no validation split: 10% of train (20 rows) was set aside with seed 3",
        "no test split: 10% of train (20 rows) was set aside with seed 3",
        "75% of train has the label 'a': always saying it has accuracy 0.750 on validation and 0.750 on test",
    )


@pytest.mark.parametrize(("present", "made"), [("validation", "test"), ("test", "validation")])
def test_a_missing_split_is_made_from_train_only(tmp_path: Path, present: str, made: str) -> None:
    write(tmp_path / "train.jsonl", labelled(100))
    write(tmp_path / f"{present}.jsonl", labelled(4, prefix="other "))
    data = load_data(str(tmp_path))
    assert data.splits[present] == tuple(Row(f"other text {index}", "ab"[index % 2]) for index in range(4))
    assert (len(data.splits["train"]), len(data.splits[made])) == (90, 10)
    assert data.notes == (f"no {made} split: 10% of train (10 rows) was set aside with seed 0",)


def test_splits_and_digest_depend_on_the_seed_alone(tmp_path: Path) -> None:
    path = str(write(tmp_path / "all.jsonl", labelled(100)))
    assert load_data(path, seed=1) == load_data(path, seed=1)
    assert load_data(path, seed=1).digest != load_data(path, seed=2).digest
    # Written down once: the same on every platform and in every version.
    assert [row.text for row in load_data(path, seed=1, test_rows=3).splits["test"]] == [
        "text 20",
        "text 37",
        "text 82",
    ]
    assert load_data(path, seed=1).digest == "b873df30d09df14d"


@given(st.lists(st.tuples(st.text("abcdef", max_size=3), st.sampled_from("xyz"))), st.integers(1, 2), st.integers())
def test_what_is_set_aside(pairs: list[tuple[str, str]], parts: int, seed: int) -> None:
    texts = {text for text, _ in pairs}
    try:
        aside = set_aside(pairs, parts, seed)
    except ValueError as error:
        strata = {stratum for _, stratum in pairs}
        needed = parts * max(2, round(0.1 * len(texts)))
        assert len(texts) - max(2, len(strata)) < needed
        found = re.match(r"(\d+) different inputs are needed, (\d+) can be spared", str(error))
        assert found and int(found[1]) == needed > int(found[2]) <= max(0, len(texts) - 2)
        return
    assert [len(part) for part in aside] == [max(2, round(0.1 * len(texts)))] * parts
    assert set().union(*aside) <= texts
    assert len(texts) - sum(map(len, aside)) >= 2, "train has a standard error too"
    assert all(a.isdisjoint(b) for a, b in combinations(aside, 2))
    assert {stratum for text, stratum in pairs if text not in set().union(*aside)} == {s for _, s in pairs}


def test_a_tenth_is_rounded_to_the_nearest() -> None:
    assert [[len(part) for part in set_aside([(f"t{i}", "") for i in range(n)], 2, 0)] for n in (24, 26)] == [
        [2, 2],
        [3, 3],
    ]


@given(st.lists(st.integers(20, 60), min_size=1, max_size=4), st.integers(0, 99))
def test_strata_keep_their_proportion(sizes: list[int], seed: int) -> None:
    pairs = [(f"{stratum} {index}", str(stratum)) for stratum, size in enumerate(sizes) for index in range(size)]
    for part in set_aside(pairs, 2, seed):
        found = Counter(text.split()[0] for text in part)
        assert all(abs(found[str(stratum)] - 0.1 * size) <= 1.5 for stratum, size in enumerate(sizes))


def test_completions_of_one_prompt_stay_together_and_become_references(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{index // 3}", "completion": f"c{index % 3 % 2} of {index // 3}"} for index in range(90)]
    data = load_data(str(write(tmp_path / "all.jsonl", rows)))
    assert (len(data.splits["train"]), len(data.splits["validation"]), len(data.splits["test"])) == (72, 3, 3)
    for row in data.splits["test"]:
        number = row.text[1:]
        assert row == Row(f"p{number}", f"c0 of {number}", (f"c0 of {number}", f"c1 of {number}"))
    assert all(row.references == () for row in data.splits["train"])
    assert "test: 9 rows have 3 different prompts; each is scored against all its completions" in data.notes


def test_a_bounded_split_is_a_sample_in_order_and_leaves_train_alone(folder: Path) -> None:
    write(folder / "validation.jsonl", labelled(100, prefix="v "))
    whole, bounded = load_data(str(folder)), load_data(str(folder), validation_rows=10, test_rows=4)
    chosen = bounded.splits["validation"]
    assert len(set(chosen)) == 10
    assert [row for row in whole.splits["validation"] if row in set(chosen)] == list(chosen)
    assert chosen != whole.splits["validation"][:10]
    assert (bounded.splits["train"], bounded.splits["test"]) == (whole.splits["train"], whole.splits["test"])
    assert bounded.notes == ("validation: 10 of 100 rows used (--validation-rows)",)
    assert bounded.digest != whole.digest


def test_each_task_has_bounds_by_default(folder: Path) -> None:
    write(folder / "validation.jsonl", labelled(100, prefix="v "))
    bounds: Any = {"classification": (10, 20), "generation": (2, 2)}
    assert load_data(str(folder), default_rows=bounds) == load_data(str(folder), validation_rows=10)
    asked = load_data(str(folder), validation_rows=30, default_rows=bounds)
    assert (len(asked.splits["validation"]), len(asked.splits["test"])) == (30, 4)


def test_train_rows_that_stand_in_other_splits_are_dropped(folder: Path) -> None:
    write(folder / "train.jsonl", [*labelled(6), *labelled(3, prefix="v "), *labelled(1, prefix="t ")])
    write(folder / "test.jsonl", [*labelled(4, prefix="t "), *labelled(1, prefix="v ")])
    data = load_data(str(folder))
    assert data.splits["train"] == tuple(Row(f"text {index}", "ab"[index % 2]) for index in range(6))
    assert data.notes == (
        "1 input in both validation and test, kept in both",
        "dropped 4 train rows whose input also stands in validation or test",
    )


def test_white_space_does_not_make_another_input(folder: Path) -> None:
    """Exports differ in it: a row that stood in train with a line end more was learned by heart and tested."""
    write(folder / "train.jsonl", [*labelled(6), {"text": "v  text 0\n", "label": "a"}])
    data = load_data(str(folder))
    assert data.splits["train"] == tuple(Row(f"text {index}", "ab"[index % 2]) for index in range(6))
    assert data.notes == ("dropped 1 train row whose input also stands in validation or test",)

    rows = [{"text": f"{'' if i % 2 else ' '}text {i // 2}", "label": "ab"[i // 2 % 2]} for i in range(200)]
    made = load_data(str(write(folder.parent / "one.jsonl", rows)))
    inputs = {split: {spaced(row.text) for row in made.splits[split]} for split in made.splits}
    assert {split: (len(made.splits[split]), len(inputs[split])) for split in inputs} == {
        "train": (160, 80),
        "validation": (20, 10),
        "test": (20, 10),
    }
    assert all(inputs[a].isdisjoint(inputs[b]) for a, b in combinations(inputs, 2))


def test_rows_that_repeat_or_contradict_others_are_told(folder: Path) -> None:
    write(folder / "validation.jsonl", labelled(4, prefix="v ") * 5)
    write(folder / "test.jsonl", [*labelled(40, prefix="t "), {"text": "t text 0", "label": "b"}])
    assert load_data(str(folder)).notes == (
        "validation: 16 of 20 rows repeat others: intervals take them for rows of their own, so they are too narrow",
    ), "one row in twenty may contradict another"
    write(folder / "validation.jsonl", [*labelled(4, prefix="v "), {"text": "v text 0 ", "label": "b"}])
    assert load_data(str(folder)).notes == (
        "validation: 2 of 5 rows have an input that stands there with another label too: no model gets all of them "
        "right",
    )
    write(folder / "validation.jsonl", [*labelled(4, prefix="v "), {"text": "v text 0", "label": "b"}] * 2)
    assert any(note.startswith("validation: 4 of 10 rows have an input") for note in load_data(str(folder)).notes)


def test_what_the_commonest_label_would_get_is_told_where_it_is_much(folder: Path) -> None:
    write(folder / "train.jsonl", labelled(10, "aab"))
    write(folder / "validation.jsonl", labelled(4, "aaab", prefix="v "))
    assert load_data(str(folder)).notes == (
        "70% of train has the label 'a': always saying it has accuracy 0.750 on validation and 0.500 on test",
    )
    write(folder / "train.jsonl", labelled(9, "aba"))
    assert len(load_data(str(folder)).notes) == 1
    write(folder / "train.jsonl", labelled(9, "ababaababa"))
    assert not load_data(str(folder)).notes


def test_labels_that_look_alike_are_told(folder: Path) -> None:
    labels = ["yes", "Yes", "no way", "no  way", "caf\u00e9", "cafe\u0301", "1", "2"]
    write(folder / "train.jsonl", [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)])
    write(folder / "validation.jsonl", [{"text": f"v {i}", "label": label} for i, label in enumerate(labels)])
    write(folder / "test.jsonl", [{"text": f"t {i}", "label": label} for i, label in enumerate(labels)])
    assert load_data(str(folder)).notes == (
        "labels that look alike are different classes: 'Yes' and 'yes', 'cafe\u0301' and 'caf\u00e9', "
        "'no  way' and 'no way'",
    )


def test_data_that_no_split_was_taken_from_is_named_where_one_had_to_be_made(folder: Path) -> None:
    (folder / "test.jsonl").rename(folder / "final.jsonl")
    for name in ("test.jsonl.gz", "README.md", ".final.jsonl", *(f"part{index}.csv" for index in range(9))):
        (folder / name).write_text("")
    assert load_data(str(folder)).notes[0] == (
        "not used, since only train, validation (valid, dev, val) and test are: "
        "final.jsonl, part0.csv, part1.csv, part2.csv, part3.csv, part4.csv, part5.csv, part6.csv and 3 more"
    )
    write(folder / "test.jsonl", labelled(4, prefix="t "))
    assert not load_data(str(folder)).notes


# Real data


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "labels", "sizes", "prompts"),
    [
        ("banking77", 77, (8993 - 1, 1000, 3080), None),
        ("trec6", 6, (4834, 537, 500), None),
        ("snips_intent", 7, (12823 - 3, 700, 700), None),
        ("cocohd_relevancy", 2, (700, 100, 200), None),
        ("snips_parse", 0, (12823 - 3, 700, 700), (695, 699)),
        ("e2e_clean", 0, (3910, 389, 4693), (148, 1847)),
        ("viggo", 0, (5103 - 93, 714, 1083), (238, 359)),
    ],
)
def test_real_tasks(
    shared: Path, name: str, labels: int, sizes: tuple[int, int, int], prompts: tuple[int, int] | None
) -> None:
    start = time.process_time()
    data = load_data(str(shared / "data" / name))
    assert time.process_time() - start < 1
    assert (data.name, len(data.labels)) == (name, labels)
    train, validation, test = (len(data.splits[split]) for split in ("train", "validation", "test"))
    if prompts is None:
        assert (data.task, train, validation, test) == ("classification", *sizes)
    else:
        assert (data.task, train, validation, test) == ("generation", sizes[0], *prompts)
        completions = {
            (row["prompt"], row["completion"])
            for row in map(json.loads, (shared / "data" / name / "test.jsonl").open(encoding="utf-8", newline="\n"))
        }
        assert {(row.text, reference) for row in data.splits["test"] for reference in row.references} == completions


def test_time_grows_no_faster_than_the_rows(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [{"text": f"text {rng.random()}", "label": str(rng.randrange(1000))} for _ in range(50_000)]
    path = write(tmp_path / "many.jsonl", rows)
    start = time.process_time()
    assert len(load_data(str(path)).splits["test"]) == 5000
    assert time.process_time() - start < 5


def test_text_of_several_lines_with_tabs_is_a_field_of_a_table(tmp_path: Path) -> None:
    code = ["def f():\n\treturn 1", "if a:\n\tb\n\tc", "a\tb\nc\td", "a\n\nb"]
    rows = [{"text": f"{text} # {i}", "label": "ab"[i % 2], "note": text} for i in range(4) for text in code]
    write(tmp_path / "train.tsv", rows)
    splits = load_data(str(tmp_path)).splits.values()
    assert sorted(row.text for rows in splits for row in rows) == sorted(str(row["text"]) for row in rows)

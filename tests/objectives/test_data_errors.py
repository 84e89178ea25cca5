"""Bad data: each case one sentence that names place, cause and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from objectives.data import Task, load_data
from objectives.errors import DataError

GOOD = b'{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n'
PAIRS = b'{"prompt": "one", "completion": "a"}\n'
LIST = b'[\n {"text": "one",\n  "label": "a"},\n '
OBJECT = 'Write each row as an object such as {"text": "...", "label": "..."}.'
QUOTES = "Put fields that hold the separator, a quote or a line break in double quotes."


#: File name, content, and what follows the path in the message.
CASES = [
    # Reading
    ("x.jsonl", b"", " is empty. Give a file with rows."),
    ("x.jsonl", b"\n \n", " has no rows. Give at least two."),
    ("x.json", b"[]", " has no rows. Give at least two."),
    ("x.csv", b"text,label\n", " has no rows. Give at least two."),
    (
        "x.jsonl",
        GOOD + b'\n{"text": "three", "label": "a"\n',
        ", line 4: broken JSON (Expecting ',' delimiter, column 31). Write one object a line.",
    ),
    (
        "x.json",
        LIST + b'{"text": 1 "label"}]',
        ", line 4: broken JSON (Expecting ',' delimiter, column 13). Write one object a line, or one list of objects.",
    ),
    ("x.jsonl", b"[" * 200_000, ", line 1: broken JSON (too deeply nested). Write one object a line."),
    ("x.jsonl", b"1" * 5000, ", line 1: broken JSON (a number is too long). Write one object a line."),
    ("x.jsonl", GOOD + b'["three", "a"]', f", line 3: the row is a list, not an object. {OBJECT}"),
    ("x.jsonl", GOOD + b"null", f", line 3: the row is null, not an object. {OBJECT}"),
    ("x.json", LIST + b'"three"]', f", line 4: the row is a string, not an object. {OBJECT}"),
    ("x.json", LIST + b"\n\n[3]]", f", line 6: the row is a list, not an object. {OBJECT}"),
    (
        "x.jsonl",
        GOOD + '{"text": "caf\xe9", "label": "a"}'.encode("latin-1"),
        ", line 3: not UTF-8 (byte 0xe9 at position 14). Save the file as UTF-8.",
    ),
    (
        "x.csv",
        b'text,label\n"one\ntwo",a\ncaf\xe9,b\n',
        ", line 4: not UTF-8 (byte 0xe9 at position 4). Save the file as UTF-8.",
    ),
    (
        "x.csv",
        "text,label\n".encode("utf-16"),
        ", line 1: not UTF-8 (byte 0xff at position 1). Save the file as UTF-8.",
    ),
    ("x.csv", b'text,label\n"one\ntwo",a\n\nthree\n', f", line 5: 1 fields where the header has 2. {QUOTES}"),
    ("x.tsv", b"text\tlabel\none\ta\tb\n", f", line 2: 3 fields where the header has 2. {QUOTES}"),
    (
        "x.csv",
        b'text,label\none,a\n"two,b\nthree,a\n',
        ", line 3: the row that starts here is broken (unexpected end of data). "
        "Close every quoted field, and double the quotes inside it.",
    ),
    (
        "x.tsv",
        b'text\tlabel\none\ta\n"two he said\tb\nthree\ta\nfour\tb\nand five"\ta\nsix\tb\n',
        ", line 3: the quoted field that starts here goes on to line 6, over what look like rows. "
        "Close every quoted field, and double the quotes inside it.",
    ),
    *(
        (
            "x.tsv",
            table,
            ", line 2: the quoted field that starts here goes on to line 3, over what look like rows. "
            "Close every quoted field, and double the quotes inside it.",
        )
        for table in (
            b'text\tlabel\n"I like it,\ta\nhe said."\tb\nsix\tb\n',
            b'label\ttext\na\t"I like it,\nb\the said."\nb\tsix\n',
            b'id\ttext\tlabel\n1\t"I like it,\ta\n2\the said."\tb\n3\tsix\tb\n',
        )
    ),
    (
        "x.csv",
        b"text,label\rone,a\rtwo,b\r",
        ", line 1: a carriage return stands alone outside of quotes. End lines with a line feed, as all programs but "
        "some for old Macs do, and put fields with line breaks in double quotes.",
    ),
    (
        "x.csv",
        b"text;label\none;a\n",
        ", line 1: the header has only one column, 'text;label'. "
        "Separate columns by commas in .csv and by tabs in .tsv.",
    ),
    ("x.csv", b"text,label,text\na,b,c\n", ", line 1: the column 'text' stands twice. Keep one."),
    # Fields
    (
        "x.jsonl",
        b'{"text": "one", "lable": "a"}\n',
        ", line 1: the fields are 'text', 'lable'. "
        "Expected are 'text' and 'label' (classification) or 'prompt' and 'completion' (generation). "
        "Rename those that hold them, or make one text of several.",
    ),
    (
        "x.jsonl",
        GOOD + b'\n{"text": "three"}',
        ", line 4: no 'label', which classification needs; the fields are 'text'. Add what is missing.",
    ),
    (
        "x.jsonl",
        GOOD + PAIRS,
        ", line 3: no 'text' and 'label', which classification needs; the fields are 'prompt', 'completion'. "
        "They fit --task generation.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": null, "label": "a"}',
        ", line 3: 'text' is null. Fill it in as text or remove the row.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": "three", "label": null}',
        ", line 3: 'label' is null. Fill it in as text or remove the row.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": 3, "label": "a"}',
        ", line 3: 'text' is 3, of type int, not text. Fill it in as text or remove the row.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": "", "label": "a"}',
        ", line 3: 'text' is empty. Fill it in or remove the row.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": "three", "label": " \\u00a0"}',
        ", line 3: 'label' is empty. Fill it in or remove the row.",
    ),
    (
        "x.jsonl",
        PAIRS + b'{"prompt": "\\t", "completion": "b"}',
        ", line 2: 'prompt' is empty. Fill it in or remove the row.",
    ),
    (
        "x.jsonl",
        PAIRS + b'{"prompt": "two", "completion": "\\n"}',
        ", line 2: 'completion' is empty. Fill it in or remove the row.",
    ),
    (
        "x.csv",
        b'text,label\n"one\ntwo",a\nthree,\n',
        ", line 4: 'label' is empty. Fill it in or remove the row.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": "three", "label": 0.5}',
        ", line 3: 'label' is 0.5, of type float. Use text, a whole number or a boolean.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": "three", "label": NaN}',
        ", line 3: 'label' is nan, of type float. Use text, a whole number or a boolean.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": "three", "label": ["a", "b"]}',
        ", line 3: 'label' is ['a', 'b'], of type list. Use text, a whole number or a boolean.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": "\\ud83d", "label": "a"}',
        ", line 3: 'text' holds '\\ud83d', half a character. Write the whole one.",
    ),
    (
        "x.jsonl",
        GOOD + b'{"text": "three", "label": "a\\u0000b"}',
        ", line 3: 'label' is 'a\\x00b', with a NUL character. Leave it out.",
    ),
    # Learning
    ("x.jsonl", GOOD[:30] * 9, ": every row has the label 'a'. Give two or more."),
    (
        "x.jsonl",
        GOOD,
        ": train is too small to set aside rows for validation and test "
        "(4 different inputs are needed, 0 can be spared, since each of 2 labels keeps one in train). "
        "Give more rows, or a file for each split.",
    ),
    (
        "x.jsonl",
        b"".join(PAIRS.replace(b"one", prompt) for prompt in (b"one", b"two", b"three")),
        ": train is too small to set aside rows for validation and test (4 different inputs are needed, 1 can be "
        "spared). Give more rows, or a file for each split.",
    ),
]


def message(source: Path | str, task: Task | None = None, **options: int) -> str:
    with pytest.raises(DataError) as error:
        load_data(str(source), task, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("file", "content", "complaint"), CASES, ids=[f"{case[0]}{case[2][:40]}" for case in CASES])
def test_one_bad_file(tmp_path: Path, file: str, content: bytes, complaint: str) -> None:
    (tmp_path / file).write_bytes(content)
    assert message(tmp_path / file) == f"{tmp_path / file}{complaint}"


def test_parquet_is_named_by_row(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "x.parquet"
    rows = [{"text": "one", "label": 1}, {"text": "two", "label": 2}, {"text": None, "label": 1}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert message(path) == f"{path}, row 3: 'text' is null. Fill it in as text or remove the row."

    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"], "picture": [b"..."]}), path)
    assert message(path, "classification") == (
        f"{path}, row 1: no 'label', which classification needs; the fields are 'text', 'picture'. Add what is missing."
    )
    pyarrow.parquet.write_table(pyarrow.table({"picture": [b"..."]}), path)
    assert message(path, "classification") == (
        f"{path}, row 1: no 'text' and 'label', which classification needs; "
        "the fields are 'picture'. Add what is missing."
    )
    columns = [pyarrow.array(["one"])] * 3
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["text", "label", "text"]), path)
    assert message(path) == f"{path}: the column 'text' stands twice. Keep one."
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"]}), path)
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[20:], b"PAR1" + b"\0" * 100):
        path.write_bytes(damaged)
        text = message(path)
        assert text.startswith(f"{path} is not a readable Parquet file: ")
        assert text.endswith(". Write it again.")


def folder_of(tmp_path: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (tmp_path / f"{name}.jsonl").write_bytes(content)
    return tmp_path


def test_a_label_outside_train(tmp_path: Path) -> None:
    other = b'\n{"text": "three", "label": "a"}\n\n{"text": "four", "label": "c"}\n{"text": "five", "label": "c"}\n'
    folder = folder_of(tmp_path, train=GOOD, validation=GOOD.replace(b"one", b"1"), test=other)
    assert message(folder) == (
        f"{folder}/test.jsonl, line 4: the label 'c' stands in test but not in train, which has 'a', 'b'. Write it as "
        "there, add train rows with it, or remove it from test."
    )


def test_a_label_in_the_form_of_another_format_is_refused_beside_those_of_train(tmp_path: Path) -> None:
    """As a table has numbers with a point where one of them was missing, and JSON has its own booleans."""
    for text, label, said in (("1.0", 1, "'1'"), ("true", True, "'True'")):
        (tmp_path / "train.csv").write_text(f"text,label\none,{text}\ntwo,z\n", "utf-8")
        (tmp_path / "test.jsonl").write_text(json.dumps({"text": "six", "label": label}) + "\n", "utf-8")
        assert message(tmp_path) == (
            f"{tmp_path}/test.jsonl, line 1: the label {said} stands in test but not in train, which has "
            f"{text!r}, 'z'. Write it as there, add train rows with it, or remove it from test."
        )


def test_leaks_that_leave_nothing_to_learn_from(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, train=GOOD * 3, validation=GOOD[30:] * 2)
    assert message(folder) == (
        f"{folder}/train.jsonl: every row with the label 'b' also stands in validation. "
        "Give train rows that do not stand in validation."
    )
    folder = folder_of(tmp_path, train=PAIRS * 3, validation=PAIRS * 2, test=PAIRS)
    assert message(folder) == (
        f"{folder}/train.jsonl: of 3 rows only 0 do not also stand in validation or test. "
        "Give train rows that do not stand in validation or test."
    )


def test_a_split_of_one_row_or_prompt_or_none(tmp_path: Path) -> None:
    line = b'{"text": "three", "label": "a"}'
    folder = folder_of(tmp_path, train=GOOD, validation=line, test=line)
    assert message(folder) == f"{folder}: the validation split has only one row. Give at least 2."
    other = PAIRS.replace(b"one", b"two")
    folder = folder_of(tmp_path, train=PAIRS * 2, validation=other + PAIRS.replace(b"one", b"three"), test=other * 5)
    assert message(folder) == f"{folder}: the test split has only one prompt. Give at least 2."
    folder = folder_of(tmp_path, train=GOOD, validation=b"\n")
    assert message(folder) == f"{folder}/validation.jsonl has no rows. Give at least two."


def test_a_task_that_does_not_fit(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, train=PAIRS)
    assert message(folder, "classification") == (
        f"{folder}/train.jsonl, line 1: no 'text' and 'label', which classification needs; "
        "the fields are 'prompt', 'completion'. They fit --task generation."
    )


@pytest.mark.parametrize("limit", [-1, 0, 1])
def test_too_small_a_bound(tmp_path: Path, limit: int) -> None:
    assert message(tmp_path, validation_rows=limit) == f"--validation-rows {limit} is too few. Use at least 2."
    assert message(tmp_path, test_rows=limit) == f"--test-rows {limit} is too few. Use at least 2."


def test_folders_that_are_no_task(tmp_path: Path) -> None:
    remedy = "Name one train with a suffix of .jsonl, .json, .csv, .tsv, .parquet, or pass one file itself."
    assert message(tmp_path) == f"{tmp_path} has no train file; it is empty. {remedy}"
    for index in range(9):
        (tmp_path / f"part{index}.txt").touch()
    (tmp_path / "a.jsonl").touch()
    names = "a.jsonl, part0.txt, part1.txt, part2.txt, part3.txt, part4.txt, part5.txt, part6.txt and 2 more"
    assert message(tmp_path) == f"{tmp_path} has no train file; it holds {names}. {remedy}"


@pytest.mark.parametrize(
    ("first", "second", "split"),
    [("train.csv", "train.jsonl", "train"), ("dev.jsonl", "valid.jsonl", "validation")],
)
def test_two_files_for_one_split(tmp_path: Path, first: str, second: str, split: str) -> None:
    (tmp_path / first).touch()
    (tmp_path / second).touch()
    assert message(tmp_path) == f"{tmp_path} has two files for {split}: {first} and {second}. Keep one."


def test_a_split_that_is_no_file(tmp_path: Path) -> None:
    """It was passed over, and another split made in its stead."""
    folder = folder_of(tmp_path, train=GOOD)
    (folder / "test.jsonl").symlink_to(tmp_path / "gone")
    assert message(folder) == (
        f"{folder}/test.jsonl is no file, or a link to one that is not there. Put the rows of test there."
    )


@pytest.mark.parametrize("source", ["./mine", "../mine", "~/no such folder", "/mine", "mine.jsonl", "a/b/c", "a b"])
def test_a_missing_path_never_goes_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    where = "" if source[0] in "/~" else f" in {tmp_path}"
    assert message(source) == f"{source} does not exist{where}. Check the path."


def test_sources_that_are_no_data(tmp_path: Path) -> None:
    assert message(" ") == "The data source is empty. Pass a folder, a file or a hub id."
    (tmp_path / "notes.txt").write_text("text")
    assert message(tmp_path / "notes.txt") == (
        f"{tmp_path}/notes.txt is of no known format. Use one of .jsonl, .json, .csv, .tsv, .parquet."
    )
    assert message("x" * 5000) == f"{'x' * 5000} cannot be read: File name too long."


def test_long_values_are_cut(tmp_path: Path) -> None:
    rows = [{"text": str(index), "label": "long " * 50} for index in range(9)]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert message(path) == f"{path}: every row has the label '{('long ' * 50)[:56]}.... Give two or more."

"""Raw rows of a data file, each with its number in the file so that every complaint can point at it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

from objectives.errors import DataError, first_line

Numbered = Iterator[tuple[int, Mapping[str, object]]]


@dataclass(frozen=True)
class RawRows:
    """``rows`` yields (number, fields) once; the number is a physical line of a text file or a row of a table, from 1.

    Reading is lazy: a DataError about row n is raised when row n is asked for.
    """

    name: str
    unit: Literal["line", "row"]
    rows: Numbered

    def at(self, number: int) -> str:
        return f"{self.name}, {self.unit} {number}"


def read_file(path: Path, columns: Collection[str]) -> RawRows:
    """The rows of a file whose suffix is in ``SUFFIXES``; ``columns`` as in :func:`needed`."""
    if path.suffix.lower() == ".parquet":
        return RawRows(str(path), "row", _guarded(path, partial(_parquet, columns=columns)))
    return RawRows(str(path), "line", _guarded(path, _TEXT_READERS[path.suffix.lower()]))


def _guarded(path: Path, reader: Callable[[Path], Numbered]) -> Numbered:
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty. Give a file with rows.")
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    # Bytes are split at \n only: str.splitlines would also split at U+2028, which JSON strings may hold.
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                raise DataError(
                    f"{path}, line {number}: not UTF-8 (byte 0x{byte:02x} at position {error.start + 1}). "
                    "Save the file as UTF-8."
                ) from error
            yield number, text


def _fields(path: Path, number: int, value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(value), "a number or boolean")
        raise DataError(
            f"{path}, line {number}: the row is {kind}, not an object. "
            'Write each row as an object such as {"text": "...", "label": "..."}.'
        )
    return value


def _broken_json(path: Path, number: int, error: ValueError | RecursionError) -> NoReturn:
    if isinstance(error, json.JSONDecodeError):
        cause = f"{error.msg}, column {error.colno}"
    else:
        cause = "too deeply nested" if isinstance(error, RecursionError) else "a number is too long"
    form = "one object a line" + (", or one list of objects" if path.suffix.lower() == ".json" else "")
    raise DataError(f"{path}, line {number}: broken JSON ({cause}). Write {form}.") from error


def _json_lines(path: Path) -> Numbered:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line.rstrip())
        except (ValueError, RecursionError) as error:
            _broken_json(path, number, error)
        yield number, _fields(path, number, value)


_BEFORE_ITEM = re.compile(r"\s*[\[,]\s*")


def _json(path: Path) -> Numbered:
    first = next((line for _, line in _lines(path) if line.strip()), "")
    if not first.lstrip().startswith("["):
        yield from _json_lines(path)
        return
    text = "".join(line for _, line in _lines(path))
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        _broken_json(path, error.lineno if isinstance(error, json.JSONDecodeError) else 1, error)
    # Parsed a second time, item by item, only to learn on which line each one starts.
    locate = json.JSONDecoder().raw_decode
    number, start, end = 1, 0, 0
    for value in values:
        before = _BEFORE_ITEM.match(text, end)
        assert before is not None
        number += text.count("\n", start, before.end())
        start = before.end()
        _, end = locate(text, start)
        yield number, _fields(path, number, value)


def _delimited(path: Path, delimiter: str) -> Numbered:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is shorter than the documents of summarisation sets
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "new-line character" in str(error):
                raise DataError(
                    f"{path}, line {number}: a carriage return stands alone outside of quotes. End lines with a line "
                    "feed, as all programs but some for old Macs do, and put fields with line breaks in double quotes."
                ) from error
            raise DataError(
                f"{path}, line {number}: the row that starts here is broken ({error}). "
                "Close every quoted field, and double the quotes inside it."
            ) from error
        if not values:
            continue
        if not header:
            header = [value.strip() for value in values]
            if len(header) == 1:
                raise DataError(
                    f"{path}, line {number}: the header has only one column, {header[0]!r}. "
                    "Separate columns by commas in .csv and by tabs in .tsv."
                )
            if twice := [name for name in header if name and header.count(name) > 1]:
                raise DataError(f"{path}, line {number}: the column {twice[0]!r} stands twice. Keep one.")
        elif len(values) != len(header):
            raise DataError(
                f"{path}, line {number}: {len(values)} fields where the header has {len(header)}. "
                "Put fields that hold the separator, a quote or a line break in double quotes."
            )
        elif delimiter == "\t" and any(_swallows(value, i, len(header)) for i, value in enumerate(values)):
            raise DataError(
                f"{path}, line {number}: the quoted field that starts here goes on to line {reader.line_num}, over "
                "what look like rows. Close every quoted field, and double the quotes inside it."
            )
        else:
            yield number, dict(zip(header, values, strict=True))


def _swallows(value: str, column: int, columns: int) -> bool:
    """Whether a field is the rest of a row, perhaps whole rows, and the beginning of one: as where tables that know no
    quoting have a text that begins with a quote, and a later one that ends with one. Indented code looks like that too,
    but its lines begin with the tab.
    """
    lines = [line.split("\t") for line in value.split("\n")]
    rows = [columns - column, *[columns] * (len(lines) - 2), column + 1]
    return [len(cells) for cells in lines] == rows and all(cells[0] for cells in lines[1:])


def _parquet(path: Path, columns: Collection[str]) -> Numbered:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            classes = _stored_classes(file.schema_arrow.metadata or {})
            names = file.schema_arrow.names
            if twice := [name for name in names if name in columns and names.count(name) > 1]:
                raise DataError(f"{path}: the column {twice[0]!r} stands twice. Keep one.")
            tables = file.iter_batches(columns=needed(names, columns))
            yield from table_rows(str(path), tables, names, classes)
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {first_line(error)}. Write it again.") from error


def _stored_classes(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    # `datasets` leaves its features in the files it writes, so a downloaded copy reads like the hub's own.
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"].items()
    except (ValueError, TypeError, KeyError, AttributeError):  # none, or another program's
        return {}
    said = {name: f for name, f in features if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    return {name: f["names"] for name, f in said.items() if isinstance(f.get("names"), list)}


def needed(names: list[str], columns: Collection[str]) -> list[str]:
    """What to read of a table: ``columns`` and not what else it holds, such as images; all if it has none of them."""
    return [name for name in names if name in columns] or names


def table_rows(name: str, tables: Iterable[Any], names: list[str], classes: Mapping[str, list[str]]) -> Numbered:
    """Rows of the Arrow tables of a file or hub dataset called ``name``.

    ``names`` are all its columns; one that was not read is null. ``classes`` are the class names of integer columns.
    """
    unread: dict[str, object] = dict.fromkeys(names)
    number = 0
    for table in tables:
        for row in table.to_pylist():
            number += 1
            for column in classes.keys() & row.keys():
                row[column] = _class_name(row[column], classes[column], f"{name}, row {number}", column)
            yield number, unread | row


def _class_name(value: object, names: list[str], at: str, column: str) -> object:
    if not isinstance(value, int):
        return value
    if not 0 <= value < len(names):
        raise DataError(
            f"{at}: {column} {value} is none of the {len(names)} classes of the dataset. "
            "Test labels are often hidden like this: save the other splits to a folder and pass that."
        )
    return names[value]


_TEXT_READERS: dict[str, Callable[[Path], Numbered]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": partial(_delimited, delimiter=","),
    ".tsv": partial(_delimited, delimiter="\t"),
}
SUFFIXES = (*_TEXT_READERS, ".parquet")

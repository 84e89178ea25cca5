"""One row of a task, and the checks that raw fields pass before they become one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from objectives.errors import DataError
from objectives.formats import RawRows

Task = Literal["classification", "generation"]

#: The field that holds the input, and the one that holds the target.
FIELDS: Mapping[Task, tuple[str, str]] = {
    "classification": ("text", "label"),
    "generation": ("prompt", "completion"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """``text`` is the input (classification ``text``, generation ``prompt``), ``target`` the label or completion.

    ``references``, in validation and test of generation only, are all different completions of that prompt in that
    split, the target first.
    """

    text: str
    target: str
    references: tuple[str, ...] = ()


def parse(raw: RawRows, task: Task | None) -> tuple[Task, list[Row], dict[str, int]]:
    """The task (inferred from the first row's fields if None), the rows, and each target's first row number.

    Raises DataError for a row that does not fit the task, and if there is no row.
    """
    rows: list[Row] = []
    first_at: dict[str, int] = {}
    for number, fields in raw.rows:
        task = task or _inferred(fields, raw.at(number))
        given, wanted = FIELDS[task]
        if given not in fields or wanted not in fields:
            raise _missing(fields, task, raw.at(number))
        target = fields[wanted]
        if task == "classification":
            target = _label(target, raw, number)
        row = Row(_text(fields[given], given, raw, number), _text(target, wanted, raw, number))
        rows.append(row)
        first_at.setdefault(row.target, number)
    if task is None or not rows:
        raise DataError(f"{raw.name} has no rows. Give at least two.")
    return task, rows, first_at


def shorten(value: object) -> str:
    """How a value of the data appears in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fitting(fields: Mapping[str, object]) -> list[Task]:
    return [task for task, names in FIELDS.items() if all(name in fields for name in names)]


def _listed(fields: Mapping[str, object]) -> str:
    return ", ".join(map(repr, fields)) or "none"


def _inferred(fields: Mapping[str, object], at: str) -> Task:
    fitting = _fitting(fields)
    if not fitting:
        expected = " or ".join(f"{given!r} and {wanted!r} ({task})" for task, (given, wanted) in FIELDS.items())
        there = f"{at}: the fields are {_listed(fields)}"
        raise DataError(f"{there}. Expected are {expected}. Rename those that hold them, or make one text of several.")
    if len(fitting) > 1:
        raise DataError(f"{at}: the fields fit both {' and '.join(fitting)}. Say which with --task.")
    return fitting[0]


def _missing(fields: Mapping[str, object], task: Task, at: str) -> DataError:
    missing = " and ".join(repr(name) for name in FIELDS[task] if name not in fields)
    fitting = _fitting(fields)
    remedy = f"They fit --task {fitting[0]}." if fitting else "Add what is missing."
    return DataError(f"{at}: no {missing}, which {task} needs; the fields are {_listed(fields)}. {remedy}")


def _label(value: object, raw: RawRows, number: int) -> object:
    """Whole numbers and booleans become text, 1.0 like 1; text loses the white space around it."""
    if isinstance(value, str):
        if "\0" in value:  # labels are kept with the search, and PostgreSQL's JSON holds none
            raise DataError(f"{raw.at(number)}: 'label' is {shorten(value)}, with a NUL character. Leave it out.")
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (bool, int)):
        return str(value)
    if value is None:
        return None
    raise DataError(
        f"{raw.at(number)}: 'label' is {shorten(value)}, of type {type(value).__name__}. "
        "Use text, a whole number or a boolean."
    )


def _text(value: object, field: str, raw: RawRows, number: int) -> str:
    if not isinstance(value, str):
        cause = "null" if value is None else f"{shorten(value)}, of type {type(value).__name__}, not text"
        raise DataError(f"{raw.at(number)}: {field!r} is {cause}. Fill it in as text or remove the row.")
    if not value.strip():
        raise DataError(f"{raw.at(number)}: {field!r} is empty. Fill it in or remove the row.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        raise DataError(f"{raw.at(number)}: {field!r} holds {half}, half a character. Write the whole one.") from error
    return value

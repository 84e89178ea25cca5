"""docs/json.md, held against documents of commands: both ways, so that the page has every field and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_PAGE = Path(__file__).parent.parent / "docs" / "json.md"


@cache
def _sections() -> dict[str, dict[str, str]]:
    """Heading -> field -> its types."""
    found: dict[str, dict[str, str]] = {}
    for line in _PAGE.read_text("utf-8").splitlines():
        if line.startswith("## "):
            fields = found[line.removeprefix("## ")] = {}
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            fields |= dict.fromkeys(re.findall(r"`([^`]+)`", cells[0]), cells[1])
    return found


def described(command: str) -> dict[str, str]:
    """Field -> types, of the first section that has the command in its heading."""
    return next(fields for heading, fields in _sections().items() if f"`{command}`" in heading)


def undescribed(command: str, document: Any) -> list[str]:
    """``field: value`` of every field that the page lacks, or has with another type."""
    fields = described(command)
    return [
        f"{path}: {value!r}"
        for path, value in _walk(document)
        if not any(_stands_for(field, path) and _is(types, value) for field, types in fields.items())
        and not _only_holds_others(value)
    ]


def unseen(command: str, *documents: Any) -> list[str]:
    """Fields of the page that no document has."""
    paths = {path for document in documents for path, _ in _walk(document)}
    return [field for field in described(command) if not any(_stands_for(field, path) for path in paths)]


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from _walk(item, f"{path}[]")


def _only_holds_others(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _stands_for(field: str, path: str) -> bool:
    pattern = re.escape(field).replace(r"\.\*\*", r"(\..+)?").replace(r"\*", r"[^\[\]]+?")
    return re.fullmatch(pattern, path) is not None


def _is(types: str, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    holds = {
        "any": True,
        "null": value is None,
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": number and isinstance(value, int),
        "number": number,
        "object": isinstance(value, dict),
        "list": isinstance(value, list),
        "strings": isinstance(value, list) and all(isinstance(item, str) for item in value),
        "interval": isinstance(value, list) and len(value) == 2 and all(isinstance(end, int | float) for end in value),
    }
    return any(holds[name] for name in types.split(" or "))

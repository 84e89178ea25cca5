"""Settings of a search in a YAML file, and the schema with which editors check and complete them."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from objectives.errors import RequestError, first_line
from objectives.placement import ALPHA
from search.outside import ADAPTERS, NAME
from search.spec import ABOVE_ZERO, AT_LEAST, CHOICES, FROM_ZERO, LARGEST_SEED, MOST, NOT_EMPTY, SEEDS, SearchSpec

_WHOLE, _NUMBER, _YES_NO, _TEXT = (
    "a whole number",
    "a number",
    "true or false",
    "text (in quotes where YAML reads something else)",
)
#: Of what a file may hold otherwise than a field does.
_OWN = {
    "data": f"{_TEXT}, or a list of texts",
    "ranks": "one rank, or a list of ranks",
    "alpha": "a whole number, or for example 2r",
    "groups": "names, or a list of names",
}
_BY_TYPE = {"int": _WHOLE, "float": _NUMBER, "bool": _YES_NO, "str": _TEXT}
_KINDS = {
    each.name: _OWN.get(each.name) or _BY_TYPE[str(each.type).removesuffix(" | None")] for each in fields(SearchSpec)
}
_TYPES: dict[str, tuple[type, ...]] = {
    _WHOLE: (int,),
    _NUMBER: (int, float),
    _YES_NO: (bool,),
    _TEXT: (str,),
    _OWN["data"]: (str, list),
    _OWN["ranks"]: (int, str, list),
    _OWN["alpha"]: (int, str),
    _OWN["groups"]: (str, list),
}


def read_config(file: Path) -> dict[str, Any]:
    """The settings of a YAML file, without those that it leaves empty; keys are the flags' names, with ``-`` or ``_``.

    ``data`` may be a list, of one or more texts. Raises RequestError.
    """
    known = {field.name for field in fields(SearchSpec)}
    settings = {}
    for key, (value, plain) in _entries(file).items():
        name = key.replace("-", "_")
        if name not in known:
            raise RequestError(f"--config {file}: unknown setting {key!r}; known are {', '.join(sorted(known))}")
        kind = _KINDS[name]
        if kind == _NUMBER and isinstance(value, str):
            # YAML 1.1 reads 1e-3 as text, for want of a dot.
            with contextlib.suppress(ValueError):
                value = float(value)
        if value is not None and not _is(kind, value):
            shown = repr(value) if plain is None or isinstance(value, str) else plain
            raise RequestError(f"--config {file}: {name} is {shown}: give {kind}")
        settings[name] = value
    return {name: value for name, value in settings.items() if value is not None}


def _entries(file: Path) -> dict[str, tuple[Any, str | None]]:
    """By its key what YAML reads, and how it stands in the file where that is one word or number without quotes.

    Raises RequestError, also for a key that stands there twice: YAML would take the last.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if isinstance(root, yaml.MappingNode):
            names = Counter(str(key.value).replace("-", "_") for key, _ in root.value)
            content = loader.construct_document(root)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: of its encoding, or a date that there is not
        reason = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
            reason = f"line {error.problem_mark.line + 1}: {error.problem}"
        raise RequestError(f"--config {file} cannot be read ({reason}): give a YAML file of settings") from error
    if not isinstance(root, yaml.MappingNode):
        raise RequestError(f"--config {file} must hold settings, one 'name: value' a line")
    if twice := [name for name, count in names.items() if count > 1]:
        raise RequestError(f"--config {file}: {twice[0]} is given twice: give it once")
    # By now the root has what << names among its own.
    words = {key.value: [each for each in _scalars(node) if each.style is None] for key, node in root.value}
    for key, found in words.items():
        for word in found:
            # To YAML 1.1 numbers with colons are to the base of 60, and those with a zero in front to that of 8.
            if word.tag.endswith((":int", ":float")) and re.search(r":|^[-+]?0[0-9_]", word.value):
                raise RequestError(
                    f"--config {file}: {key.replace('-', '_')} is {word.value}, which YAML reads as "
                    f"{yaml.safe_load(word.value)}: write a decimal number, without colons or leading zeros"
                )
    plain = {key.value: node.value for key, node in root.value if node.id == "scalar" and node.style is None}
    return {str(key): (value, plain.get(str(key))) for key, value in content.items()}


def _scalars(node: Any) -> list[Any]:
    """The value itself, or those of a list."""
    return [node] if node.id == "scalar" else [each for each in node.value if getattr(each, "id", None) == "scalar"]


def _is(kind: str, value: Any) -> bool:
    if kind == _KINDS["data"] and isinstance(value, list):
        return bool(value) and all(isinstance(each, str) for each in value)
    wanted = _TYPES[kind]
    return isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))


def schema(descriptions: Mapping[str, str]) -> dict[str, Any]:
    """JSON Schema of such a file, from the checks of :class:`SearchSpec`; ``descriptions`` by the field's name."""
    settings = {}
    for field in fields(SearchSpec):
        about = {"description": descriptions[field.name]}
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        settings[field.name] = about | ({} if default is None else {"default": default}) | _values(field.name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of a target-module search",
        "type": "object",
        "additionalProperties": False,
        "properties": {name.replace("_", "-"): setting for name, setting in settings.items()},
        # The same with underscores is taken too, but not proposed.
        "patternProperties": {
            f"^{name}$": {"$ref": f"#/properties/{name.replace('_', '-')}"} for name in settings if "_" in name
        },
        "$defs": {"rank": {"type": "integer", "minimum": 1}},
        **_SERVER,
    }


#: --engine openai needs an endpoint, and is alone in taking one.
_SERVER = {
    "if": {"properties": {"engine": {"const": "openai"}}, "required": ["engine"]},
    "then": {"required": ["endpoint"], "properties": {"endpoint": {"type": "string"}}},
    "else": {"properties": {"endpoint": {"type": "null"}}},
}


def _values(name: str) -> dict[str, Any]:
    """What the setting may be; null, as in `model:` with nothing behind it, leaves it out."""
    if name in CHOICES:
        return {"enum": [*CHOICES[name], None]}
    kind = _KINDS[name]
    if kind == _KINDS["ranks"]:
        rank = {"$ref": "#/$defs/rank"}
        text = {"type": "string", "pattern": r"^\s*0*[1-9][0-9]*\s*(,\s*0*[1-9][0-9]*\s*)*$"}
        return {"anyOf": [rank, text, {"type": "array", "items": rank, "minItems": 1}, {"type": "null"}]}
    if kind == _KINDS["data"]:
        source = {"type": "string", "pattern": r"\S"}
        several = {"type": "array", "items": source, "minItems": 1, "uniqueItems": True}
        return {"anyOf": [source, several, {"type": "null"}]}
    if kind == _KINDS["groups"]:
        names = {"type": "string", "pattern": r"^[^+,]*[^\s+,][^+,]*([+,][^+,]*[^\s+,][^+,]*)*$"}
        return {"anyOf": [names, {"type": "array", "items": names, "minItems": 1}, {"type": "null"}]}
    if kind == _KINDS["alpha"]:
        text = {"type": "string", "pattern": f"^({ALPHA})$"}
        return {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 999_999}, text, {"type": "null"}]}
    values: dict[str, Any] = {"type": [_JSON[kind], "null"]}
    if name in AT_LEAST:
        values |= {"minimum": AT_LEAST[name], "maximum": MOST}
    if name in ABOVE_ZERO:
        values["exclusiveMinimum"] = 0
    if name == "max_tpot_ratio":
        values["minimum"] = 1
    if name in FROM_ZERO:
        values["minimum"] = 0
    if name == "gpus_per_trial":
        values["anyOf"] = [{"multipleOf": 1}, {"minimum": 1e-4, "maximum": 1}]
    if name in SEEDS:
        values["maximum"] = LARGEST_SEED
    if name in NOT_EMPTY:
        values["pattern"] = r"\S"
    if name == "adapters":
        values["pattern"] = f"^({ADAPTERS})$"
    if name in ("name", "series"):
        values["pattern"] = f"^{NAME}$"
    return values


_JSON = {_WHOLE: "integer", _NUMBER: "number", _YES_NO: "boolean", _TEXT: "string"}

"""What a user asks for: one dataclass, checked in one place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Number
from typing import Any

from objectives.errors import RequestError
from objectives.placement import Alpha
from search import outside
from search.names import ENGINES, METRIC_CHOICES, STOPS, STRATEGIES, TASKS

#: NumPy, which draws for the strategies, takes 32 bits.
LARGEST_SEED = 2**32 - 1
#: Of what is counted: trials, steps, rows, tokens, ranks.
MOST = 1_000_000
#: What ``resume`` may change.
CHANGEABLE = ("budget", "workers", "max_hours", "ray_address")
SEEDS = ("seed", "training_seed")
#: The least of each whole number.
AT_LEAST = {"budget": 1, "bands": 1, "batch_size": 1, "accumulate": 1, "max_tokens": 8, "seed": 0, "retries": 0}
AT_LEAST |= {"keep": 1, "steps": 1, "workers": 1, "pack": 1, "validation_rows": 2, "test_rows": 2, "training_seed": 0}
ABOVE_ZERO = ("max_hours", "max_tpot_ratio", "max_adapter_mb", "learning_rate", "checkpoint_seconds")
#: What else to give, where a number from zero is wanted.
FROM_ZERO = {
    "gpus_per_trial": "give 0 for CPU, or for example 0.5",
    "label_weight": "give 0 to train on the labels' likelihood alone, or for example 4",
}
#: An unset variable in a script must not search the demonstration instead.
NOT_EMPTY = ("model", "data", "endpoint", "ray_address", "adapters", "baseline")
#: What a field of this type may be, and how that is said.
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "tuple[int, ...]": ((tuple,), "whole numbers"),
    "tuple[str, ...]": ((tuple,), "names"),
}
CHOICES = {"task": TASKS, "strategy": STRATEGIES, "stop_when": STOPS, "engine": ENGINES, "metric": METRIC_CHOICES}


@dataclass(frozen=True)
class SearchSpec:
    """The flags of ``run``; the defaults are those of the command line.

    ``None`` means: found out when the search starts (see the help of each flag).
    """

    model: str | None = None
    data: str | None = None
    task: str | None = None
    metric: str | None = None
    name: str | None = None
    budget: int = 40
    max_hours: float | None = None
    steps: int | None = None
    ranks: tuple[int, ...] = (4, 8, 16)
    alpha: str = "2r"
    bands: int = 1
    groups: tuple[str, ...] | None = None
    baseline: str | None = None
    strategy: str = "auto"
    stop_when: str = "budget"
    retries: int = 2
    checkpoint_seconds: float = 30.0
    engine: str = "transformers"
    endpoint: str | None = None
    max_tpot_ratio: float | None = None
    max_adapter_mb: float | None = None
    workers: int | None = None
    gpus_per_trial: float | None = None
    pack: int | None = None
    ray_address: str | None = None
    adapters: str | None = None
    seed: int = 0
    training_seed: int | None = None
    series: str | None = None
    keep: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float | None = None
    label_weight: float = 4.0
    gradient_checkpointing: bool = False
    max_tokens: int = 512
    template: str | None = None
    validation_rows: int | None = None
    test_rows: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        """Raises RequestError for the first value that makes no sense."""
        # As programs may have them.
        object.__setattr__(self, "ranks", parse_ranks(self.ranks))
        if self.groups is not None:
            object.__setattr__(self, "groups", parse_names("--groups", self.groups))
        object.__setattr__(self, "alpha", str(self.alpha))
        for name in ("model", "data", "adapters"):
            if isinstance(path := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(path))
        for name in (field.name for field in fields(self)):
            if isinstance(number := getattr(self, name), Number) and hasattr(number, "item"):  # NumPy's
                object.__setattr__(self, name, number.item())
        self._check_types()
        for field in NOT_EMPTY:
            if getattr(self, field) is not None and not getattr(self, field).strip():
                raise RequestError(f"{_flag(field)} is empty: give a value, or leave the option out")
        for field, least in AT_LEAST.items():
            value = getattr(self, field)
            if value is not None and value < least:
                raise RequestError(f"{_flag(field)} {value} is too small: give {least} or more")
            if value is not None and value > MOST and field not in SEEDS:
                raise RequestError(f"{_flag(field)} {value} is too large: give {MOST} or less")
        for field in SEEDS:
            value = getattr(self, field)
            if value is not None and value > LARGEST_SEED:
                raise RequestError(f"{_flag(field)} {value} is too large: give {LARGEST_SEED} or less")
        for field in ABOVE_ZERO:
            value = getattr(self, field)
            if value is not None and not 0 < value < float("inf"):
                raise RequestError(f"{_flag(field)} {value} must be a number above 0")
        if self.max_tpot_ratio is not None and self.max_tpot_ratio < 1:
            raise RequestError(
                f"--max-tpot-ratio {self.max_tpot_ratio:g} is below 1, which is the base model without an adapter: "
                "no placement can be faster; give for example 1.3"
            )
        for field, remedy in FROM_ZERO.items():
            value = getattr(self, field)
            if value is not None and not 0 <= value < float("inf"):
                raise RequestError(f"{_flag(field)} {value:g} must be a number from 0: {remedy}")
        # Ray's rules: it deals out ten thousandths of one GPU, or whole ones.
        if (gpus := self.gpus_per_trial) and (0 < gpus < 1e-4 or (gpus > 1 and gpus % 1)):
            raise RequestError(
                f"--gpus-per-trial {gpus:g} is neither a share of one GPU nor a number of whole ones: give for example "
                "0.5, 1 or 2"
            )
        if not self.ranks or any(rank < 1 for rank in self.ranks):
            raise RequestError(
                f"--ranks {','.join(map(str, self.ranks))} must be whole numbers from 1, for example 4,8,16"
            )
        try:
            Alpha.parse(self.alpha)
        except ValueError:
            raise RequestError(
                f"--alpha {self.alpha} is no LoRA alpha: give a whole number from 1, the same for every rank, or for "
                "example 2r, twice the rank"
            ) from None
        for field, known in CHOICES.items():
            value = getattr(self, field)
            if value is not None and value not in known:
                one = f"one of {', '.join(known)}" if len(known) > 2 else " or ".join(known)
                raise RequestError(f"{_flag(field)} {value} is unknown: choose {one}")
        if self.engine == "openai" and self.endpoint is None:
            raise RequestError("--engine openai needs the address of a server: give --endpoint http://127.0.0.1:8000")
        if self.engine != "openai" and self.endpoint is not None:
            raise RequestError(f"--endpoint {self.endpoint} is for --engine openai alone: add that, or leave it out")
        if self.adapters is not None:
            outside.adapters(self.adapters)
        if self.name is not None:
            outside.name(self.name)
        if self.series is not None:
            outside.name(self.series, "--series")
        for field in (each.name for each in fields(self)):
            value = getattr(self, field)
            for text in value if isinstance(value, tuple) else (value,):
                if isinstance(text, str):
                    outside.text(text, _flag(field))

    def _check_types(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type).removesuffix(" | None")
            if value is None and kind != field.type:
                continue
            types, words = _TYPES[kind]
            if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
                raise RequestError(f"{_flag(field.name)} is {value!r}: give {words}")

    @property
    def middle_rank(self) -> int:
        """That of placements which are asked for without one."""
        return self.ranks[len(self.ranks) // 2]

    def to_json(self) -> dict[str, Any]:
        # As they come back from a database.
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SearchSpec:
        """Raises RequestError for a key that is no field."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise RequestError(f"unknown setting {unknown[0]!r}: known are {', '.join(sorted(known))}")
        return cls(**values)


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def parse_ranks(value: Any) -> tuple[int, ...]:
    """``4,8,16`` or a list or one number, to sorted unique ranks. Raises RequestError."""
    return parse_numbers("--ranks", value)


def parse_numbers(flag: str, value: Any) -> tuple[int, ...]:
    """As :func:`parse_ranks`, for any flag."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        return tuple(sorted({int(str(part).strip()) for part in parts}))
    except ValueError:
        raise RequestError(f"{flag} {value} must be whole numbers separated by commas, for example 4,8,16") from None


def parse_names(flag: str, value: Any) -> tuple[str, ...]:
    """``q_proj,v_proj``, with commas or plus signs, or a list of such texts, to their parts. Raises RequestError."""
    parts = value if isinstance(value, list | tuple) else [value]
    names = [name.strip() for part in parts if isinstance(part, str) for name in re.split("[+,]", part)]
    if not all(names) or not names or not all(isinstance(part, str) for part in parts):
        shown = ",".join(map(str, parts))
        raise RequestError(f"{flag} {shown} must be names separated by commas, for example q_proj,v_proj")
    return tuple(names)


def parse_placement(flag: str, text: str) -> tuple[tuple[str, ...], int | None]:
    """``q_proj+v_proj r8``, as :func:`parse_names` takes it, to names and rank, if it has one. Raises RequestError."""
    names, _, rank = text.strip().rpartition(" ")
    if re.fullmatch("r[0-9]{1,6}", rank):
        return parse_names(flag, names), int(rank[1:])
    return parse_names(flag, text), None


def with_absolute_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """Model, data and adapters, where they are local, by full paths: a search may be resumed, and verified, from
    elsewhere."""
    full = dict(settings)
    for name in ("model", "data"):
        # os.path, unlike pathlib, takes whatever a user may write: an unknown ~user, a name too long.
        path = os.path.expanduser(full.get(name) or "")  # noqa: PTH111
        if os.path.exists(path):  # noqa: PTH110
            full[name] = os.path.abspath(path)  # noqa: PTH100
    if (adapters := full.get("adapters") or "").strip() and "://" not in adapters:
        full["adapters"] = os.path.abspath(os.path.expanduser(adapters))  # noqa: PTH100, PTH111
    return full

"""The placements that people copy from papers and tutorials, mapped by role to the groups of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objectives.modules import ModuleSpace


@dataclass(frozen=True)
class Reference:
    name: str
    groups: tuple[str, ...]


def references(space: ModuleSpace, among: Sequence[str] | None = None) -> list[Reference]:
    """At most six, from few groups to all; those that this model lacks, or cannot tell apart, are dropped.

    Where query and value are fused with key, the fused projection stands for them. Of a role in bands, all bands count.
    Of a search ``among`` some groups alone, those that need others are dropped, and all of these are the last one.
    """
    by_role: dict[str, list[str]] = {}
    for group in space.groups:
        by_role.setdefault(group.role, []).append(group.name)

    def groups(*roles: str) -> list[str]:
        return [name for role in roles for name in by_role.get(role, [])]

    output, down, query_value = groups("attention_output"), groups("down"), groups("query", "value", "qkv")
    candidates = [
        (f"{_joined(output)} only", output),
        (f"{_joined(output)} + {_joined(down)}", output + down if output and down else []),
        (
            f"{_joined(query_value)} only" if "qkv" in by_role else "q + v",
            query_value if "qkv" in by_role or {"query", "value"} <= by_role.keys() else [],
        ),
        ("attention only", groups("query", "key", "value", "qkv", "attention_output")),
        ("MLP only", groups("gate", "up", "gate_up", "down")),
        ("all linear", [group.name for group in space.groups]),
    ]
    if among is not None:
        candidates = [(name, targets) for name, targets in candidates if set(targets) <= set(among)]
        candidates.append(("all of --groups", list(among)))
    found: dict[frozenset[str], Reference] = {}
    for name, targets in candidates:
        if targets:
            found.setdefault(frozenset(targets), Reference(name, tuple(sorted(targets))))
    return list(found.values())


def _joined(names: list[str]) -> str:
    """The bands of one group are named once."""
    return " + ".join(dict.fromkeys(name.partition("@")[0] for name in names))

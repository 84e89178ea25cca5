"""Latency classes: placements that an engine cannot serve at different speeds.

Servers with fused projections wrap the fused layer whichever part of it an adapter targets, so q_proj alone costs what
q_proj + k_proj + v_proj costs, and gate_proj alone what gate_proj + up_proj costs. Other projections, such as the two
of a query of low rank (DeepSeek's q_a_proj and q_b_proj), are layers of their own, also where a newer server fuses some
of them: a class too many costs a measurement, one too few a wrong figure. vLLM's kernels compute at a rank that is
fixed when the server starts (``--max-lora-rank``), SGLang's at that of the adapter. In one process, with PEFT, all
placements differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from objectives.errors import RequestError
from objectives.modules import ModuleSpace
from objectives.placement import Placement

#: What vLLM's ``--max-lora-rank`` takes (``vllm/config/lora.py``, ``MaxLoRARanks``).
SERVER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
#: vLLM's ``QKVParallelLinear`` and ``MergedColumnParallelLinear``, which SGLang has too, and what they are made of.
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_CLASSES = {part: whole.removesuffix("_proj") for whole, parts in FUSED.items() for part in parts}


class Kernels(Protocol):
    """What of an engine makes placements alike."""

    fused: bool  # whether projections are fused
    fixed_rank: bool  # whether it computes at one rank, whatever an adapter has


@dataclass(frozen=True)
class LatencyClass:
    """``parts`` are what the engine wraps; ``name`` is equal for placements of equal latency, and only for them."""

    parts: tuple[str, ...]
    rank: int

    @property
    def name(self) -> str:
        return Placement(self.parts, self.rank).name


def server_rank(rank: int) -> int:
    """The smallest ``--max-lora-rank`` that serves ``rank``. Raises RequestError above the largest."""
    for allowed in SERVER_RANKS:
        if rank <= allowed:
            return allowed
    raise RequestError(f"rank {rank} is above {SERVER_RANKS[-1]}, the largest that vLLM serves: choose a lower rank")


def class_of(space: ModuleSpace, placement: Placement, kernels: Kernels) -> LatencyClass:
    """The class of a placement on an engine of these kernels.

    Raises ModelError for an unknown group, RequestError for a rank above all that an engine of fixed rank has.
    """
    if placement.is_base:
        return LatencyClass((), 0)
    groups = [space.group(name).name for name in placement.groups]
    parts = {_fused_name(name) for name in groups} if kernels.fused else groups
    return LatencyClass(tuple(sorted(parts)), server_rank(placement.rank) if kernels.fixed_rank else placement.rank)


def whole_layers(space: ModuleSpace, placement: Placement) -> Placement:
    """The placement with all parts of each fused layer that it has one of: the largest of its class.

    SGLang 0.5 refuses q_proj without v_proj, and dies of the first request to an adapter of k_proj, v_proj or up_proj
    alone (``lora/lora.py``, ``normalize_qkv_proj``, ``normalize_gate_up_proj``).
    """
    parts = {_fused_name(name) for name in placement.groups}
    return Placement.of([group.name for group in space.groups if _fused_name(group.name) in parts], placement.rank)


def _fused_name(name: str) -> str:
    # Bands of layers stay apart: a layer that is not wrapped costs nothing. So do two places of one block.
    whole, at, band = name.partition("@")
    place, dot, leaf = whole.rpartition(".")
    return f"{place}{dot}{_CLASSES.get(leaf, leaf)}{at}{band}"

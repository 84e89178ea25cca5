"""The module space of one model: which groups of layers an adapter can target, and what each of them costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from objectives.errors import ModelError, RequestError
from objectives.references import references

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

    from objectives.model import Kind
    from objectives.placement import Placement

Role = Literal[
    "query", "key", "value", "qkv", "attention_output", "gate", "up", "gate_up", "down", "other"
]  # fmt: skip


@dataclass(frozen=True)
class ModuleGroup:
    """All layers of the repeated blocks that share a name, or one band of them.

    ``paths`` are full module names (kind "linear") or full parameter names (kind "parameter"). ``targets`` is the
    shortest list that PEFT takes and that matches exactly these paths in the whole model, ``whole`` that of all bands
    of the name.
    """

    name: str
    role: Role
    paths: tuple[str, ...]
    kind: Literal["linear", "parameter"]
    layers: int  # blocks that hold the group
    parameters_per_rank: int  # adapter parameters at rank 1, all layers together
    products: int  # multiply-adds per token and pass of the base layers; of fused experts those that it visits
    targets: tuple[str, ...]
    whole: tuple[str, ...]

    @property
    def stem(self) -> str:
        """The name without its band."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class LeftOut:
    name: str
    why: str


@dataclass(frozen=True)
class ModuleSpace:
    model_type: str
    kind: Kind
    hidden_size: int
    layers: int
    groups: tuple[ModuleGroup, ...]
    left_out: tuple[LeftOut, ...]
    full_rank: int  # of the layer that has the largest: no adapter can use more
    structure: str  # 16 hexadecimal digits over paths and shapes: equal on every machine for equal structures
    body: str  # 16 more, of an encoder without its head, which has the size of a task's labels
    computation: str  # 16 more over the configuration: see objectives.fingerprint.computation_digest

    def group(self, name: str) -> ModuleGroup:
        """Raises ModelError for an unknown name."""
        for group in self.groups:
            if group.name == name:
                return group
        known = ", ".join(group.name for group in self.groups)
        raise ModelError(f"{name!r} is no module group of this {self.model_type} model: choose from {known}.")

    def named(self, names: Sequence[str], flag: str) -> tuple[str, ...]:
        """Names of groups as people write them, in the order of the model: ``q_proj`` is all bands of that group, and a
        band alone is one of the group before it, as where ``k_proj@first,last`` was split.

        Raises RequestError, which names ``flag``, for what is neither.
        """
        found: set[str] = set()
        stem = ""
        for name in names:
            bands = [group.name for group in self.groups if name in (group.name, group.stem)]
            if not bands and f"{stem}@{name}" in (group.name for group in self.groups):
                bands = [f"{stem}@{name}"]
            if not bands:
                known = ", ".join(group.name for group in self.groups)
                raise RequestError(
                    f"{flag}: {name!r} is no module group of this {self.model_type} model: choose from {known}"
                )
            stem = bands[0].partition("@")[0]
            found.update(bands)
        return tuple(group.name for group in self.groups if group.name in found)

    def target_modules(self, placement: Placement) -> list[str]:
        """``LoraConfig(target_modules=...)`` that attaches to the placement's linear layers and nowhere else."""
        return self._targets(placement, "linear")

    def target_parameters(self, placement: Placement) -> list[str]:
        """``LoraConfig(target_parameters=...)`` for the placement's parameters."""
        return self._targets(placement, "parameter")

    def _targets(self, placement: Placement, kind: str) -> list[str]:
        groups = [group for name in placement.groups if (group := self.group(name)).kind == kind]
        # With all its bands a group is what it is without them, and servers that know no paths of layers take its name.
        bands, taken = (Counter(group.stem for group in some) for some in (self.groups, groups))
        whole = {stem for stem, count in taken.items() if count == bands[stem]}
        return sorted({target for g in groups for target in (g.whole if g.stem in whole else g.targets)})

    def parameters(self, placement: Placement) -> int:
        """Of the LoRA layers: rank x (inputs + outputs), summed over layers and experts; no encoder's head."""
        return placement.rank * sum(self.group(name).parameters_per_rank for name in placement.groups)

    def adapter_bytes(self, placement: Placement, bytes_per_parameter: int = 4) -> int:
        """Of these parameters."""
        return bytes_per_parameter * self.parameters(placement)

    def check_ranks(self, ranks: Iterable[int], flag: str = "--ranks") -> None:
        """Raises RequestError, which names ``flag``, for one that only costs memory, perhaps more than there is."""
        if self.groups and (largest := max(ranks)) > self.full_rank:
            raise RequestError(
                f"{flag} {largest} is too large: no layer of this {self.model_type} model has a rank above "
                f"{self.full_rank}; give {self.full_rank} or less"
            )

    def to_json(self, model: str) -> dict[str, Any]:
        """The document of ``modules --json``."""
        products = sum(group.products for group in self.groups)
        return {
            "model": model,
            "type": self.model_type,
            "kind": self.kind,
            "hidden_size": self.hidden_size,
            "layers": self.layers,
            "structure": self.structure,
            "groups": [
                {
                    "name": group.name,
                    "role": group.role,
                    "kind": group.kind,
                    "layers": group.layers,
                    "parameters_per_rank": group.parameters_per_rank,
                    "products": group.products,
                    "share": round(group.products / products, 4),
                }
                for group in self.groups
            ],
            "left_out": [{"name": item.name, "why": item.why} for item in self.left_out],
            "references": [{"name": item.name, "targets": list(item.groups)} for item in references(self)],
        }


def module_space(model: nn.Module, config: PreTrainedConfig, kind: Kind, bands: int = 1) -> ModuleSpace:
    """What can be targeted in ``model``, which may live on the meta device.

    ``bands`` splits each group into that many runs of layers. A model without repeated blocks has no groups, and
    ``left_out`` says so. Raises ModelError if ``bands`` is below 1, or above the number of layers.
    """
    from objectives.module_scan import scan

    return scan(model, config, kind, bands)

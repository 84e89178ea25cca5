"""The names of module groups: the shortest that mean one place in every block, and the bands of layers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from objectives.module_layers import Layer
from objectives.placement import BAND_TITLES


def name_groups(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    """Layers by group name, in the order of the model.

    A name is a suffix of the path inside the block: one component where no block holds two such places, more where
    one does (``attn.c_proj`` and ``mlp.c_proj`` of GPT-2). An expert stack is told apart from the linear layers
    beside it by the module that holds it (``experts.down_proj``).
    """
    layers = list(layers)
    linear = _places(layer for layer in layers if not layer.is_stack)
    stacks = _places(layer for layer in layers if layer.is_stack)
    names: dict[tuple[str, bool], str] = {}
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        key = layer.inside, layer.is_stack
        if key not in names:
            names[key] = _stack_name(layer, stacks, linear) if layer.is_stack else _shortest(layer.inside, 1, linear)
        groups.setdefault(names[key], []).append(layer)
    return groups


def _places(layers: Iterable[Layer]) -> set[frozenset[str]]:
    """The paths inside each block; most blocks of a model hold the same."""
    by_block: dict[str, set[str]] = defaultdict(set)
    for layer in layers:
        by_block[layer.block].add(layer.inside)
    return {frozenset(inside) for inside in by_block.values()}


def _shortest(inside: str, fewest: int, blocks: set[frozenset[str]]) -> str:
    """The shortest suffix of ``inside``, of ``fewest`` components or more, that no block holds twice."""
    parts = inside.split(".")
    if parts[-1].isdigit():  # the index in a Sequential says nothing without the name of the Sequential
        fewest = 2
    for count in range(fewest, len(parts)):
        suffix = ".".join(parts[-count:])
        if all(sum(_ends(place, suffix) for place in block) <= 1 for block in blocks):
            return suffix
    return inside


def _stack_name(layer: Layer, stacks: set[frozenset[str]], linear: set[frozenset[str]]) -> str:
    name = _shortest(layer.inside, 2, stacks)
    taken = any(_ends(place, name) for block in linear for place in block)
    return f"{layer.inside}[experts]" if taken else name


def _ends(path: str, suffix: str) -> bool:
    return path == suffix or path.endswith("." + suffix)


def split_bands(layers: list[Layer], bands: int) -> list[tuple[str, list[Layer]]]:
    """(suffix of the name, layers) of each band, as even as can be; a group of fewer blocks has as many bands as those.

    So a group of one block is whole, and what is called the last band is never the first layer of the model.
    """
    blocks = list(dict.fromkeys(layer.block for layer in layers))
    bands = min(bands, len(blocks))
    if bands == 1:
        return [("", layers)]
    titles = BAND_TITLES.get(bands) or [f"{i}of{bands}" for i in range(1, bands + 1)]
    parts = []
    for i, title in enumerate(titles):
        chosen = set(blocks[len(blocks) * i // bands : len(blocks) * (i + 1) // bands])
        parts.append((f"@{title}", [layer for layer in layers if layer.block in chosen]))
    return parts

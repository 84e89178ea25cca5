"""Properties of group names, bands and targets that hold for any tree of layers."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from objectives.module_layers import Layer, split_at_block
from objectives.module_naming import name_groups, split_bands
from objectives.module_roles import role_of
from objectives.module_targets import Targets

PARTS = st.sampled_from(["attn", "mlp", "experts", "proj", "dense", "0", "1"])
INSIDES = st.lists(PARTS, min_size=1, max_size=3).map(".".join).filter(lambda path: not path.isdigit())


def layer(block: int, inside: str, is_stack: bool = False) -> Layer:
    kind, experts = ("parameter", 4) if is_stack else ("linear", 1)
    return Layer(f"h.{block}.{inside}", f"h.{block}", inside, kind, 8, 8, experts, 64)  # type: ignore[arg-type]


@st.composite
def blocks(draw: st.DrawFn) -> list[Layer]:
    """Up to four blocks, each with its own places."""
    places = draw(st.lists(st.sets(st.tuples(INSIDES, st.booleans()), min_size=1, max_size=6), min_size=1, max_size=4))
    return [layer(block, *place) for block, inside in enumerate(places) for place in sorted(inside)]


@given(blocks())
def test_every_layer_is_in_one_group_and_each_block_has_at_most_one_place_of_it(layers: list[Layer]) -> None:
    groups = name_groups(layers)
    grouped = [id(item) for members in groups.values() for item in members]
    assert sorted(grouped) == sorted(id(item) for item in layers)
    for name, members in groups.items():
        plain = name.removesuffix("[experts]")
        assert all(item.inside == plain or item.inside.endswith("." + plain) for item in members)
        assert len({item.kind for item in members}) == 1
        for block in {item.block for item in members}:
            assert len({item.inside for item in members if item.block == block}) == 1


@given(st.lists(st.integers(0, 30), min_size=1, max_size=30, unique=True), st.integers(1, 8))
def test_bands_are_even_and_in_order(indices: list[int], bands: int) -> None:
    layers = [layer(index, "mlp.proj") for index in sorted(indices)]
    parts = split_bands(layers, bands)
    assert [item for _, part in parts for item in part] == layers
    sizes = [len(part) for _, part in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert len({title for title, _ in parts}) == len(parts) == min(bands, len(layers))


def test_a_group_of_fewer_layers_than_bands_has_fewer_bands() -> None:
    """Of a hybrid model some groups have one layer, and that is often the first: it is not called the last band."""
    one, two = layer(0, "mamba.in_proj"), [layer(index, "self_attn.q_proj") for index in (0, 3)]
    assert split_bands([one], 2) == [("", [one])]
    assert split_bands(two, 3) == [("@first", two[:1]), ("@last", two[1:])]
    assert split_bands(two, 5) == [("@first", two[:1]), ("@last", two[1:])]


def test_a_name_that_ends_as_another_one_does_is_no_place_of_it() -> None:
    """PEFT compares whole components: `proj` does not reach `up_proj`."""
    assert list(name_groups([layer(0, "attn.proj"), layer(0, "attn.up_proj")])) == ["proj", "up_proj"]


def test_a_list_of_experts_is_not_cut_within_a_block() -> None:
    """As code of a model's own has them, each a module: eight layers in two blocks make two bands, none empty."""
    experts = [replace(layer(i // 4, "experts.w1"), path=f"h.{i // 4}.experts.{i % 4}.w1") for i in range(8)]
    assert split_bands(experts, 3) == [("@first", experts[:4]), ("@last", experts[4:])]


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), min_size=1, max_size=8), st.data())
def test_targets_match_their_paths_and_nothing_else(paths: list[list[str]], data: st.DataObject) -> None:
    model = nn.Module()
    for parts in paths:
        at = model
        for part in parts:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = at.get_submodule(part)
    targets = Targets(model)
    every = [path for path, _ in model.named_modules() if path]
    distinct = [path for path in every if targets.is_distinct(path)]
    chosen = tuple(data.draw(st.lists(st.sampled_from(distinct), min_size=1, unique=True)))
    name = data.draw(st.sampled_from([chosen[0].rpartition(".")[2], chosen[0]]))
    names = targets.shortest(name, chosen, "linear")
    matched = {path for path in every if any(path == target or path.endswith("." + target) for target in names)}
    assert matched == set(chosen)


def test_blocks() -> None:
    assert split_at_block("model.layers.3.mlp.experts.7.down_proj") == ("model.layers.3", "mlp.experts.down_proj")
    assert split_at_block("transformer.h.0.ffn.2") == ("transformer.h.0", "ffn.2")
    assert split_at_block("lm_head") == ("", "lm_head")
    assert split_at_block("model.altup_projections.1") == ("", "model.altup_projections.1")


def test_roles_need_the_part_of_the_block() -> None:
    assert role_of("attn.c_proj") == "attention_output"
    assert role_of("mlp.c_proj") == "down"
    assert role_of("attention.output.dense") == "attention_output"
    assert role_of("output.dense") == "down"
    assert role_of("attention.value") == "value"
    assert role_of("feed_forward.value") == "down"
    assert role_of("self_attn.gate_proj") == "other"
    assert role_of("bottleneck.attention.dense") == "other"
    assert (role_of("mlp.dense1"), role_of("mlp.dense2")) == ("up", "down")
    assert role_of("mlp.shared_experts.gate_proj") == "gate"
    assert role_of("self_attn.q_proj.linear") == "query"
    assert [role_of(f"layer.DenseReluDense.{name}") for name in ("wi", "wi_0", "wi_1", "wo")] == [
        "up", "gate", "up", "down",
    ]  # fmt: skip
    assert role_of("mlp.wi") == "gate_up", "of ModernBERT both in one"
    assert role_of("layer.EncDecAttention.o") == role_of("attn.o") == "attention_output"
    assert role_of("attention.self.in_proj") == "qkv"
    assert role_of("mamba.in_proj") == "other"
    assert (role_of("ffn.0"), role_of("ffn.2")) == ("up", "down"), "CTRL's, of a Sequential"
    assert [role_of(f"attention.self.{name}_global") for name in ("query", "key", "value")] == ["query", "key", "value"]

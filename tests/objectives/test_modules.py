"""The module space of small, well-known structures: names, costs, targets, bands."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BloomConfig,
    BltConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    PreTrainedConfig,
    XLNetConfig,
)

from objectives.errors import ModelError, RequestError
from objectives.model import Kind, meta_model
from objectives.modules import ModuleSpace, module_space
from objectives.placement import BASE, Placement

LLAMA = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
)


def space_of(config: PreTrainedConfig, kind: Kind = "causal", bands: int = 1) -> ModuleSpace:
    return module_space(meta_model(config, kind), config, kind, bands)


def reasons(space: ModuleSpace) -> dict[str, str]:
    return {item.name: item.why for item in space.left_out}


def test_llama() -> None:
    space = space_of(LLAMA)
    assert [group.name for group in space.groups] == [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    ]  # fmt: skip
    assert [group.role for group in space.groups] == [
        "query", "key", "value", "attention_output", "gate", "up", "down",
    ]  # fmt: skip
    assert (space.model_type, space.kind, space.hidden_size, space.layers) == ("llama", "causal", 32, 5)
    assert reasons(space) == {"model.embed_tokens": "embedding", "lm_head": "output head"}


def test_costs_are_those_of_the_shapes() -> None:
    space = space_of(LLAMA)
    key = space.group("k_proj")
    assert key.layers == 5
    assert key.parameters_per_rank == 5 * (32 + 16)
    assert key.products == 5 * 32 * 16
    placement = Placement.of(["k_proj", "down_proj"], 4)
    assert space.parameters(placement) == 4 * 5 * (32 + 16 + 48 + 32)
    assert space.adapter_bytes(placement) == 4 * space.parameters(placement)
    assert space.adapter_bytes(placement, bytes_per_parameter=2) == 2 * space.parameters(placement)


def test_the_base_model_targets_nothing() -> None:
    space = space_of(LLAMA)
    assert space.target_modules(BASE) == space.target_parameters(BASE) == []
    assert space.parameters(BASE) == 0


def test_an_unknown_group_is_named_with_the_known_ones() -> None:
    with pytest.raises(ModelError) as caught:
        space_of(LLAMA).group("c_attn")
    assert str(caught.value) == (
        "'c_attn' is no module group of this llama model: "
        "choose from q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj."
    )


def test_leaf_names_are_targets_where_they_are_exact() -> None:
    assert space_of(LLAMA).target_modules(Placement.of(["o_proj", "q_proj"], 8)) == ["o_proj", "q_proj"]


def test_places_that_share_a_leaf_name_are_told_apart() -> None:
    space = space_of(GPT2Config(n_layer=2, n_embd=32, n_head=4))
    assert [group.name for group in space.groups] == ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
    assert space.target_modules(Placement.of(["attn.c_proj"], 8)) == ["attn.c_proj"]


def test_a_suffix_that_would_catch_another_place_becomes_full_paths() -> None:
    config = BertConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=4, intermediate_size=48)
    space = space_of(config, "encoder")
    assert space.target_modules(Placement.of(["attention.output.dense"], 8)) == ["attention.output.dense"]
    assert space.target_modules(Placement.of(["output.dense"], 8)) == [
        "bert.encoder.layer.0.output.dense",
        "bert.encoder.layer.1.output.dense",
    ]
    assert reasons(space)["classifier"] == "output head"
    assert reasons(space)["bert.pooler.dense"] == "outside the repeated blocks"


@pytest.mark.parametrize(
    ("bands", "titles", "sizes"),
    [
        (1, [""], [5]),
        (2, ["@first", "@last"], [2, 3]),
        (3, ["@first", "@middle", "@last"], [1, 2, 2]),
        (4, ["@1of4", "@2of4", "@3of4", "@4of4"], [1, 1, 1, 2]),
        (5, ["@1of5", "@2of5", "@3of5", "@4of5", "@5of5"], [1, 1, 1, 1, 1]),
    ],
)
def test_bands(bands: int, titles: list[str], sizes: list[int]) -> None:
    parts = [group for group in space_of(LLAMA, bands=bands).groups if group.name.startswith("o_proj")]
    assert [part.name for part in parts] == [f"o_proj{title}" for title in titles]
    assert [part.layers for part in parts] == sizes
    whole = [path for part in parts for path in part.paths]
    assert whole == [f"model.layers.{i}.self_attn.o_proj" for i in range(5)]


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        ("v_proj q_proj v_proj", "q_proj@first q_proj@last v_proj@first v_proj@last"),
        ("o_proj@last k_proj@first last", "k_proj@first k_proj@last o_proj@last"),
        ("o_proj k_proj@last", "k_proj@last o_proj@first o_proj@last"),
    ],
)
def test_groups_are_named_as_labels_have_them(names: str, groups: str) -> None:
    assert space_of(LLAMA, bands=2).named(names.split(), "--groups") == tuple(groups.split())


@pytest.mark.parametrize("names", [["r8"], ["first"], ["q_proj@first", "nowhere"], ["q_proj@"], ["@first"]])
def test_what_is_no_group_is_refused(names: list[str]) -> None:
    with pytest.raises(RequestError) as refusal:
        space_of(LLAMA, bands=2).named(names, "--groups")
    told = f"--groups: '{names[-1]}' is no module group of this llama model: choose from q_proj@first, q_proj@last, "
    assert str(refusal.value).startswith(told)


def test_a_band_is_targeted_by_full_paths() -> None:
    space = space_of(LLAMA, bands=3)
    assert space.target_modules(Placement.of(["o_proj@last"], 8)) == [
        "model.layers.3.self_attn.o_proj",
        "model.layers.4.self_attn.o_proj",
    ]


def test_a_group_in_all_its_bands_is_targeted_by_its_name() -> None:
    """As without bands: vLLM takes names of layers alone."""
    space = space_of(LLAMA, bands=2)
    some = ["o_proj@first", "o_proj@last", "v_proj@first"]
    assert space.target_modules(Placement.of(some, 8)) == [
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.v_proj",
        "o_proj",
    ]
    every = Placement.of((group.name for group in space.groups), 8)
    plain = space_of(LLAMA)
    assert space.target_modules(every) == plain.target_modules(Placement.of((g.name for g in plain.groups), 8))


def test_no_bands_are_refused() -> None:
    with pytest.raises(ModelError, match=r"^0 bands are not possible: give 1 or more\.$"):
        space_of(LLAMA, bands=0)


def test_more_bands_than_layers_are_refused() -> None:
    with pytest.raises(ModelError) as refusal:
        space_of(LLAMA, bands=6)
    assert str(refusal.value) == "--bands 6 is more than this model has layers (5): give 5 or less"


def test_a_rank_that_no_layer_has_is_refused() -> None:
    space = space_of(LLAMA)
    assert space.full_rank == 32
    space.check_ranks((8, 32))
    with pytest.raises(RequestError) as refusal:
        space.check_ranks((8, 10**9))
    assert str(refusal.value) == (
        "--ranks 1000000000 is too large: no layer of this llama model has a rank above 32; give 32 or less"
    )


def test_layers_that_a_kernel_reads_directly_are_left_out() -> None:
    space = space_of(MambaConfig(num_hidden_layers=2, hidden_size=32, vocab_size=64))
    assert [group.name for group in space.groups] == ["in_proj"]
    fused = "a fused kernel reads its weight and would pass by the adapter"
    assert reasons(space) == {
        "backbone.embeddings": "embedding",
        **{f"mixer.{name}": fused for name in ("x_proj", "dt_proj", "out_proj")},
        "mixer.A_log": "a bare parameter, not a layer that PEFT adapts",
        "lm_head": "output head",
    }, "its convolution is no linear map at all"


def test_bloom_reads_weights_only_when_told_to() -> None:
    usual = BloomConfig(n_layer=2, hidden_size=32, n_head=4, vocab_size=64)
    assert "dense" in [group.name for group in space_of(usual).groups]
    exact = BloomConfig(n_layer=2, hidden_size=32, n_head=4, vocab_size=64, slow_but_exact=True)
    assert "self_attention.dense" in reasons(space_of(exact))


def test_bare_parameters_are_named() -> None:
    space = space_of(XLNetConfig(n_layer=2, d_model=32, n_head=4, d_inner=48, vocab_size=64))
    assert [group.name for group in space.groups] == ["layer_1", "layer_2"]
    assert reasons(space)["rel_attn.q"] == "a bare parameter, not a layer that PEFT adapts"


def test_a_model_without_blocks_says_so() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    space = module_space(model, LLAMA, "causal")
    assert space.groups == ()
    assert reasons(space)["all blocks"] == "no linear layer in repeated blocks was found"


def test_the_width_of_a_model_of_parts_is_that_of_most_of_its_layers() -> None:
    """BLT states none for the whole, and a learning rate is chosen by it."""
    around = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 48}
    config = BltConfig(
        encoder_config=around,
        decoder_config=around,
        global_config={**around, "num_hidden_layers": 4, "hidden_size": 32},
        patcher_config=around,
    )
    assert space_of(config).hidden_size == 32


def test_the_structure_does_not_depend_on_where_the_model_lives() -> None:
    model = AutoModelForCausalLM.from_config(LLAMA)
    assert module_space(model, LLAMA, "causal") == space_of(LLAMA)
    assert space_of(LLAMA).structure == "255f1e10bcd97709"
    assert space_of(LlamaConfig(**{**LLAMA.to_dict(), "intermediate_size": 40})).structure != "255f1e10bcd97709"


def test_an_encoder_has_one_body_with_any_number_of_classes() -> None:
    """So that what was measured for one task is known for the next."""
    config = BertConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=4, intermediate_size=48)
    two, five = (module_space(meta_model(config, "encoder", labels), config, "encoder") for labels in (2, 5))
    assert two.structure != five.structure
    assert two.body == five.body


def test_bodies_differ_also_where_transformers_gives_them_no_name() -> None:
    """Latencies are kept under the body of an encoder: an empty one would stand for every such model."""

    def body(width: int) -> str:
        model = torch.nn.Module()
        model.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"gate": torch.nn.Linear(8, width)})])
        return module_space(model, LLAMA, "encoder").body

    assert body(8) != body(16)


def test_the_document() -> None:
    document = space_of(LLAMA).to_json("folder")
    assert document["model"] == "folder"
    assert document["type"] == "llama"
    assert document["groups"][3] == {
        "name": "o_proj",
        "role": "attention_output",
        "kind": "linear",
        "layers": 5,
        "parameters_per_rank": 320,
        "products": 5120,
        "share": round(5120 / (5 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)), 4),
    }
    assert math.isclose(sum(group["share"] for group in document["groups"]), 1, abs_tol=1e-3)
    assert {"name": "lm_head", "why": "output head"} in document["left_out"]
    assert document["references"][0] == {"name": "o_proj only", "targets": ["o_proj"]}

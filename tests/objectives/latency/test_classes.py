from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import pytest
from transformers import DeepseekV3Config

from objectives.errors import ModelError, RequestError
from objectives.latency.classes import class_of, server_rank, whole_layers
from objectives.model import meta_model
from objectives.modules import ModuleSpace, module_space
from objectives.placement import BASE, Placement
from tests.objectives.tiny import CONFIGURATIONS, Zoo


@dataclass
class Has:
    fused: bool
    fixed_rank: bool


VLLM, SGLANG, IN_PROCESS = Has(True, True), Has(True, False), Has(False, False)


def test_in_one_process_every_placement_is_a_class(zoo: Zoo) -> None:
    space = zoo.space("llama")
    placement = Placement.of(["q_proj", "o_proj"], 4)
    assert class_of(space, placement, IN_PROCESS).name == "o_proj+q_proj r4"


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        (["q_proj"], "qkv r8"),
        (["q_proj", "k_proj", "v_proj"], "qkv r8"),
        (["v_proj", "o_proj"], "o_proj+qkv r8"),
        (["up_proj"], "gate_up r8"),
        (["gate_proj", "up_proj", "down_proj"], "down_proj+gate_up r8"),
    ],
)
def test_a_fusing_server_tells_four_parts_of_a_llama_apart(zoo: Zoo, groups: list[str], name: str) -> None:
    assert class_of(zoo.space("llama"), Placement.of(groups, 4), VLLM).name == name


def test_a_llama_has_fifteen_classes_on_a_fusing_server(zoo: Zoo) -> None:
    space = zoo.space("llama")
    names = [group.name for group in space.groups]
    placements = [Placement.of(g, 8) for size in range(1, 8) for g in combinations(names, size)]
    assert len({class_of(space, placement, VLLM) for placement in placements}) == 2**4 - 1


def test_what_is_fused_already_keeps_its_name(zoo: Zoo) -> None:
    assert class_of(zoo.space("gpt2"), Placement.of(["c_attn"], 8), VLLM).name == "c_attn r8"


@pytest.mark.parametrize(
    ("groups", "name"),
    [
        (["q_a_proj"], "q_a_proj r8"),
        (["q_b_proj"], "q_b_proj r8"),
        (["q_a_proj", "q_b_proj"], "q_a_proj+q_b_proj r8"),
        (["kv_a_proj_with_mqa", "gate_proj"], "gate_up+kv_a_proj_with_mqa r8"),
        (["experts.gate_up_proj"], "experts.gate_up_proj r8"),
    ],
)
def test_only_layers_that_servers_fuse_are_one_class(groups: list[str], name: str) -> None:
    """Both parts of a query of low rank are queries by their role, and layers of their own all the same."""
    config = DeepseekV3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=8,
        first_k_dense_replace=1,
    )
    space = module_space(meta_model(config, "causal"), config, "causal")
    assert class_of(space, Placement.of(groups, 8), VLLM).name == name


def test_bands_stay_apart() -> None:
    space = _in_two_bands()
    placement = Placement.of(["q_proj@first", "k_proj@last"], 8)
    assert class_of(space, placement, VLLM).name == "qkv@first+qkv@last r8"


def test_all_parts_of_a_fused_layer_stay_in_its_band() -> None:
    placement = whole_layers(_in_two_bands(), Placement.of(["q_proj@first", "o_proj@last"], 4))
    assert placement == Placement.of(["q_proj@first", "k_proj@first", "v_proj@first", "o_proj@last"], 4)


def _in_two_bands() -> ModuleSpace:
    config = CONFIGURATIONS["llama"]()
    return module_space(meta_model(config, "causal"), config, "causal", bands=2)


def test_a_placement_of_a_class_is_as_large_as_all_of_it(zoo: Zoo) -> None:
    """So one adapter stands for the class: what is measured does not hang on which placement came first."""
    space = zoo.space("llama")
    names = [group.name for group in space.groups]
    placements = [Placement.of(groups, 8) for size in range(1, 8) for groups in combinations(names, size)]
    pairs = {(class_of(space, p, SGLANG), whole_layers(space, p)) for p in placements}
    assert len(pairs) == 2**4 - 1
    assert all(class_of(space, whole, SGLANG) == each for each, whole in pairs)


def test_a_group_that_the_model_does_not_have_has_no_class(zoo: Zoo) -> None:
    with pytest.raises(ModelError, match="c_attn"):
        class_of(zoo.space("llama"), Placement.of(["c_attn"], 8), IN_PROCESS)


def test_the_base_model_is_a_class_of_its_own(zoo: Zoo) -> None:
    assert class_of(zoo.space("llama"), BASE, VLLM).name == "base"


@pytest.mark.parametrize(
    ("rank", "served"),
    [(1, 1), (2, 8), (8, 8), (9, 16), (65, 128), (129, 256), (256, 256), (257, 320), (300, 320), (512, 512)],
)
def test_a_server_computes_at_the_next_rank_that_it_takes(rank: int, served: int) -> None:
    assert server_rank(rank) == served


def test_a_rank_that_no_server_takes_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        server_rank(513)
    assert str(caught.value) == "rank 513 is above 512, the largest that vLLM serves: choose a lower rank"

"""A diverse dozen of the architectures that ``benchmarks/architectures.py`` proves all of."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from benchmarks.architectures import RANK, adapted, check, small_model
from objectives.model import Kind, meta_model
from objectives.modules import LeftOut, module_space
from objectives.placement import Placement

GROUPS = {
    ("llama", "causal"): "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    ("gpt2", "causal"): "c_attn attn.c_proj c_fc mlp.c_proj",
    ("opt", "causal"): "k_proj v_proj q_proj out_proj fc1 fc2",
    ("bloom", "causal"): "query_key_value dense dense_h_to_4h dense_4h_to_h",
    ("gpt_neox", "causal"): "query_key_value dense dense_h_to_4h dense_4h_to_h",
    ("phi", "causal"): "q_proj k_proj v_proj dense fc1 fc2",
    ("falcon", "causal"): "query_key_value dense dense_h_to_4h dense_4h_to_h",
    ("ctrl", "causal"): "Wq Wk Wv dense ffn.0 ffn.2",
    ("mixtral", "causal"): "q_proj k_proj v_proj o_proj experts.gate_up_proj experts.down_proj",
    ("qwen3_next", "causal"): (
        "in_proj_qkvz out_proj experts.gate_up_proj experts.down_proj gate_proj up_proj down_proj "
        "q_proj k_proj v_proj o_proj"
    ),
    ("afmoe", "causal"): (
        "q_proj k_proj v_proj o_proj self_attn.gate_proj mlp.gate_proj up_proj down_proj "
        "shared_experts.gate_proj experts.gate_up_proj experts.down_proj"
    ),
    ("deepseek_v32", "causal"): (
        "q_a_proj q_b_proj kv_a_proj_with_mqa kv_b_proj o_proj gate_proj up_proj down_proj "
        "experts.gate_up_proj experts.down_proj"
    ),
    ("mamba2", "causal"): "in_proj",
    ("zamba2", "causal"): "in_proj linear q_proj k_proj v_proj o_proj gate_up_proj down_proj",
    ("gemma3", "causal"): "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
    ("bart", "causal"): "k_proj v_proj q_proj out_proj fc1 fc2",
    ("bert", "encoder"): "query key value attention.output.dense intermediate.dense output.dense",
    ("modernbert", "encoder"): "Wqkv attn.Wo Wi mlp.Wo",
    ("albert", "encoder"): "query key value dense ffn ffn_output",
    ("deberta", "encoder"): "in_proj attention.output.dense intermediate.dense output.dense",
    ("bart", "encoder"): (
        "self_attn.k_proj self_attn.v_proj self_attn.q_proj self_attn.out_proj fc1 fc2 "
        "encoder_attn.k_proj encoder_attn.v_proj encoder_attn.q_proj encoder_attn.out_proj"
    ),
    ("mt5", "encoder"): (
        "SelfAttention.q SelfAttention.k SelfAttention.v SelfAttention.o wi_0 wi_1 wo "
        "EncDecAttention.q EncDecAttention.k EncDecAttention.v EncDecAttention.o"
    ),
}


@pytest.mark.parametrize(("model_type", "kind"), GROUPS, ids=lambda value: value)
def test_groups_attach_exactly(model_type: str, kind: Kind) -> None:
    row = check(model_type, kind)
    assert row.failure == ""
    assert " ".join(row.groups) == GROUPS[model_type, kind]


@pytest.mark.parametrize(
    ("model_type", "name", "why"),
    [
        ("gemma3", "model.vision_tower", "not text: belongs to another modality"),
        ("blt", "model.patcher", "frozen by its model: it only finds the borders of patches"),
        ("bart", "encoder_attn.q_proj", "cross-attention: without an encoder beside it, it never runs"),
        ("mllama", "mlp.down_proj", "cross-attention: without an encoder beside it, it never runs"),
        ("deepseek_v32", "self_attn.indexer.wk", "no gradient reaches it: an adapter would never learn"),
        ("deepseek_v4", "self_attn.o_a_proj", "DeepseekV4GroupedLinear is not a plain linear map"),
        ("jetmoe", "mlp.router.layer", "chooses experts (MoE router)"),
        ("qwen3_next", "linear_attn.in_proj_ba", "too narrow (2048 x 64) for a low-rank update"),
        ("dbrx", "ffn.experts.mlp.w1", "experts joined into one matrix, which a low-rank update would mix"),
    ],
)
def test_what_is_left_out_is_named_with_its_reason(model_type: str, name: str, why: str) -> None:
    config, model = small_model(model_type, "causal")
    assert LeftOut(name, why) in module_space(model, config, "causal").left_out


def test_bands_of_a_deep_model_attach_exactly() -> None:
    """From twenty targets on PEFT condenses the list itself; what it adapts must stay the same."""
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=12, num_attention_heads=4)
    model = meta_model(config, "causal")
    space = module_space(model, config, "causal", bands=3)
    some = ["q_proj@first", "v_proj@first", "o_proj@last", "gate_proj@middle", "up_proj@last", "down_proj@first"]
    paths, parameters = adapted(model, space, some)
    assert paths == {path for name in some for path in space.group(name).paths}
    assert parameters == space.parameters(Placement.of(some, RANK))

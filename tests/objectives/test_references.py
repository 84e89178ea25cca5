"""Reference placements on architectures that name their layers differently."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    FNetConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    Phi3Config,
    PreTrainedConfig,
    T5Config,
)

from objectives.model import kind_of, meta_model
from objectives.modules import ModuleSpace, module_space
from objectives.references import Reference, references


def space_of(config: PreTrainedConfig, bands: int = 1) -> ModuleSpace:
    kind = kind_of(config)
    return module_space(meta_model(config, kind), config, kind, bands)


LLAMA = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, vocab_size=64)

TABLE: dict[str, tuple[PreTrainedConfig, dict[str, str]]] = {
    "llama": (
        LLAMA,
        {
            "o_proj only": "o_proj",
            "o_proj + down_proj": "down_proj o_proj",
            "q + v": "q_proj v_proj",
            "attention only": "k_proj o_proj q_proj v_proj",
            "MLP only": "down_proj gate_proj up_proj",
            "all linear": "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj",
        },
    ),
    "gpt2": (
        GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=64),
        {
            "attn.c_proj only": "attn.c_proj",
            "attn.c_proj + mlp.c_proj": "attn.c_proj mlp.c_proj",
            "c_attn only": "c_attn",
            "attention only": "attn.c_proj c_attn",
            "MLP only": "c_fc mlp.c_proj",
            "all linear": "attn.c_proj c_attn c_fc mlp.c_proj",
        },
    ),
    "gpt_neox": (
        GPTNeoXConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64),
        {
            "dense only": "dense",
            "dense + dense_4h_to_h": "dense dense_4h_to_h",
            "query_key_value only": "query_key_value",
            "attention only": "dense query_key_value",
            "MLP only": "dense_4h_to_h dense_h_to_4h",
            "all linear": "dense dense_4h_to_h dense_h_to_4h query_key_value",
        },
    ),
    "phi3": (
        Phi3Config(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=64,
            pad_token_id=0,
        ),
        {
            "o_proj only": "o_proj",
            "o_proj + down_proj": "down_proj o_proj",
            "qkv_proj only": "qkv_proj",
            "attention only": "o_proj qkv_proj",
            "MLP only": "down_proj gate_up_proj",
            "all linear": "down_proj gate_up_proj o_proj qkv_proj",
        },
    ),
    "bert": (
        BertConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64),
        {
            "attention.output.dense only": "attention.output.dense",
            "attention.output.dense + output.dense": "attention.output.dense output.dense",
            "q + v": "query value",
            "attention only": "attention.output.dense key query value",
            "MLP only": "intermediate.dense output.dense",
            "all linear": "attention.output.dense intermediate.dense key output.dense query value",
        },
    ),
    "t5": (
        T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=64),
        {
            "SelfAttention.o + EncDecAttention.o only": "EncDecAttention.o SelfAttention.o",
            "SelfAttention.o + EncDecAttention.o + wo": "EncDecAttention.o SelfAttention.o wo",
            "q + v": "EncDecAttention.q EncDecAttention.v SelfAttention.q SelfAttention.v",
            "attention only": (
                "EncDecAttention.k EncDecAttention.o EncDecAttention.q EncDecAttention.v "
                "SelfAttention.k SelfAttention.o SelfAttention.q SelfAttention.v"
            ),
            "MLP only": "wi wo",
            "all linear": (
                "EncDecAttention.k EncDecAttention.o EncDecAttention.q EncDecAttention.v "
                "SelfAttention.k SelfAttention.o SelfAttention.q SelfAttention.v wi wo"
            ),
        },
    ),
    "fnet": (
        FNetConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, vocab_size=64),
        {"MLP only": "intermediate.dense output.dense"},
    ),
    "mamba": (
        MambaConfig(num_hidden_layers=2, hidden_size=32, vocab_size=64),
        {"all linear": "in_proj"},
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_references_follow_roles(name: str) -> None:
    config, expected = TABLE[name]
    assert {item.name: " ".join(item.groups) for item in references(space_of(config))} == expected


@pytest.mark.parametrize("name", ["q_proj", "v_proj"])
def test_one_of_the_two_is_no_q_and_v(name: str) -> None:
    """RWKV has values and no queries; layers that share the keys and values of another one have queries alone."""
    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([torch.nn.ModuleDict({name: torch.nn.Linear(8, 8)})])
    assert references(module_space(model, LLAMA, "causal")) == [Reference("attention only", (name,))]


def test_all_bands_of_a_role_belong_to_its_reference() -> None:
    found = {item.name: item.groups for item in references(space_of(LLAMA, bands=3))}
    assert found["o_proj only"] == ("o_proj@first", "o_proj@last", "o_proj@middle")
    assert len(found["all linear"]) == 21


def test_among_some_groups_references_are_those_that_need_no_others_and_all_of_these() -> None:
    some = ("q_proj", "v_proj", "o_proj", "k_proj")
    found = {item.name: item.groups for item in references(space_of(LLAMA), some)}
    assert list(found) == ["o_proj only", "q + v", "attention only"], "these are all of them, under the name they have"
    found = {item.name: item.groups for item in references(space_of(LLAMA), ("up_proj", "o_proj"))}
    assert found == {"o_proj only": ("o_proj",), "all of --groups": ("o_proj", "up_proj")}

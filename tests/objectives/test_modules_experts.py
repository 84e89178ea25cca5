"""Mixtures of experts: the adapters really run, learn, and survive a save and a load on a fresh model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    HunYuanMoEV1Config,
    JetMoeConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from objectives.model import meta_model
from objectives.modules import ModuleSpace, module_space
from objectives.placement import Placement

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
EXPERTS = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}

CONFIGS = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": Qwen2MoeConfig(**SIZES, **EXPERTS, num_experts=4, shared_expert_intermediate_size=24),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS, num_experts=4, head_dim=8, mlp_only_layers=[0]),
    "gpt_oss": GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, head_dim=8),
    "jetmoe": JetMoeConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, kv_channels=8),
    "deepseek_v3": DeepseekV3Config(
        **{**SIZES, "num_key_value_heads": 4},
        **EXPERTS,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=8,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, ModuleSpace]:
    config: PreTrainedConfig = CONFIGS[request.param]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    return model, module_space(model, config, "causal")


def logits(model: torch.nn.Module) -> Tensor:
    ids = torch.arange(1, 25).reshape(2, 12)
    result: Tensor = model(input_ids=ids, use_cache=False).logits
    return result


def test_adapters_run_learn_and_reload(case: tuple[torch.nn.Module, ModuleSpace], tmp_path: Path) -> None:
    model, space = case
    stacks = [[group.name] for group in space.groups if group.kind == "parameter"]
    for i, some in enumerate([*stacks, [group.name for group in space.groups]]):
        placement = Placement.of(some, 2)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=2,
            target_modules=space.target_modules(placement),
            target_parameters=space.target_parameters(placement) or None,
        )
        adapted = get_peft_model(copy.deepcopy(model), config).eval()
        trainable = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
        assert sum(weight.numel() for weight in trainable.values()) == space.parameters(placement)
        for name, weight in trainable.items():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        output = logits(adapted)
        assert not torch.allclose(output, logits(model))
        output.square().mean().backward()
        assert [name for name, weight in trainable.items() if weight.grad is None or not weight.grad.any()] == []
        adapted.save_pretrained(tmp_path / str(i))
        reloaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / str(i)).eval()
        assert torch.equal(logits(reloaded), output)


def space_of(model_type: str) -> ModuleSpace:
    config = CONFIGS[model_type]
    with torch.device("meta"):
        return module_space(AutoModelForCausalLM.from_config(config), config, "causal")


def test_fused_experts_are_parameters() -> None:
    space = space_of("mixtral")
    down = space.group("experts.down_proj")
    assert (down.kind, down.role, down.layers) == ("parameter", "down", 2)
    assert down.paths[0] == "model.layers.0.mlp.experts.down_proj"
    assert down.parameters_per_rank == 2 * 4 * (32 + 48)
    assert down.products == 2 * 2 * 32 * 48  # two of the four experts see a token
    placement = Placement.of(["experts.down_proj", "o_proj"], 2)
    assert space.target_modules(placement) == ["o_proj"]
    assert space.target_parameters(placement) == ["experts.down_proj"]


def test_experts_are_also_told_by_the_class_that_holds_them() -> None:
    """JetMoe's are the weight of a layer, of which PEFT adapts the parameter."""
    groups = {group.name: group for group in space_of("jetmoe").groups}
    assert list(groups) == [
        "mlp.input_linear", "mlp.output_linear", "experts.input_linear", "experts.output_linear", "kv_proj",
    ]  # fmt: skip
    assert [group.role for group in groups.values()] == ["gate_up", "down", "query", "attention_output", "qkv"]
    down = groups["mlp.output_linear"]
    assert (down.kind, down.targets) == ("parameter", ("mlp.output_linear.weight",))
    assert (down.parameters_per_rank, down.products) == (2 * 4 * (32 + 48), 2 * 2 * 32 * 48)


def test_each_layer_may_visit_its_own_number_of_experts() -> None:
    """So do Hunyuan-A13B's, whose configuration lists them; all of its 64 experts would be eight times too many."""
    config = HunYuanMoEV1Config(**SIZES, head_dim=8, num_experts=4, moe_topk=[1, 3])
    space = module_space(meta_model(config, "causal"), config, "causal")
    assert space.group("experts.down_proj").products == (1 + 3) * 32 * 48
    assert space.group("experts.gate_up_proj").products == (1 + 3) * 32 * 2 * 48


class Experts(torch.nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.down_proj = torch.nn.Parameter(torch.zeros(count, 8, 16))


@pytest.mark.parametrize(
    ("name", "visited"),
    [
        ("num_experts_per_tok", 1),
        ("num_experts_per_token", 1),  # Kimi
        ("top_k_experts", 1),  # Gemma 4
        ("moe_topk", 1),  # Aria, LongCat
        ("moe_k", 1),  # Ernie
        ("something_else", 8),
    ],
)
def test_a_token_visits_as_many_experts_as_are_configured_and_every_shared_one(name: str, visited: int) -> None:
    model = torch.nn.Module()
    parts = {"experts": Experts(8), "shared_experts": Experts(2)}
    model.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict(parts)})])
    space = module_space(model, PreTrainedConfig(**{name: 1}), "causal")
    products = {group.name: group.products for group in space.groups}
    assert products == {"experts.down_proj": visited * 8 * 16, "shared_experts.down_proj": 2 * 8 * 16}


def test_of_listed_experts_those_count_that_a_token_visits() -> None:
    """So do models that bring their code, as DeepSeek's first mixtures do; all adapters are there all the same."""

    def expert() -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"down_proj": torch.nn.Linear(16, 8)})

    def mixture() -> torch.nn.ModuleDict:
        listed = {name: torch.nn.ModuleList([expert() for _ in range(12)]) for name in ("experts", "shared_experts")}
        return torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict(listed)})

    model = torch.nn.Module()
    model.layers = torch.nn.ModuleList([torch.nn.ModuleDict({"mlp": expert()}), mixture(), mixture()])
    groups = module_space(model, PreTrainedConfig(num_experts_per_tok=2), "causal").groups
    assert {group.name: (group.layers, group.parameters_per_rank, group.products) for group in groups} == {
        "mlp.down_proj": (1, 16 + 8, 16 * 8),
        "experts.down_proj": (2, 2 * 12 * (16 + 8), 2 * 2 * 16 * 8),
        "shared_experts.down_proj": (2, 2 * 12 * (16 + 8), 2 * 12 * 16 * 8),
    }


def test_routers_are_left_out() -> None:
    left_out = {item.name: item.why for item in space_of("qwen2_moe").left_out}
    assert left_out["mlp.gate"] == left_out["mlp.shared_expert_gate"] == "chooses experts (MoE router)"


def test_the_bias_of_experts_is_no_matrix() -> None:
    left_out = {item.name: item.why for item in space_of("gpt_oss").left_out}
    assert left_out["mlp.experts.down_proj_bias"] == "a bare parameter, not a layer that PEFT adapts"


def test_dense_and_shared_layers_of_one_name_are_one_group() -> None:
    """PEFT rewrites ``down_proj`` of this type to the fused experts, so the weights are named as parameters."""
    down = space_of("deepseek_v3").group("down_proj")
    assert down.kind == "parameter"
    assert down.targets == ("down_proj.weight",)
    assert down.paths == (
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.mlp.shared_experts.down_proj.weight",
    )

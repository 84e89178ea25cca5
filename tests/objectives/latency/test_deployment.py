from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from objectives.adapter import WEIGHTS, adapted_layers, adapter_config
from objectives.errors import RequestError
from objectives.latency.deployment import deployment, wrapped_names
from objectives.latency.server import write_random_adapter
from objectives.model import load_config, meta_model
from objectives.modules import module_space
from objectives.placement import Placement
from tests.objectives.tiny import Zoo, all_groups

LAYERS = [f"model.layers.{i}.self_attn.{name}" for i in range(2) for name in ("q_proj", "o_proj")]
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "o_proj"]}


def test_the_command_wraps_what_is_adapted_and_nothing_else() -> None:
    found = deployment(CONFIG, LAYERS, "my models/llama", "tickets")
    assert (found["server"], found["loads"], found["why_not"], found["exact"]) == ("vllm", True, [], True)
    assert shlex.split(found["command"]) == [
        "vllm", "serve", "my models/llama", "--enable-lora", "--max-lora-rank", "8", "--generation-config",
        "vllm", "--lora-target-modules", "o_proj", "q_proj", "qkv_proj", "--lora-modules", "tickets=.",
    ]  # fmt: skip


@pytest.mark.parametrize(("rank", "served"), [(1, "1"), (4, "8"), (16, "16"), (20, "32"), (512, "512")])
def test_the_rank_is_the_next_that_vllm_takes(rank: int, served: str) -> None:
    words = shlex.split(deployment({**CONFIG, "r": rank}, LAYERS, "m", "a")["command"])
    assert words[words.index("--max-lora-rank") + 1] == served


def test_fused_layers_are_named_too() -> None:
    assert wrapped_names(["gate_proj", "down_proj"]) == ["down_proj", "gate_proj", "gate_up_proj"]
    assert wrapped_names(["c_attn"]) == ["c_attn"]


@pytest.mark.parametrize("ends", [["0.self_attn.q_proj", "11.mlp.down_proj"], r".*\.(0.*q_proj|11.*down_proj)"])
def test_layers_of_a_band_are_named_by_their_paths(ends: list[str] | str) -> None:
    first, last = "model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj"
    found = deployment({**CONFIG, "target_modules": ends}, [first, last], "m", "a", model_type="llama")
    assert wrapped(found) == [first, "model.layers.0.self_attn.qkv_proj", last]
    assert found["exact"]


@pytest.mark.parametrize(
    ("model_type", "paths", "names"),
    [
        # By transformers' own model, where vLLM calls the layer of gate and up merged_proj_9_gate_proj_7_up_proj.
        ("bitnet", ["model.layers.2.mlp.up_proj"], ["gate_up_proj", "up_proj"]),
        # There it is model.layers.2.attn.
        ("gpt_oss", ["model.layers.2.self_attn.o_proj"], ["o_proj"]),
        (None, ["model.layers.2.mlp.down_proj"], ["down_proj"]),
        ("llama", ["model.language_model.layers.0.self_attn.q_proj"], ["q_proj", "qkv_proj"]),
        ("gpt_bigcode", ["transformer.h.0.attn.c_proj", "transformer.h.1.attn.c_proj"], ["c_proj"]),
    ],
)
def test_where_vllm_may_have_other_paths_all_layers_of_a_name_are_wrapped(
    model_type: str | None, paths: list[str], names: list[str]
) -> None:
    """A path that it does not have is left out without a word, and the base model answers."""
    found = deployment({**CONFIG, "target_modules": paths}, paths, "m", "a", model_type=model_type)
    assert (wrapped(found), found["exact"], found["why_not"]) == (names, False, [])


def wrapped(found: dict[str, Any]) -> list[str]:
    words = shlex.split(found["command"])
    return words[words.index("--lora-target-modules") + 1 : words.index("--lora-modules")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"peft_type": "LOHA"}, "it is of type LOHA, and vLLM loads LoRA alone"),
        ({"r": 600}, "its rank 600 is above 512, the largest --max-lora-rank"),
        ({"use_dora": True}, "it uses DoRA"),
        ({"modules_to_save": ["score"]}, "it holds whole modules beside LoRA (modules_to_save)"),
        (
            {"target_parameters": ["experts.down_proj"]},
            "it targets parameters of fused experts (target_parameters), which vLLM may drop silently",
        ),
        ({"rank_pattern": {"q_proj": 4}}, "its ranks differ between layers (rank_pattern)"),
        ({"alpha_pattern": {"q_proj": 4}}, "its scales differ between layers (alpha_pattern)"),
        ({"lora_bias": True}, "it trains biases (lora_bias)"),
        ({"bias": "all"}, "it trains biases (bias='all')"),
        ({"target_modules": []}, "it targets no module by name"),
    ],
)
def test_what_vllm_refuses_is_said(change: dict[str, Any], why: str) -> None:
    assert deployment({**CONFIG, **change}, LAYERS, "m", "a") == {
        "server": "vllm",
        "loads": False,
        "why_not": [why],
        "command": None,
        "exact": None,
    }


@pytest.mark.parametrize(
    ("model_type", "name", "why"),
    [
        ("gpt2", "q_proj", "its base model is of type gpt2, for which vLLM 0.33 has no LoRA"),
        (
            "glm4",
            "gate_up_proj",
            "it targets gate_up_proj, which vLLM 0.33 takes for several layers in models of type glm4",
        ),
        (
            "qwen3_5",
            "q_proj",
            "its base model is of type qwen3_5, of which the text part alone was trained: vLLM 0.33 has that at other "
            "paths, and leaves the adapter out without a word",
        ),
        ("qwen3_5_text", "q_proj", None),
        ("gemma3", "q_proj", None),
        ("bamba", "q_proj", "its base model is of type bamba, which vLLM 0.33 does not serve"),
        (
            "granitemoeshared",
            "input_linear",
            "it targets input_linear, which vLLM 0.33 takes for several layers in models of type granitemoeshared",
        ),
        (
            "laguna",
            "shared_experts.up_proj",
            "it targets layers of shared_experts, which vLLM 0.33 has at other paths in models of type laguna, and "
            "leaves out without a word",
        ),
        ("laguna", "up_proj", None),
        (
            "deepseek_v3",
            "kv_b_proj",
            "it targets kv_b_proj, whose weight vLLM 0.33 takes into its attention, without an adapter's",
        ),
        ("deepseek_v3", "q_b_proj", None),
        ("minicpm3", "kv_b_proj", None),
        ("glm4", "q_proj", None),
        ("phi3", "gate_up_proj", None),
        (None, "gate_up_proj", None),
    ],
)
def test_types_that_vllm_has_no_lora_for_are_refused(model_type: str | None, name: str, why: str | None) -> None:
    found = deployment(CONFIG, [f"model.layers.0.mlp.{name}"], "m", "a", model_type=model_type)
    assert found["why_not"] == ([why] if why else [])


@pytest.mark.parametrize(("name", "loads"), [("llama", True), ("mixtral", False)])
def test_real_configurations(zoo: Zoo, name: str, loads: bool, tmp_path: Path) -> None:
    space = zoo.space(name)
    write_random_adapter(zoo.folder(name), space, all_groups(space), 0, tmp_path)
    assert deployment(adapter_config(tmp_path), adapted_layers(tmp_path), "m", "a")["loads"] is loads


def test_a_rank_of_one_layer_is_a_placement_that_loads(zoo: Zoo, tmp_path: Path) -> None:
    write_random_adapter(zoo.folder("llama"), zoo.space("llama"), Placement.of(["o_proj"], 4), 0, tmp_path)
    found = deployment(adapter_config(tmp_path), adapted_layers(tmp_path), "m", "a")
    assert "--lora-target-modules o_proj --lora-modules" in found["command"]


def test_a_band_is_served_by_the_layers_that_it_has(tmp_path: Path) -> None:
    """From twenty targets on PEFT keeps the ends of paths alone, such as 11.mlp.up_proj."""
    LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=12, num_attention_heads=4).save_pretrained(
        tmp_path / "model"
    )
    config = load_config(tmp_path / "model")
    space = module_space(meta_model(config, "causal"), config, "causal", bands=3)
    last = [group.name for group in space.groups if group.name.endswith("@last")]
    write_random_adapter(tmp_path / "model", space, Placement.of(last, 4), 0, tmp_path / "adapter")
    layers = adapted_layers(tmp_path / "adapter")
    assert layers == sorted(path for name in last for path in space.group(name).paths)
    targets = wrapped(deployment(adapter_config(tmp_path / "adapter"), layers, "m", "a", model_type="llama"))
    assert {path for path in targets if path.endswith(("qkv_proj", "gate_up_proj", "o_proj", "down_proj"))} == {
        f"model.layers.{i}.{place}"
        for i in range(8, 12)
        for place in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    }
    assert {*targets} >= {*layers}


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(RequestError, match=rf"^adapter {tmp_path}/{WEIGHTS} cannot be read \(.+\): train it again$"):
        adapted_layers(tmp_path)

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from objectives.latency.deployment import deployment, wrapped_names
from objectives.latency.server import write_random_adapter
from objectives.placement import Placement
from tests.objectives.tiny import Zoo, all_groups

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "o_proj"]}


def test_the_command_wraps_what_is_adapted_and_nothing_else() -> None:
    found = deployment(CONFIG, "my models/llama", "tickets")
    assert (found["server"], found["loads"], found["why_not"]) == ("vllm", True, [])
    assert shlex.split(found["command"]) == [
        "vllm", "serve", "my models/llama", "--enable-lora", "--max-lora-rank", "8",
        "--lora-target-modules", "o_proj", "q_proj", "qkv_proj", "--lora-modules", "tickets=.",
    ]  # fmt: skip


@pytest.mark.parametrize(("rank", "served"), [(1, "1"), (4, "8"), (16, "16"), (20, "32"), (512, "512")])
def test_the_rank_is_the_next_that_vllm_takes(rank: int, served: str) -> None:
    words = shlex.split(deployment({**CONFIG, "r": rank}, "m", "a")["command"])
    assert words[words.index("--max-lora-rank") + 1] == served


def test_fused_layers_are_named_too() -> None:
    assert wrapped_names(["gate_proj", "down_proj"]) == ["down_proj", "gate_proj", "gate_up_proj"]
    assert wrapped_names(["c_attn"]) == ["c_attn"]


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
        ({"target_modules": ".*proj"}, "its targets are a pattern, not a list of names"),
        (
            {"target_modules": ["model.layers.0.self_attn.q_proj"]},
            "its targets are paths of single layers, which have other names in vLLM",
        ),
        ({"target_modules": []}, "it targets no module by name"),
    ],
)
def test_what_vllm_refuses_is_said(change: dict[str, Any], why: str) -> None:
    assert deployment({**CONFIG, **change}, "m", "a") == {
        "server": "vllm",
        "loads": False,
        "why_not": [why],
        "command": None,
    }


@pytest.mark.parametrize(("name", "loads"), [("llama", True), ("mixtral", False)])
def test_real_configurations(zoo: Zoo, name: str, loads: bool, tmp_path: Path) -> None:
    space = zoo.space(name)
    write_random_adapter(zoo.folder(name), space, all_groups(space), 0, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert deployment(config, "m", "a")["loads"] is loads


def test_a_rank_of_one_layer_is_a_placement_that_loads(zoo: Zoo, tmp_path: Path) -> None:
    write_random_adapter(zoo.folder("llama"), zoo.space("llama"), Placement.of(["o_proj"], 4), 0, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert "--lora-target-modules o_proj --lora-modules" in deployment(config, "m", "a")["command"]

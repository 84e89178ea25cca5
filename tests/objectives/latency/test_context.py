"""What a kept profile must agree in: the machine, the model's computation, the layers behind a name."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, LlamaConfig, MistralConfig, PreTrainedConfig

from objectives.latency import context
from objectives.latency.context import in_process_facts, processor, profile_context
from objectives.latency.settings import LatencySettings
from objectives.model import meta_model
from objectives.modules import ModuleSpace, module_space

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
FACTS = {"engine": "transformers", "device": "none"}


def space_of(config: PreTrainedConfig, bands: int = 1) -> ModuleSpace:
    return module_space(meta_model(config, "causal"), config, "causal", bands)


def context_of(config: PreTrainedConfig, bands: int = 1) -> str:
    return profile_context(space_of(config, bands), FACTS, LatencySettings())


@pytest.mark.parametrize(
    "other",
    [
        LlamaConfig(**SIZES | {"num_attention_heads": 32, "num_key_value_heads": 32}, head_dim=1),
        LlamaConfig(**SIZES, hidden_act="gelu"),
        MistralConfig(**SIZES, sliding_window=8),
    ],
    ids=["heads", "activation", "window"],
)
def test_equal_shapes_that_compute_otherwise_share_no_profile(other: PreTrainedConfig) -> None:
    first = LlamaConfig(**SIZES)
    assert space_of(first).structure == space_of(other).structure
    assert context_of(first) != context_of(other)


@pytest.mark.parametrize(
    "change",
    [
        {"name_or_path": "elsewhere"},
        {"id2label": {0: "no", 1: "yes", 2: "perhaps"}},
        {"eos_token_id": 7},
        {"attention_dropout": 0.5},
        {"dtype": "bfloat16"},
        {"architectures": ["Another"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_names_labels_and_training_are_no_computation(change: dict[str, Any]) -> None:
    assert context_of(LlamaConfig(**SIZES)) == context_of(LlamaConfig(**SIZES, **change))


def test_what_was_measured_in_another_way_is_not_taken_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's TPOT was a fifth of what it is, and searches went on to take it from the catalog."""
    now = context_of(LlamaConfig(**SIZES))
    monkeypatch.setattr(context, "_METHOD", context._METHOD - 1)
    assert context_of(LlamaConfig(**SIZES)) != now


def test_the_labels_of_a_task_are_no_other_encoder() -> None:
    """`latency` knows of no task: of its profiles of an encoder a search took none but with two labels."""

    def space(labels: int, width: int = 32) -> ModuleSpace:
        sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 64}
        config = BertConfig(**sizes, hidden_size=width)
        return module_space(meta_model(config, "encoder", labels), config, "encoder")

    two, six, wide = (profile_context(each, FACTS, LatencySettings()) for each in (space(2), space(6), space(6, 64)))
    assert two == six != wide
    assert space(2).structure != space(6).structure


def test_bands_of_equal_names_share_no_profile() -> None:
    """The first of two bands and the first of three are other layers."""
    config = LlamaConfig(**SIZES | {"num_hidden_layers": 6})
    two, three = (space_of(config, bands).group("q_proj@first") for bands in (2, 3))
    assert (two.layers, three.layers) == (3, 2)
    assert len({context_of(config, bands) for bands in (1, 2, 3)}) == 3
    assert context_of(config, 2) == context_of(config, 2)


def test_a_cpu_is_known_by_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On x86 Linux Python knows but ``x86_64`` of it, so that machines of a shared home took each other's profiles."""
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(context, "_CPUINFO", cpuinfo)
    cpuinfo.write_text("processor\t: 0\nmodel\t\t: 1\nmodel name\t: Some  CPU: 9 @ 2GHz\n\nmodel name\t: other\n")
    assert processor() == "Some CPU: 9 @ 2GHz"
    assert in_process_facts(torch.device("cpu"), torch.float32)["device"] == "cpu Some CPU: 9 @ 2GHz"
    known = platform.processor() or platform.machine()
    arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: {}\n"  # Graviton 2 and 3
    for part in ("0xd0c", "0xd40"):
        cpuinfo.write_text(arm.format(part))
        assert processor() == f"{known}, CPU implementer 0x41, CPU part {part}"
    cpuinfo.unlink()
    assert processor() == known

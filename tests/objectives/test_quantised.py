"""Quantised weights: what stands in their way is said before workers are started."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from objectives.errors import ModelError
from objectives.model import load_config, load_model
from objectives.quantised import check_quantised
from tests.objectives.tiny import Zoo

PACKAGES = [
    ("optimum", {"quant_method": "gptq", "bits": 4, "group_size": 32}),
    ("gptqmodel", {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}),
    ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
]


@pytest.fixture
def folder(zoo: Zoo, tmp_path: Path) -> Path:
    """Of a model, whose weights are not quantised."""
    for file in zoo.folder("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def quantise(folder: Path, how: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": how}))


@pytest.mark.parametrize(("package", "how"), PACKAGES)
def test_weights_that_need_a_package_are_not_downloaded_again(folder: Path, package: str, how: dict[str, Any]) -> None:
    """It is said before any of them is loaded, and where one is."""
    if importlib.util.find_spec(package) is not None:
        pytest.skip("the package is there")
    quantise(folder, how)
    with pytest.raises(ModelError) as refusal:
        check_quantised(load_config(folder), folder)
    said = str(refusal.value)
    assert said.startswith(f"{folder} cannot be loaded (")
    assert package in said
    assert said.endswith("): install that package, or choose another model.")
    with pytest.raises(ModelError) as late:
        load_model(folder, "causal", torch.float32, "cpu")
    assert str(late.value) == said


@pytest.mark.parametrize("said_in", ["config.json", "hf_quant_config.json"])
def test_weights_that_transformers_would_take_without_their_scales(folder: Path, said_in: str) -> None:
    """As those of NVIDIA's ModelOpt: each would be off by a factor of its own, and nothing would say so."""
    if said_in == "config.json":
        quantise(folder, {"quant_method": "modelopt", "quant_algo": "FP8"})
    else:
        (folder / said_in).write_text('{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}')
    with pytest.raises(ModelError) as refusal:
        check_quantised(load_config(folder), folder)
    assert str(refusal.value) == (
        f"{folder} is quantised by 'modelopt', which transformers cannot read: give the checkpoint that it was made "
        "from."
    )


@pytest.mark.parametrize("how", [{"quant_method": "metal"}, {"quant_method": "fp8"}, {}])
def test_what_else_quantised_weights_lack_is_left_to_those_that_load_them(folder: Path, how: dict[str, Any]) -> None:
    """The machine that begins a search on a cluster may have no GPU."""
    quantise(folder, how)
    check_quantised(load_config(folder), folder)


def test_what_is_not_quantised_passes(folder: Path) -> None:
    check_quantised(LlamaConfig(), folder)

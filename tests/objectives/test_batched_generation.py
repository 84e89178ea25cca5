"""A text that is generated does not depend on the prompts that share its batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM

from objectives.batched_generation import rows_keep_apart
from objectives.errors import ModelError
from objectives.latency import LatencySettings
from objectives.latency.in_process import TransformersEngine
from objectives.model import load_config, meta_model
from objectives.modules import module_space
from objectives.placement import BASE
from objectives.workbench import Workbench
from tests.objectives.test_workbench import assignment
from tests.objectives.tiny import CAUSAL, Zoo, make_blt, make_task, make_tokenizer


@pytest.fixture
def rwkv(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = RwkvConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, bos_token_id=0, eos_token_id=1)
    model = RwkvForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path / "rwkv")
    make_tokenizer().save_pretrained(tmp_path / "rwkv")
    return tmp_path / "rwkv"


@pytest.mark.parametrize("name", CAUSAL)
def test_rows_of_most_models_keep_apart(zoo: Zoo, name: str) -> None:
    assert rows_keep_apart(zoo.base(name), 2)
    assert rows_keep_apart(zoo.copy(name).bfloat16(), 2)


def test_a_model_that_mixes_rows_generates_from_each_alone(zoo: Zoo, rwkv: Path, tmp_path: Path) -> None:
    config = load_config(rwkv)
    task = replace(make_task(zoo, "llama", "generation"), max_new_tokens=6)
    space = module_space(meta_model(config, "causal"), config, "causal")
    given = assignment(zoo, "llama", tmp_path, model=rwkv, space=space, task=task, metric="rouge_l")
    bench = Workbench(given)
    assert not rows_keep_apart(bench.base, task.pad_id)
    together = bench.evaluate(bench.base, "test").predictions
    for row, text in zip(task.splits["test"], together, strict=True):
        one = Workbench(replace(given, task=replace(task, splits={"test": [row]})))
        assert one.evaluate(one.base, "test").predictions == (text,)


def test_a_model_that_raises_for_padding_generates_from_each_row_alone(zoo: Zoo) -> None:
    model = zoo.copy("llama")

    def refuse(_: torch.nn.Module, _args: object, inputs: dict[str, torch.Tensor]) -> None:
        if (inputs["input_ids"] == 2).any():
            raise RuntimeError("The size of tensor a (24) must match the size of tensor b (12)")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    assert not rows_keep_apart(model, 2)


def test_a_model_that_reads_padding_once_it_goes_on_generates_from_each_row_alone(zoo: Zoo) -> None:
    """Its prompts are all right: what it keeps of them is not."""
    model = zoo.copy("llama")

    def forget(_: torch.nn.Module, args: object, inputs: dict[str, Any]) -> tuple[object, dict[str, Any]]:
        goes_on = inputs["input_ids"].shape[1] == 1
        return args, inputs | ({"attention_mask": None} if goes_on else {})

    model.register_forward_pre_hook(forget, with_kwargs=True)
    assert not rows_keep_apart(model, 2)


def test_a_model_that_generates_nothing_is_refused_in_a_sentence() -> None:
    model = make_blt()
    engine = TransformersEngine(model, module_space(model, model.config, "causal"), LatencySettings())
    for use in (lambda: rows_keep_apart(model, 2), lambda: engine.open(BASE, 0)):
        with pytest.raises(ModelError) as caught:
            use()
        assert str(caught.value) == (
            "model type 'blt' does not generate token by token in this version of transformers (AttributeError: "
            "'BltConfig' object has no attribute 'num_hidden_layers'): choose another model"
        )

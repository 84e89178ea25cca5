"""A text that is generated does not depend on the prompts that share its batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM

from objectives.batched_generation import rows_keep_apart
from objectives.model import load_config, meta_model
from objectives.modules import module_space
from objectives.workbench import Workbench
from tests.objectives.test_workbench import assignment
from tests.objectives.tiny import CAUSAL, Zoo, make_task, make_tokenizer


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

"""Models that see ahead are told from those that do not, by what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertGenerationConfig,
    PreTrainedConfig,
    XLNetConfig,
)

from objectives.causality import sees_ahead
from objectives.errors import ModelError
from objectives.workbench import Workbench
from tests.objectives.test_workbench import assignment
from tests.objectives.tiny import CAUSAL, VOCABULARY, Zoo

AHEAD = {
    "xlnet": lambda: XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=48),
    "bert-generation": lambda: BertGenerationConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    ),
}


def made(config: PreTrainedConfig) -> Any:
    """Larger than the usual initialisation, with which tokens hardly see each other; trained models do."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


@pytest.mark.parametrize("name", AHEAD)
def test_attention_both_ways_is_seen(name: str) -> None:
    config = AHEAD[name]()
    assert type(config) in AutoModelForCausalLM._model_mapping, "what transformers says of it"
    assert sees_ahead(made(config))


def test_a_decoder_of_the_same_type_is_causal() -> None:
    config = AHEAD["bert-generation"]()
    config.is_decoder = True
    assert not sees_ahead(made(config))


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_models_are_taken_for_what_they_are(zoo: Zoo, name: str, dtype: torch.dtype) -> None:
    assert not sees_ahead(zoo.copy(name).to(dtype))


def test_a_model_without_numbers_is_left_to_who_says_so(zoo: Zoo) -> None:
    model = zoo.copy("llama")
    model.lm_head.weight.data.fill_(torch.nan)
    assert not sees_ahead(model)


def test_a_worker_refuses_it(zoo: Zoo, tmp_path: Path) -> None:
    config = AHEAD["bert-generation"]()
    made(config).save_pretrained(tmp_path / "model")
    zoo.tokenizer("llama").save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"is no causal language model: .* or set is_decoder in its config\.json"):
        Workbench(assignment(zoo, "llama", tmp_path, model=tmp_path / "model"))

"""Another model is another one, however its folder is called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from objectives.fingerprint import model_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=1, **sizes)).save_pretrained(tmp_path)
    return tmp_path


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes, indent=1))


def test_who_wrote_it_does_not_count(folder: Path) -> None:
    before = model_digest(folder)
    configure(folder, transformers_version="0.0", _name_or_path="elsewhere")
    assert model_digest(folder) == before


@pytest.mark.parametrize("change", [{"num_attention_heads": 8}, {"rms_norm_eps": 0.5}, {"tie_word_embeddings": True}])
def test_what_is_computed_with_the_weights_counts(folder: Path, change: dict[str, Any]) -> None:
    before = model_digest(folder)
    configure(folder, **change)
    assert model_digest(folder) != before


@pytest.mark.parametrize(
    "name",
    [
        *("tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model", "spm.model"),
        # With another end of sequence, or another template, rows are others, whatever the pieces.
        *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    ],
)
def test_the_tokenizer_counts(folder: Path, name: str) -> None:
    found = {model_digest(folder)}
    for text in ("a", "b"):
        (folder / name).write_text(text)
        found.add(model_digest(folder))
    assert len(found) == 3


def test_weights_that_were_trained_count(folder: Path) -> None:
    before = model_digest(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor + torch.tensor(1e-3) for name, tensor in weights.items()}, folder / "model.safetensors")
    assert model_digest(folder) != before


@pytest.mark.parametrize("at", [0, 8192], ids=["beginning", "middle"])
def test_one_number_that_is_read_counts(tmp_path: Path, at: int) -> None:
    """Of a tensor of 64 KiB 4 KiB are read at each place; fine-tuning may move few rows of an embedding alone."""
    (tmp_path / "config.json").write_text("{}")
    weights = {"embed": torch.zeros(16_384), "last": torch.ones(4)}
    save_file(weights, tmp_path / "model.safetensors")
    before = model_digest(tmp_path)
    for name, place in (("embed", at), ("embed", at + 1023), ("last", 3)):
        changed = {key: tensor.clone() for key, tensor in weights.items()}
        changed[name][place] = 2
        save_file(changed, tmp_path / "model.safetensors")
        assert model_digest(tmp_path) != before


def test_the_name_of_a_tensor_counts_and_dropout_does_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"attention_dropout": 0.1, "use_cache": true}')
    save_file({"a": torch.ones(4)}, tmp_path / "model.safetensors")
    before = model_digest(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert model_digest(tmp_path) == before
    save_file({"b": torch.ones(4)}, tmp_path / "model.safetensors")
    assert model_digest(tmp_path) != before

"""What of an encoder is trained anew for the classes of a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    PerceiverConfig,
    PerceiverForMaskedLM,
    PerceiverForSequenceClassification,
    T5Config,
    T5EncoderModel,
)

from objectives.errors import ModelError
from objectives.heads import head_parameters, head_parameters_of
from objectives.model import load_model, meta_model

BERT = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)


@pytest.mark.parametrize(
    ("made", "new"),
    [(BertForMaskedLM, ["bert.pooler", "classifier"]), (BertForSequenceClassification, ["classifier"])],
)
def test_an_encoder_gets_a_new_head_with_named_classes(made: Any, new: list[str], tmp_path: Path) -> None:
    """And a pooler, if the checkpoint was trained without; how much that is can be told before it is loaded."""
    made(BERT).save_pretrained(tmp_path)
    model = load_model(tmp_path, "encoder", torch.float32, "cpu", labels=["no", "maybe", "yes"])
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert model.new_modules == new
    structure = meta_model(model.config, "encoder", 3)
    assert head_parameters_of(structure, tmp_path) == head_parameters(model) == 3 * 33 + (len(new) - 1) * 32 * 33
    structure.base_model_prefix = "body"  # as in code of a model's own
    assert head_parameters_of(structure, tmp_path) == head_parameters(model)
    flat = torch.nn.ModuleDict({"words": torch.nn.Embedding(64, 32), "classifier": torch.nn.Linear(32, 3)})
    flat.base_model_prefix = "body"
    assert head_parameters_of(flat, tmp_path) == 0, "not all weights are those of a head"


def test_a_body_of_another_shape_than_the_configuration_s_is_refused(tmp_path: Path) -> None:
    """Heads may differ in shape, and are new then; words whose embeddings are drawn anew mean nothing."""
    BertForMaskedLM(BERT).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 70}))
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path, "encoder", torch.float32, "cpu", labels=["a", "b"])
    assert "lacks the weights of bert.embeddings.word_embeddings.weight" in str(caught.value)


@pytest.mark.parametrize("labels", [["no", "maybe", "yes"], ["no", "yes"]])
def test_a_body_of_another_name_is_no_head(labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As code of a model's own may have it: all of the model would be trained and kept with every adapter.

    Its head is another task's too, be it of as many classes.
    """
    BertForSequenceClassification(BERT).save_pretrained(tmp_path)
    monkeypatch.setattr(BertForSequenceClassification, "base_model_prefix", "body")
    model = load_model(tmp_path, "encoder", torch.float32, "cpu", labels=labels)
    assert model.new_modules == ["classifier"]


def test_a_body_of_another_name_whose_weights_are_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was drawn anew, and trained with every adapter as if it were a head."""
    BertForSequenceClassification(BERT).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {name.replace("bert.", "backbone."): weight for name, weight in weights.items()}
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr(BertForSequenceClassification, "base_model_prefix", "body")
    with pytest.raises(ModelError, match=r"lacks the weights of bert\.embeddings\.LayerNorm\.bias and \d+ more: "):
        load_model(tmp_path, "encoder", torch.float32, "cpu", labels=["no", "yes"])


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["a", "b"]])
def test_a_head_is_trained_anew_also_where_the_checkpoint_has_one_of_that_size(
    labels: list[str], tmp_path: Path
) -> None:
    """As of a model of natural language inference, with three classes."""
    small = BartConfig(
        vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, num_labels=3,
    )  # fmt: skip
    BartForSequenceClassification(small).save_pretrained(tmp_path)
    model = load_model(tmp_path, "encoder", torch.float32, "cpu", labels=labels)
    assert model.new_modules == ["classification_head"]


@pytest.mark.parametrize("made", [PerceiverForMaskedLM, PerceiverForSequenceClassification])
def test_the_head_of_perceiver_is_a_decoder_within_its_body(made: Any, tmp_path: Path) -> None:
    config = PerceiverConfig(
        num_latents=4, d_latents=16, d_model=16, num_blocks=1, num_self_attends_per_block=2, num_self_attention_heads=2,
        num_cross_attention_heads=2, vocab_size=64, max_position_embeddings=32, qk_channels=16, v_channels=16,
    )  # fmt: skip
    made(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, "encoder", torch.float32, "cpu", labels=["a", "b"])
    assert model.new_modules == ["perceiver.decoder"]
    assert head_parameters_of(meta_model(config, "encoder", 2), tmp_path) == head_parameters(model) > 0


def test_the_encoder_alone_of_an_encoder_decoder_is_named(tmp_path: Path) -> None:
    """As checkpoints for sentence embeddings are."""
    T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path, "encoder", torch.float32, "cpu", labels=["a", "b"])
    end = " more: as T5EncoderModel it has no decoder; give the model that it was made from."
    assert str(caught.value).endswith(end)

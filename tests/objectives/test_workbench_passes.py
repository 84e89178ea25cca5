"""Which rows go through a bench's model together: no more than it keeps apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    FNetConfig,
    FNetForSequenceClassification,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    RwkvConfig,
    RwkvForCausalLM,
)

from objectives.accuracy import evaluate
from objectives.backbone import attach
from objectives.model import kind_of, load_config, meta_model
from objectives.modules import module_space
from objectives.training import TrainingSettings, train
from objectives.workbench import Assignment, Request, Workbench
from tests.objectives.test_workbench import assignment
from tests.objectives.tiny import Zoo, all_groups, make_task, make_tokenizer, make_word_tokenizer


def of_its_own(zoo: Zoo, model: Any, tmp_path: Path) -> Assignment:
    """A step of training, on rows of many lengths."""
    model.save_pretrained(tmp_path / "model")
    config = load_config(tmp_path / "model")
    kind = kind_of(config)
    (make_word_tokenizer() if kind == "encoder" else make_tokenizer()).save_pretrained(tmp_path / "model")
    return assignment(
        zoo,
        "bert",
        tmp_path,
        model=tmp_path / "model",
        space=module_space(meta_model(config, kind, 3), config, kind),
        task=make_task(zoo, "bert") if kind == "encoder" else make_task(zoo, "llama", "generation"),
        training=TrainingSettings(steps=1, batch_size=36),
        uses_gpu=False,
    )


def test_an_encoder_that_takes_padding_in_gets_rows_of_one_length(zoo: Zoo, tmp_path: Path) -> None:
    config = FNetConfig(vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_labels=3)
    given = of_its_own(zoo, FNetForSequenceClassification(config), tmp_path)
    bench = Workbench(given)
    outcome = bench.measure([Request(all_groups(given.space), "0", {"ratio": 1.2})])[0]
    apart, mixed = (
        train(
            attach(bench.base, given.space, all_groups(given.space), seed=0).get_base_model(),
            given.task,
            given.training,
            together=together,
        ).losses
        for together in (False, True)
    )
    assert outcome["measurement"]["losses"] == apart != mixed
    apart, mixed = (
        evaluate(bench.base, given.task, "test", metric="accuracy", together=together) for together in (False, True)
    )
    assert bench.evaluate(bench.base, "test") == apart != mixed


def test_an_encoder_that_classifies_by_the_last_token_of_a_text_knows_the_padding(zoo: Zoo, tmp_path: Path) -> None:
    """From the tokenizer, whatever the configuration says."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Gemma3TextConfig(
        vocab_size=320, num_key_value_heads=2, head_dim=8, use_bidirectional_attention=True, pad_token_id=7, **sizes
    )
    assert Workbench(of_its_own(zoo, Gemma3TextForSequenceClassification(config), tmp_path)).together


def test_a_model_that_mixes_the_rows_of_a_batch_generates_one_by_one(zoo: Zoo, tmp_path: Path) -> None:
    config = RwkvConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2, bos_token_id=0, eos_token_id=1)
    assert not Workbench(of_its_own(zoo, RwkvForCausalLM(config), tmp_path)).together

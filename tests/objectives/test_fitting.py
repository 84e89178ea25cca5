"""Rows as a model takes them: of tokens that it has, with one end of sequence where it classifies by that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    CanineConfig,
    LlamaConfig,
    MBartTokenizer,
    Phi3Config,
    T5GemmaConfig,
)

from objectives.accuracy import evaluate
from objectives.encoding import encode
from objectives.errors import ModelError
from objectives.fitting import ended_once, with_position_doubt, within_vocabulary
from tests.objectives.tiny import VOCABULARY, Zoo, make_data, make_task, make_tokenizer

BOS, EOS, PAD = 0, 1, 2
ROWS = [("the cat <s>sat</s> on the mat", "location"), ("who wrote this book?", "person")]


def bart(**tokens: int) -> BartConfig:
    width = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    depth = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return BartConfig(vocab_size=VOCABULARY, num_labels=2, **tokens, **width, **depth)


def test_an_encoder_decoder_finds_one_end_of_sequence_whatever_a_text_holds() -> None:
    task = encode(make_data("classification", {"train": ROWS}), make_tokenizer(behind=True), "encoder", max_tokens=64)
    config = bart(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)
    fitted = ended_once(task, config)
    assert [row.prompt.count(EOS) for row in fitted.splits["test"]] == [1, 1]
    assert fitted.splits["test"][1] == task.splits["test"][1]
    assert len(evaluate(BartForSequenceClassification(config).eval(), fitted, "test", metric="accuracy").scores) == 2
    assert ended_once(task, LlamaConfig()) is task, "two texts can be parted by it for RoBERTa"


def test_an_end_of_sequence_need_not_be_the_last_token() -> None:
    """mBART's tokenizer has the language behind it."""
    vocabulary = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz?\u2581")]
    tokenizer = MBartTokenizer(vocab=vocabulary, src_lang="en_XX")
    task = encode(make_data("classification", {"train": ROWS}), tokenizer, "encoder", max_tokens=64)
    config = bart(bos_token_id=0, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    fitted = ended_once(task, config)
    language = tokenizer.convert_tokens_to_ids("en_XX")
    assert [row.prompt[-2:] for row in fitted.splits["test"]] == [[tokenizer.eos_token_id, language]] * 2
    assert fitted.splits["test"][1] == task.splits["test"][1]
    assert len(evaluate(BartForSequenceClassification(config).eval(), fitted, "test", metric="accuracy").scores) == 2


def test_an_end_of_sequence_that_a_tokenizer_leaves_out_is_added() -> None:
    text = "who wrote this book?"
    rows = [(text, "person"), (" ".join([text] * 8), "location")]
    task = encode(make_data("classification", {"train": rows}), make_tokenizer(), "encoder", max_tokens=24)
    short, cut = ended_once(task, bart(eos_token_id=EOS)).splits["test"]
    before = task.splits["test"]
    assert short.prompt == [*before[0].prompt, EOS]
    assert cut.prompt == [*before[1].prompt[:23], EOS], "a model of 24 positions has no more"


@pytest.mark.parametrize("ends", [None, [1, 107]])
def test_a_model_of_several_ends_classifies_by_none(ends: list[int] | None) -> None:
    """T5Gemma, as it was tuned for chats."""
    task = encode(make_data("classification", {"train": ROWS}), make_tokenizer(), "encoder", max_tokens=24)
    assert ended_once(task, T5GemmaConfig(eos_token_id=ends)) == task


def test_a_pad_token_that_was_added_without_resizing_the_model_is_replaced(zoo: Zoo) -> None:
    """A causal model never sees it; an encoder would."""
    task = replace(make_task(zoo, "llama"), pad_id=VOCABULARY)
    fitted = within_vocabulary(task, LlamaConfig(vocab_size=VOCABULARY), Path("llama"))
    assert fitted == replace(task, pad_id=0)
    with pytest.raises(ModelError, match=f"its tokenizer gives token {VOCABULARY} where the model has {VOCABULARY}"):
        within_vocabulary(replace(task, kind="encoder"), LlamaConfig(vocab_size=VOCABULARY), Path("bert"))


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_tokenizer_of_another_model_is_refused(zoo: Zoo, kind: Any) -> None:
    task = replace(make_task(zoo, "llama"), kind=kind)
    assert within_vocabulary(task, LlamaConfig(vocab_size=VOCABULARY), Path("llama")) is task
    assert within_vocabulary(task, CanineConfig(), Path("canine")) is task, "it has no vocabulary"
    largest = max(max(row.prompt) for split in task.splits.values() for row in split)
    with pytest.raises(ModelError) as refusal:
        within_vocabulary(task, LlamaConfig(vocab_size=largest), Path("llama"))
    assert str(refusal.value) == (
        f"llama: its tokenizer gives token {largest} where the model has {largest}: restore the tokenizer files that "
        "belong to this model"
    )


def test_a_completion_may_have_the_token_that_a_model_does_not(zoo: Zoo) -> None:
    """No prompt need have it: an added end of a turn stands behind answers alone."""
    task = make_task(zoo, "llama", "generation")
    row = task.splits["train"][0]
    task = replace(task, splits={"train": [replace(row, completion=[*row.completion, VOCABULARY])]})
    with pytest.raises(ModelError, match=f"gives token {VOCABULARY} where the model has {VOCABULARY}: restore"):
        within_vocabulary(task, LlamaConfig(vocab_size=VOCABULARY), Path("llama"))


def test_positions_that_depend_on_the_length_of_rows_are_told(zoo: Zoo) -> None:
    task = make_task(zoo, "llama")
    longest = max(len(row.prompt) + task.max_new_tokens for split in task.splits.values() for row in split)

    def config(most: int) -> Phi3Config:
        factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
        sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 256}
        return Phi3Config(**sizes, original_max_position_embeddings=most, rope_scaling={"type": "longrope"} | factors)

    (within,) = with_position_doubt(task, config(longest)).doubts
    assert within == (
        f"the model has other positions for rows of more than {longest} tokens (LongRoPE), which none has here, and "
        f"vLLM gives them to all rows: start it with --max-model-len {longest} to serve what was measured"
    )
    (beyond,) = with_position_doubt(task, config(longest - 1)).doubts
    assert beyond == (
        f"the model has other positions for rows of more than {longest - 1} tokens (LongRoPE), and gives them to all "
        f"rows of a batch with such a row: --max-tokens {longest - 1} has all rows read alike, and vLLM reads them so "
        f"with --max-model-len {longest - 1}"
    )
    assert with_position_doubt(task, LlamaConfig()) is task

"""Text to token ids for an encoder, which reads it alone."""

from __future__ import annotations

from typing import Any

import pytest

from objectives.encoding import encode
from objectives.errors import RequestError
from tests.objectives.test_encoding import QUESTIONS
from tests.objectives.tiny import make_data, make_tokenizer, make_word_tokenizer


def test_an_encoder_takes_no_template() -> None:
    data = make_data("classification", {"train": QUESTIONS})
    with pytest.raises(RequestError) as caught:
        encode(data, make_tokenizer(), "encoder", max_tokens=64, template="Q: {text}")
    assert str(caught.value) == (
        "--template 'Q: {text}' is for causal models, and this is an encoder, which reads the text alone: leave it out"
    )


def test_an_encoder_reads_the_text_alone_with_its_own_special_tokens() -> None:
    tokenizer = make_word_tokenizer()
    long = "the cat sat on the mat. " * 20
    task = encode(
        make_data("classification", {"train": [*QUESTIONS, (long, "person")]}), tokenizer, "encoder", max_tokens=16
    )
    for row, (text, label) in zip(task.splits["train"][:2], QUESTIONS, strict=True):
        assert row.prompt == tokenizer(text)["input_ids"]
        assert row.completion == []
        assert task.labels[row.label] == label
    cut = task.splits["train"][2].prompt
    assert len(cut) == 16
    assert (cut[0], cut[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert task.cut_prompts == {"train": 1, "validation": 1, "test": 1}
    assert task.notes()[0] == (
        "train: 1 of 3 inputs cut, so that the prompt has 16 tokens (--max-tokens, or the model's context)"
    )
    assert (task.kind, task.label_ids, task.eos_id, task.pad_id) == ("encoder", (), None, tokenizer.pad_token_id)


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_tokenizer_that_cuts_at_the_beginning_does_so_for_an_encoder_which_pipelines_cut_with_it(kind: Any) -> None:
    """A causal model gets its prompt from here and from the lines of the model card, which both cut at the end."""
    tokenizer = make_word_tokenizer()
    tokenizer.truncation_side = "left"
    data = make_data("classification", {"train": [("who is the cat on the mat", "no"), ("book", "yes")]})
    prompt = encode(data, tokenizer, kind, max_tokens=5, template=None if kind == "encoder" else "{text}")
    kept = {"causal": "who is the", "encoder": "on the mat"}[kind]
    found = tokenizer.decode(prompt.splits["train"][0].prompt, skip_special_tokens=True)
    assert found.replace(" ##", "") == kept


def test_of_an_encoder_too_one_token_too_many_is_a_cut_and_one_less_is_none() -> None:
    tokenizer = make_word_tokenizer()
    data = make_data("classification", {"train": [("the cat", "no"), ("the cat sat", "yes"), ("book", "yes")]})
    assert [len(row) for row in tokenizer([row.text for row in data.splits["train"]])["input_ids"]] == [4, 5, 3]
    assert encode(data, tokenizer, "encoder", max_tokens=4).cut_prompts["train"] == 1


def test_no_room_for_the_text_of_an_encoder_is_refused() -> None:
    """Else all rows were the same: its special tokens."""
    data, tokenizer = make_data("classification", {"train": QUESTIONS}), make_word_tokenizer()
    with pytest.raises(RequestError) as caught:
        encode(data, tokenizer, "encoder", max_tokens=2)
    assert str(caught.value) == (
        "2 tokens (--max-tokens, or the model's context) leave no room for the text beside the tokenizer's own (2): "
        "raise --max-tokens, or choose a model of a longer context"
    )
    assert len({tuple(row.prompt) for row in encode(data, tokenizer, "encoder", max_tokens=3).splits["train"]}) == 2

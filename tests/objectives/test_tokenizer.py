"""The tokenizer of a folder, whatever else is installed, and where the folder says that answers end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, PreTrainedTokenizerFast

from objectives.errors import ModelError
from objectives.tokenizer import answer_ends, load_tokenizer
from tests.objectives.tiny import make_tokenizer


def message(function: Any, *arguments: Any) -> str:
    with pytest.raises(ModelError) as caught:
        function(*arguments)
    return str(caught.value)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    said = message(load_tokenizer, tmp_path)
    assert said.startswith(f"The tokenizer of {tmp_path} cannot be loaded (")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("tokens", "pad"),
    [
        ({"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<bot>"}, "<pad>"),
        ({"eos_token": "</s>", "unk_token": "<bot>"}, "</s>"),
        ({"unk_token": "<bot>"}, "<bot>"),
        ({}, None),
    ],
)
def test_the_tokenizer_can_pad(tmp_path: Path, tokens: dict[str, str], pad: str | None) -> None:
    """Those of many causal models, as of Llama, have no token for it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer, **tokens)
    tokenizer.save_pretrained(tmp_path)
    if pad is not None:
        assert load_tokenizer(tmp_path).pad_token == pad
        return
    assert message(load_tokenizer, tmp_path) == (
        f"The tokenizer of {tmp_path} has no pad, end or unknown token: set pad_token in its files."
    )


def test_a_mistral_is_read_alike_whether_mistral_common_is_installed_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers then gives has no chat template, and a method where all others have a mapping."""

    class MistralCommonBackend:
        pad_token = "<pad>"

    (tmp_path / "tekken.json").write_text("{}")
    assert message(load_tokenizer, tmp_path) == (
        f"{tmp_path} has its tokenizer as tekken.json alone, which has no chat template: add the tokenizer.json of the "
        "same model."
    )
    make_tokenizer(chat="<user>{{ messages[0].content }}<bot>").save_pretrained(tmp_path)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: MistralCommonBackend())
    found = load_tokenizer(tmp_path)
    assert (found.chat_template, found.pad_token) == ("<user>{{ messages[0].content }}<bot>", "<pad>")
    assert found("the cat")["input_ids"] == make_tokenizer()("the cat")["input_ids"]


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        (None, [5]),
        ("{}", [5]),
        ('{"eos_token_id": [1, 7]}', [1, 7]),
        ('{"eos_token_id": null}', []),
    ],
)
def test_the_ends_of_an_answer_are_the_checkpoint_s_own(tmp_path: Path, told: str | None, ends: list[int]) -> None:
    file = tmp_path / "generation_config.json"
    file.unlink(missing_ok=True)
    if told is not None:
        file.write_text(told)
    assert answer_ends(tmp_path, LlamaConfig(eos_token_id=5)) == ends
    for broken, why in (("[", "Expecting value"), ("[" * 10**5, "maximum recursion depth exceeded")):
        file.write_text(broken)
        assert message(answer_ends, tmp_path, LlamaConfig()).startswith(f"{file} cannot be read ({why}")

"""The tokenizer of a model's folder, and the tokens at which servers end the model's answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from objectives.errors import ModelError, first_line
from objectives.model import remedy
from objectives.pickles import refuse_pickles

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

#: What transformers reads of a Mistral model beside tekken.json.
_READ = ("tokenizer.json", "tokenizer.model")


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """A tokenizer that can pad: without a pad token of its own it pads with the end-of-sequence token.

    The same whether mistral-common, which vLLM brings, is installed or not: transformers would read a Mistral model's
    tekken.json by it, which has no chat template, and whose marks cannot be written in a text.

    Raises ModelError if the folder's tokenizer cannot be read, or has no token to pad with.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    refuse_pickles(folder)
    if (folder / "tekken.json").is_file() and not any(map(Path.is_file, map(folder.joinpath, _READ))):
        raise ModelError(
            f"{folder} has its tokenizer as tekken.json alone, which has no chat template: add the tokenizer.json of "
            "the same model."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if type(tokenizer).__name__ == "MistralCommonBackend":
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:
        raise ModelError(
            f"The tokenizer of {folder} cannot be loaded ({first_line(error)}): "
            f"{remedy(error, 'add its tokenizer files')}."
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise ModelError(f"The tokenizer of {folder} has no pad, end or unknown token: set pad_token in its files.")
    return tokenizer


def answer_ends(folder: Path, config: PreTrainedConfig) -> list[int]:
    """Tokens at which servers end an answer, as the checkpoint says: chat models often end a turn with another than
    a text. Raises ModelError if its generation_config.json cannot be read.
    """
    file = folder / "generation_config.json"
    ends = getattr(config.get_text_config(), "eos_token_id", None)
    if file.is_file():
        try:
            ends = dict(json.loads(file.read_text(encoding="utf-8"))).get("eos_token_id", ends)
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ModelError(f"{file} cannot be read ({first_line(error)}): restore the file.") from error
    return [token for token in (ends if isinstance(ends, list) else [ends]) if isinstance(token, int)]

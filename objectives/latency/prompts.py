"""What a server is asked: random text, new each time, so that its cache of prefixes leaves no prefill out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from objectives.latency.settings import LatencySettings

#: Texts that are tried for one of the asked length. Of random tokens alone, a text of 32 had 57 of a small vocabulary.
_TRIES = 20


class Prompts:
    """Texts of ``prompt_tokens`` random tokens, with those that the tokenizer adds, or nearly so many.

    None is given twice, by no object and no process: so there is no seed.
    """

    def __init__(self, folder: Path, settings: LatencySettings, *, trust_remote_code: bool = False) -> None:
        """``folder`` holds the tokenizer. Raises ModelError if it cannot be read."""
        from objectives.tokenizer import load_tokenizer

        self._tokenizer = load_tokenizer(folder, trust_remote_code)
        self._tokens = max(1, settings.prompt_tokens - self._tokenizer.num_special_tokens_to_add())
        self._generator = np.random.default_rng()

    def next(self) -> str:
        ids: list[int] = []
        text = ""
        for _ in range(_TRIES):
            # Tokens that stand side by side by chance are seldom those of their text: there are more of these or fewer,
            # most of all of what is no character.
            picks = self._generator.integers(len(self._tokenizer), size=max(0, self._tokens - len(ids)))
            text = self._tokenizer.decode([*ids[: self._tokens], *picks.tolist()], skip_special_tokens=True)
            text = text.replace("\N{REPLACEMENT CHARACTER}", "")
            ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            if len(ids) == self._tokens:
                break
        return text or "a"

"""What a server is asked: random text, new each time, so that its cache of prefixes leaves no prefill out."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np

from objectives.latency.settings import LatencySettings


class Prompts:
    """Texts of about ``prompt_tokens`` random tokens, in an order that the settings and the seed decide.

    None is given twice. The next object with equal settings and seed begins anew, with the same texts.
    """

    def __init__(self, folder: Path, settings: LatencySettings, *, trust_remote_code: bool = False) -> None:
        """``folder`` holds the tokenizer. Raises ModelError if it cannot be read."""
        from objectives.model import load_tokenizer

        self._tokenizer = load_tokenizer(folder, trust_remote_code)
        self._tokens, self._concurrency = settings.prompt_tokens, settings.concurrency
        self._given = count()

    def next(self, seed: int) -> str:
        # The number alone keeps prompts of one object apart: the rounds of a profile have seeds that follow each other.
        generator = np.random.default_rng([seed, self._concurrency, next(self._given)])
        picks = generator.integers(len(self._tokenizer), size=self._tokens)
        text: str = self._tokenizer.decode(picks.tolist(), skip_special_tokens=True)
        return text or "a"

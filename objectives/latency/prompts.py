"""What a server is asked: random text, new each time, so that its cache of prefixes leaves no prefill out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from objectives.latency.settings import LatencySettings


class Prompts:
    """Texts of about ``prompt_tokens`` random tokens. None is given twice, by no object and no process: so no seed."""

    def __init__(self, folder: Path, settings: LatencySettings, *, trust_remote_code: bool = False) -> None:
        """``folder`` holds the tokenizer. Raises ModelError if it cannot be read."""
        from objectives.model import load_tokenizer

        self._tokenizer = load_tokenizer(folder, trust_remote_code)
        self._tokens = settings.prompt_tokens
        self._generator = np.random.default_rng()

    def next(self) -> str:
        picks = self._generator.integers(len(self._tokenizer), size=self._tokens)
        text: str = self._tokenizer.decode(picks.tolist(), skip_special_tokens=True)
        return text or "a"

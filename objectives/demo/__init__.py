"""The demonstration that ships with the package: a tiny language model, and a task that it can be adapted to.

It lets ``python -m search run`` show a whole search in minutes, without network or GPU. It is no benchmark: model and
texts are artificial, and which modules matter here says nothing about any other model. README.md tells how it was made.
"""

from __future__ import annotations

from pathlib import Path

#: Training steps of a trial that the demonstration needs.
STEPS = 80

_HERE = Path(__file__).resolve().parent


def model_dir() -> Path:
    """A Llama of 0.2 million parameters with its tokenizer, for ``AutoModelForCausalLM`` and ``AutoTokenizer``."""
    return _HERE / "model"


def data_dir() -> Path:
    """``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``: web shop messages, each with one of 8 matters."""
    return _HERE / "data"

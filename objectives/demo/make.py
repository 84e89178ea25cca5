"""Build the demonstration's data and model from nothing: ``python -m objectives.demo.make --out DIR``.

Takes some minutes of one CPU core. The data are the same on every machine. The model is the same for the same seed,
version of PyTorch and type of CPU; elsewhere the last bits of its weights may differ, and so may accuracies, slightly.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from objectives.demo import corpus

SEED = 0
TRANSCRIPTS = 48_000
TOKENIZER_TRANSCRIPTS = 20_000
#: The order of floating-point sums, and so the weights' last bits, depend on the number of threads. With such small
#: matrices a second thread gains little, and on a busy machine the two wait for each other.
THREADS = 1


def write_data(folder: Path, seed: int = SEED) -> None:
    """Write ``{split}.jsonl`` for each split, one row ``{"text", "label"}`` a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in corpus.task_rows(seed).items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8", newline="\n")


def write_model(folder: Path, seed: int = SEED) -> None:
    """Train tokenizer and model on transcripts that hold no text of the task, and save both for transformers."""
    import torch

    from objectives.demo import pretrain

    torch.set_num_threads(THREADS)
    task_texts = {row["text"] for rows in corpus.task_rows(seed).values() for row in rows}
    texts = corpus.transcripts(seed + 1, TRANSCRIPTS, exclude=task_texts)
    tokenizer = pretrain.train_tokenizer(texts[:TOKENIZER_TRANSCRIPTS])
    model = pretrain.new_model(tokenizer, seed)
    pretrain.train(model, tokenizer, texts, _progress)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _progress(step: int, steps: int, loss: float) -> None:
    if step % 100 == 0 or step == steps:
        print(f"pretraining: step {step} of {steps}, loss {loss:.3f}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the demonstration's data and model.")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets data/ and model/")
    parser.add_argument("--seed", type=int, default=SEED, help="0 gives the demonstration that ships (default)")
    arguments = parser.parse_args()
    write_data(arguments.out / "data", arguments.seed)
    write_model(arguments.out / "model", arguments.seed)


if __name__ == "__main__":
    main()

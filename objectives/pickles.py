"""Pickles are programs that run when they are read: none is read here, and a folder that holds one is refused."""

from __future__ import annotations

from pathlib import Path

from objectives.errors import ModelError

#: Of files that PyTorch, its relatives and scikit-learn write as pickles.
SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"})


def refuse_pickles(folder: Path) -> None:
    """Raises ModelError for a model's or an adapter's folder that directly holds a file with such a name.

    Nothing of ours would read it, but libraries that are handed the folder choose for themselves what they open.
    """
    found = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if found:
        raise ModelError(
            f"{folder} holds {found[0]}, which may be a pickle, and reading one runs whatever it says: remove it, and "
            "keep weights as safetensors and everything else as JSON."
        )

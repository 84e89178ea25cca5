"""Whether a model is the one that was measured before, without reading all of its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from objectives.model import shards

#: Bytes of each tensor that are read, twice: at its beginning, and from its middle.
_SAMPLE = 4096


def model_digest(folder: Path) -> str:
    """Sixteen hexadecimal digits over the weights and the tokenizer.

    Of every tensor the name, type and shape count, and two samples: training moves all of a tensor's values. Raises
    ModelError or OSError for weights that cannot be read.
    """
    digest = hashlib.sha256()
    for shard in sorted(shards(folder)):
        with shard.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = file.read(size)
            tensors = json.loads(header)
            tensors.pop("__metadata__", None)
            for name, tensor in sorted(tensors.items()):
                begin, end = tensor["data_offsets"]
                digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
                for start in (begin, (begin + end) // 2):
                    file.seek(8 + size + start)
                    digest.update(file.read(min(_SAMPLE, end - start)))
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file():
        digest.update(tokenizer.read_bytes())
    return digest.hexdigest()[:16]

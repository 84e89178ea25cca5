"""Whether a model is the one that was measured before, without reading all of its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from objectives.model import shards

#: Bytes of each tensor that are read, twice: at its beginning, and from its middle.
_SAMPLE = 4096
#: Of config.json, what tells who wrote it and not what is computed.
_WRITER = ("_name_or_path", "transformers_version")
#: Files of a tokenizer, by the names that transformers gives them.
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model")


def model_digest(folder: Path) -> str:
    """Sixteen hexadecimal digits over the weights, the configuration and the tokenizer.

    Of every tensor the name, type and shape count, and two samples: training moves all of a tensor's values. The
    configuration counts too, since equal weights compute something else with other heads or another RoPE. Raises
    ModelError or OSError for weights that cannot be read.
    """
    digest = hashlib.sha256()
    for shard in sorted(shards(folder)):
        with shard.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = opened.read(size)
            tensors = json.loads(header)
            tensors.pop("__metadata__", None)
            for name, tensor in sorted(tensors.items()):
                begin, end = tensor["data_offsets"]
                digest.update(json.dumps([name, tensor["dtype"], tensor["shape"]]).encode())
                for start in (begin, (begin + end) // 2):
                    opened.seek(8 + size + start)
                    digest.update(opened.read(min(_SAMPLE, end - start)))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told = {name: value for name, value in config.items() if name not in _WRITER}
    digest.update(json.dumps(told, sort_keys=True).encode())
    for name in _TOKENIZER:
        if (file := folder / name).is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]

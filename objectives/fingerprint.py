"""Whether a model is the one that was measured before, without reading all of its weights; or computes as it does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives.model import shards

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: Bytes of each tensor that are read, twice: at its beginning, and from its middle.
_SAMPLE = 4096
#: Files of a tokenizer, by the names that transformers gives them: its pieces, and what it makes of a text with them.
_TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt", "spiece.model", "spm.model",
    "sentencepiece.bpe.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
)  # fmt: skip
#: Fields of a configuration that name, train or label a model. What is not known to be one counts as computation.
_SAYINGS = {
    "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id", "num_labels",
    "problem_type", "finetuning_task", "task_specific_params", "initializer_range", "use_cache", "output_attentions",
    "output_hidden_states", "return_dict",
}  # fmt: skip


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
    digest.update(json.dumps(_computation(config), sort_keys=True).encode())
    for name in _TOKENIZER:
        if (file := folder / name).is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def computation_digest(config: PreTrainedConfig) -> str:
    """Sixteen hexadecimal digits over what decides the steps of a forward pass: shapes alone do not tell heads, windows
    and activations. Names, labels, special tokens, dropout and the type of the weights are left out.
    """
    text = json.dumps(_computation(config.to_dict()), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _computation(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {str(name): _computation(each) for name, each in value.items() if not _says(str(name))}


def _says(name: str) -> bool:
    return name in _SAYINGS or name.startswith("_") or name.endswith("_token_id") or "drop" in name

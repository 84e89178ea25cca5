"""Models that bring code of their own, which is run only where it is trusted: what is said where it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from objectives.errors import ModelError
from objectives.model import kind_of, load_config, meta_model

_CODE = """
{before}
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        {within}
"""


@pytest.mark.parametrize(
    ("before", "within", "reason", "remedy"),
    [
        ("import no_such_package", "", "not found in your environment: no_such_package", "install that package"),
        (
            "from transformers.utils.import_utils import is_of_version_4",
            "",
            "cannot import name 'is_of_version_4' from 'transformers.utils.import_utils'",
            "take the version of transformers that its code was written for",
        ),
        (
            "",
            "config.seen_tokens_of_version_4",
            "has no attribute 'seen_tokens_of_version_4'",
            "take the version of transformers that its code was written for",
        ),
    ],
)
def test_what_its_code_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, within: str, reason: str, remedy: str
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers adds to it
    folder = tmp_path / "own"
    folder.mkdir()
    classes = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps({"model_type": "own-llama", "auto_map": classes} | sizes))
    (folder / "own_code.py").write_text(_CODE.format(before=before, within=within))
    with pytest.raises(ModelError) as caught:
        config = load_config(folder, trust_remote_code=True)
        meta_model(config, kind_of(config))
    assert reason in str(caught.value)
    assert str(caught.value).endswith(f"): {remedy}, or choose another model.")

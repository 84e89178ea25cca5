"""A look at a model: of one on the hub no weights are fetched, and what it says is what a search would do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from objectives import demo
from objectives.errors import ModelError, RequestError
from objectives.latency import LatencySettings
from search.inspection import modules_document, structure_of
from search.latency import open_engine
from search.spec import SearchSpec


def test_a_configuration_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The weights of a large model are hundreds of gigabytes."""
    (tmp_path / "config.json").write_bytes((demo.model_dir() / "config.json").read_bytes())
    asked: list[list[str]] = []

    def snapshot_download(hub_id: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert modules_document(SearchSpec(model="someone/model"), 8) == modules_document(SearchSpec(), 8) | {
        "model": "someone/model"
    }
    assert asked == [["config.json"]]
    structure_of(SearchSpec(model="someone/model", trust_remote_code=True))
    assert asked[1][:2] == ["config.json", "*.py"]


def test_no_parameters_are_said_of_a_rank_that_a_search_refuses() -> None:
    with pytest.raises(RequestError, match=r"^--rank 65 is too large: .* above 64; give 64 or less$"):
        modules_document(SearchSpec(), 65)
    assert modules_document(SearchSpec(), 64)["rank"] == 64


def test_a_model_without_groups_has_no_largest_rank(tmp_path: Path) -> None:
    config = json.loads((demo.model_dir() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 0}))
    assert modules_document(SearchSpec(model=str(tmp_path)), 8)["groups"] == []


def test_latency_is_not_measured_on_weights_without_their_scales(tmp_path: Path) -> None:
    for file in demo.model_dir().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "modelopt"}}))
    spec = SearchSpec(model=str(tmp_path))
    model, space = structure_of(spec)
    with pytest.raises(ModelError, match=" is quantised by 'modelopt', which transformers cannot read: "):
        open_engine(spec, model, space, LatencySettings())

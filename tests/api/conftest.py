"""The API in this process, on a catalog with one search that is complete; nothing that is submitted is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from objectives.adapter import weights_digest
from objectives.placement import Placement
from search.api.app import application
from search.api.supervisor import Supervisor
from search.catalog import Catalog
from search.catalog.tokens import add_token
from search.home import Home
from search.spec import SearchSpec

FACTS = {
    "model": "models/tiny",
    "data": "data/questions",
    "task": "classification",
    "metric": "accuracy",
    "data_hash": "ab",
    "structure": "cd",
    "template": "{text}",
    "kind": "causal",
    "labels": ["a", "b"],
    "notes": [],
    "versions": {},
    "command": "python -m search run",
}


@dataclass
class Service:
    app: FastAPI
    catalog: Catalog
    home: Home
    root: Path
    tokens: dict[str, str]

    def client(self, scope: str | None = "write") -> TestClient:
        headers = {"Authorization": f"Bearer {self.tokens[scope]}"} if scope else {}
        return TestClient(self.app, headers=headers, raise_server_exceptions=False)


def write_adapter(folder: Path) -> str:
    folder.mkdir(parents=True)
    save_file({"lora_A.weight": torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    config = '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["o_proj"]}'
    (folder / "adapter_config.json").write_text(config)
    return weights_digest(folder)


#: Group, accuracy and latency ratio of a trial; both are on the front.
TRIALS = (("o_proj", 0.6, 1.1), ("q_proj", 0.7, 1.3))


def record_search(catalog: Catalog, home: Home, name: str, trials: Sequence[tuple[str, float, float]] = TRIALS) -> None:
    search = catalog.create_search(name, SearchSpec(steps=200, budget=2).to_json(), FACTS)
    catalog.set_base(search.id, {"validation": {"accuracy": 0.2, "accuracy_ci": [0.1, 0.3]}})
    for number, (group, accuracy, ratio) in enumerate(trials):
        folder = Path(home.adapters(search).at(f"{number}"))
        digest = write_adapter(folder)
        measurement: dict[str, Any] = {
            "validation": {
                "accuracy": accuracy,
                "accuracy_ci": [accuracy - 0.1, accuracy + 0.1],
                "standard_error": 0.02,
                "loss": 0.9,
            },
            "latency": {"ratio": ratio, "ratio_ci": [ratio - 0.01, ratio + 0.01]},
            "parameters": 4,
        }
        catalog.add_trial(search.id, number, Placement.of([group], 8), None)
        ended = {"measurement": measurement, "steps": 200, "adapter": str(folder), "adapter_sha256": digest}
        assert catalog.record(search.id, number, "complete", **ended)
    catalog.set_status(search.id, "complete")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    home = Home.at(tmp_path / "home", None, None)
    root = tmp_path / "allowed"
    (root / "data").mkdir(parents=True)
    (root / "data" / "train.csv").write_text("text,label\nx,a\n")
    catalog = Catalog(home.storage)
    record_search(catalog, home, "demo")
    tokens = {scope: add_token(catalog, scope, scope) for scope in ("read", "write")}
    supervisor = Supervisor(catalog, home, at_once=1)
    yield Service(application(catalog, home, supervisor, roots=[root]), catalog, home, root, tokens)
    catalog.close()

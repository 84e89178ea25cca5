"""Servers that fuse layers: what has one latency class is measured once, by an adapter of all parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from objectives.adapter import adapted_layers
from objectives.latency.classes import class_of
from objectives.latency.profiling import Shelf, profile_model
from objectives.latency.server import ServerEngine
from objectives.placement import Placement
from tests.objectives.latency.scripted import SETTINGS, VLLM, Script, engine, serving
from tests.objectives.tiny import Zoo


def test_a_fused_server_is_measured_once_a_class(zoo: Zoo) -> None:
    """q, k and v alone have one class, and so one measurement; only one adapter is loaded at a time."""
    kept: dict[str, dict[str, Any]] = {}
    with serving(Script(first=[0.001], each=[0.0005], **VLLM)) as server:
        settings = replace(SETTINGS, max_seconds=0.0)
        opened = ServerEngine(server.url, zoo.folder("llama"), zoo.space("llama"), settings)
        shelf = Shelf(kept.get, kept.__setitem__)
        profiles = profile_model(opened, zoo.space("llama"), [8], settings, seed=0, shelf=shelf)
        loads = sum(call.endswith("/load_lora_adapter") for call in server.calls)
        again = profile_model(opened, zoo.space("llama"), [8], settings, seed=0, shelf=shelf)
        assert sum(call.endswith("/load_lora_adapter") for call in server.calls) == loads, "all from the shelf"
        opened.close()
    rows = {tuple(row["targets"]): row for row in profiles.rows}
    assert len(rows) == 127
    assert rows["q_proj",]["class"] == rows["k_proj", "v_proj"]["class"] == "qkv r8"
    assert rows["q_proj",]["ratio"] == rows["k_proj", "v_proj"]["ratio"]
    assert len({row["class"] for row in profiles.rows}) == 15
    assert len(kept) == 1 + 4 + 1 + 1 + 2, "base model, four parts, a pair, all, two checks"
    assert [row["ratio"] for row in again.rows] == [row["ratio"] for row in profiles.rows]
    assert all(row["cached"] for row in again.rows if row["source"] == "measured")


@pytest.mark.parametrize(
    ("group", "whole"),
    [
        ("q_proj", {"q_proj", "k_proj", "v_proj"}),
        ("up_proj", {"gate_proj", "up_proj"}),
        ("o_proj", {"o_proj"}),
    ],
)
def test_of_a_fused_layer_a_server_gets_all_parts(zoo: Zoo, group: str, whole: set[str]) -> None:
    """It costs the same, and SGLang refuses q_proj alone and dies of k_proj, v_proj or up_proj alone."""
    with serving(Script(owner="sglang")) as server:
        opened = engine(zoo, server)
        opened.open(Placement.of([group], 4), seed=0)
        (adapter,) = server.loaded.values()
        layers = adapted_layers(Path(adapter))
        opened.close()
    assert {path.rpartition(".")[2] for path in layers} == whole


def test_a_server_that_fuses_nothing_gets_the_placement_itself(zoo: Zoo) -> None:
    with serving(Script(paths=["/v1/completions", "/load_model"])) as server:
        opened = engine(zoo, server)
        opened.open(Placement.of(["q_proj"], 4), seed=0).request()
        layers = adapted_layers(Path(server.sent[1].body["model"]))
        opened.close()
    assert {path.rpartition(".")[2] for path in layers} == {"q_proj"}


@pytest.mark.parametrize(
    ("script", "name"),
    [(Script(**VLLM), "gate_up r8"), (Script(owner="sglang"), "gate_up r4"), (Script(), "up_proj r4")],
)
def test_ranks_are_one_class_where_the_server_computes_at_its_own(zoo: Zoo, script: Script, name: str) -> None:
    with serving(script) as server:
        opened = engine(zoo, server)
        opened.close()
    space, placement = zoo.space("llama"), Placement.of(["up_proj"], 4)
    assert class_of(space, placement, opened).name == name

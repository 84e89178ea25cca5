"""Twins share memory and nothing else; adapters begin as the seed says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.import_utils import is_torchao_available

from objectives.backbone import attach, load_adapter, twin
from objectives.errors import ModelError
from objectives.placement import Alpha, Placement
from objectives.training import TrainingSettings, train
from tests.objectives.tiny import CONFIGURATIONS, Zoo, all_groups, make_task

IDS = torch.arange(3, 27).reshape(2, 12)


def output(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_twin_shares_every_tensor_and_no_module(zoo: Zoo, name: str) -> None:
    base = zoo.base(name)
    copied = twin(base)
    ours = dict((*base.named_parameters(remove_duplicate=False), *base.named_buffers(remove_duplicate=False)))
    theirs = dict((*copied.named_parameters(remove_duplicate=False), *copied.named_buffers(remove_duplicate=False)))
    assert ours.keys() == theirs.keys()
    assert all(ours[key] is theirs[key] for key in ours)
    assert not set(map(id, base.modules())) & set(map(id, copied.modules()))
    assert torch.equal(output(base), output(copied))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_base_is_untouched_by_an_adapter_and_its_training(zoo: Zoo, name: str) -> None:
    base, space = zoo.base(name), zoo.space(name)
    state = {key: value.clone() for key, value in base.state_dict().items()}
    before, tree = output(base), [(path, type(module)) for path, module in base.named_modules()]

    adapted = attach(base, space, all_groups(space), seed=0)
    model = adapted.get_base_model()
    if name not in ("bert", "distilbert"):
        assert torch.equal(output(adapted), before), "B starts at zero: a new adapter changes nothing"
    train(model, make_task(zoo, name), TrainingSettings(steps=3, batch_size=4, learning_rate=1e-2))

    assert not torch.allclose(output(adapted), before)
    assert [(path, type(module)) for path, module in base.named_modules()] == tree
    assert base.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in base.state_dict().items())
    assert torch.equal(output(base), before)
    assert not base.training
    assert not any(p.requires_grad or p.grad is not None for p in base.parameters())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_adapter_has_the_parameters_that_the_space_says_and_each_is_trained(zoo: Zoo, name: str) -> None:
    space = zoo.space(name)
    placement = all_groups(space, rank=3)
    adapted = attach(zoo.base(name), space, placement, seed=0)
    lora = [p for key, p in adapted.named_parameters() if "lora_" in key]
    assert sum(p.numel() for p in lora) == space.parameters(placement)
    assert all(p.requires_grad for p in lora)
    assert adapted.active_peft_config.lora_alpha == 2 * 3
    other = attach(zoo.base(name), space, placement, seed=0, alpha=Alpha.parse("5"))
    assert other.active_peft_config.lora_alpha == 5


def test_the_seed_decides_how_an_adapter_begins(zoo: Zoo) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        torch.rand(seed + 5)  # what came before does not matter
        adapted = attach(zoo.base("llama"), zoo.space("llama"), Placement.of(["q_proj"], 4), seed=seed)
        return [p for key, p in adapted.named_parameters() if "lora_A" in key]

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(0), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(0), weights(1), strict=True))


def test_a_package_that_peft_refuses_ends_a_search_before_all_its_trials_have_failed(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images for GPUs bring one that is too old, and it is asked for whether weights are quantised or not."""
    base, space, stored = zoo.base("llama"), zoo.space("llama"), str(tmp_path / "stored")
    attach(base, space, all_groups(space), seed=0).save_pretrained(stored)
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao-0.10.0.dist-info").mkdir()
    (tmp_path / "torchao-0.10.0.dist-info" / "METADATA").write_text("Name: torchao\nVersion: 0.10.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    is_torchao_available.cache_clear()
    try:
        for make in (lambda: attach(base, space, all_groups(space), seed=0), lambda: load_adapter(base, stored)):
            with pytest.raises(ModelError) as refusal:
                make()
            start, _, end = str(refusal.value).partition(
                " (Found an incompatible version of torchao. Found version 0.1"
            )
            assert start == "PEFT makes no adapter here"
            assert end.endswith("): update that package, or remove it, on all machines of the search.")
    finally:
        is_torchao_available.cache_clear()

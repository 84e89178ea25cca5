"""Twins share memory and nothing else; a head that sees few positions says what it says when it sees them all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from objectives.backbone import attach, head_at, head_is_separable, logits_at, twin
from objectives.batches import pad
from objectives.placement import Placement
from objectives.training import TrainingSettings, train
from tests.objectives.tiny import CAUSAL, CONFIGURATIONS, VOCABULARY, Zoo, all_groups, make_task, shake

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


def test_the_seed_decides_how_an_adapter_begins(zoo: Zoo) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        torch.rand(seed + 5)  # what came before does not matter
        adapted = attach(zoo.base("llama"), zoo.space("llama"), Placement.of(["q_proj"], 4), seed=seed)
        return [p for key, p in adapted.named_parameters() if "lora_A" in key]

    assert all(torch.equal(a, b) for a, b in zip(weights(0), weights(0), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(0), weights(1), strict=True))


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", CAUSAL)
def test_the_head_at_positions_gives_the_full_logits_of_these_positions(zoo: Zoo, name: str, adapted: bool) -> None:
    model = zoo.base(name)
    if adapted:
        model = attach(model, zoo.space(name), all_groups(zoo.space(name)), seed=0).get_base_model()
        shake(model)
    positions = torch.tensor([0, 3, 11, 12, 20, 23])
    full = output(model).reshape(24, VOCABULARY)
    with torch.inference_mode():
        few = logits_at(model, IDS, positions, by_head=True)
        fallback = logits_at(model, IDS, positions, by_head=False)
    assert head_is_separable(model)
    torch.testing.assert_close(few, full[positions], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fallback, full[positions], rtol=1e-5, atol=1e-6)
    assert torch.equal(output(model).reshape(24, VOCABULARY), full), "the hook is gone"


def test_the_hook_is_removed_after_an_error(zoo: Zoo) -> None:
    model = zoo.base("llama")
    before = output(model)
    with pytest.raises(ZeroDivisionError), head_at(model, torch.tensor([0])):
        1 / 0  # noqa: B018
    assert torch.equal(output(model), before)


@pytest.mark.parametrize("name", CAUSAL)
def test_padding_on_the_right_changes_no_logits(zoo: Zoo, name: str) -> None:
    model = zoo.base(name)
    short, long = [5, 6, 7], list(range(10, 30))
    ids, _ = pad([short, long], pad_id=2)
    with torch.inference_mode():
        alone = model(input_ids=torch.tensor([short])).logits[0]
        beside = logits_at(model, ids, torch.arange(3), by_head=True)
    torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-5)


class _CentredHead(nn.Linear):
    """Not elementwise over positions: what it gives for one depends on which others it sees."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden - hidden.mean(dim=1, keepdim=True))


class _ShapedHead(nn.Linear):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[0] != 2:
            raise ValueError("two rows are expected")
        return super().forward(hidden)


@pytest.mark.parametrize("head", [_CentredHead, _ShapedHead])
def test_a_head_that_needs_all_positions_is_found_out_and_served_by_the_fallback(zoo: Zoo, head: Any) -> None:
    model = zoo.copy("llama")
    model.lm_head.__class__ = head
    assert not head_is_separable(model)
    positions = torch.tensor([1, 14])
    with torch.inference_mode():
        full = model(input_ids=IDS).logits.reshape(24, VOCABULARY)
        few = logits_at(model, IDS, positions, by_head=head_is_separable(model))
    torch.testing.assert_close(few, full[positions])


def test_a_model_without_an_output_head_is_not_separable(zoo: Zoo) -> None:
    assert not head_is_separable(zoo.base("bert"))

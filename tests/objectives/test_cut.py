"""Logits of few positions are the model's own, and a model of another form is found out."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from objectives.backbone import attach
from objectives.batches import pad
from objectives.cut import Cut, logits_at, narrowest_cut
from tests.objectives.tiny import CAUSAL, VOCABULARY, Zoo, all_groups, shake

IDS = torch.arange(5, 29).reshape(2, 12)

#: Blocks of x + attention(norm(x)), then x + mlp(norm(x)); the others of the zoo have norms behind, or other names.
PLAIN = ("llama", "mixtral")


def full_logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids).logits.reshape(-1, VOCABULARY)


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", CAUSAL)
def test_every_cut_up_to_the_narrowest_gives_the_models_own_logits(zoo: Zoo, name: str, adapted: bool) -> None:
    model = zoo.base(name)
    if adapted:
        model = attach(model, zoo.space(name), all_groups(zoo.space(name)), seed=0).get_base_model()
        shake(model)
    positions = torch.tensor([0, 3, 11, 12, 20, 23])
    full = full_logits(model)
    narrowest = narrowest_cut(model)
    assert narrowest == ("block" if name in PLAIN else "head")
    for cut in get_args(Cut)[get_args(Cut).index(narrowest) :]:
        with torch.inference_mode():
            few = logits_at(model, IDS, positions, cut=cut)
        torch.testing.assert_close(few, full[positions], rtol=1e-5, atol=1e-5)
        assert torch.equal(full_logits(model), full), "the model is as before"


@pytest.mark.parametrize("cut", ["block", "head"])
def test_a_cut_is_undone_after_an_error(zoo: Zoo, cut: Cut) -> None:
    model = zoo.base("llama")
    before = full_logits(model)
    with pytest.raises(IndexError):
        logits_at(model, IDS, torch.tensor([24]), cut=cut)
    assert torch.equal(full_logits(model), before)


@pytest.mark.parametrize("name", CAUSAL)
def test_padding_on_the_right_changes_no_logits(zoo: Zoo, name: str) -> None:
    model = zoo.base(name)
    short, long = [5, 6, 7], list(range(10, 30))
    ids, _ = pad([short, long], pad_id=2)
    with torch.inference_mode():
        alone = model(input_ids=torch.tensor([short])).logits[0]
        beside = logits_at(model, ids, torch.arange(3), cut=narrowest_cut(model))
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
def test_a_head_that_needs_all_positions_is_found_out(zoo: Zoo, head: Any) -> None:
    model = zoo.copy("llama")
    model.lm_head.__class__ = head
    assert narrowest_cut(model) == "none"
    positions = torch.tensor([1, 14])
    with torch.inference_mode():
        few = logits_at(model, IDS, positions, cut="none")
    torch.testing.assert_close(few, full_logits(model)[positions])


def test_a_block_of_another_form_is_cut_at_the_head(zoo: Zoo) -> None:
    """The names of its parts say nothing of how they are put together."""
    model = zoo.copy("llama")
    block = model.model.layers[-1]

    class Shifted(type(block)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().forward(*args, **kwargs) + torch.arange(32)

    block.__class__ = Shifted
    assert narrowest_cut(model) == "head"


def test_a_model_without_an_output_head_has_no_cut(zoo: Zoo) -> None:
    assert narrowest_cut(zoo.base("bert")) == "none"

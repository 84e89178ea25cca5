"""The cheaper forms compute what PEFT and transformers compute, and leave no trace."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lora import Linear
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from objectives.backbone import attach
from objectives.cut import logits_at
from objectives.kernels import lean_training, short_attention
from objectives.placement import CUSTOMARY_ALPHA, Alpha, Placement
from tests.objectives.tiny import CONFIGURATIONS, VOCABULARY, Zoo, all_groups, give_biases, shake

SHORT, LONG = 20, 130  # on either side of the limit up to which attention is computed by plain products


def adapted(zoo: Zoo, name: str, placement: Placement | None = None, alpha: Alpha = CUSTOMARY_ALPHA) -> Any:
    space, base = zoo.space(name), zoo.copy(name)
    give_biases(base)
    model = attach(base, space, placement or all_groups(space), seed=0, alpha=alpha).get_base_model()
    shake(model)
    return model.train()


def loss_and_gradients(model: Any, tokens: int) -> tuple[float, dict[str, torch.Tensor]]:
    ids = torch.randint(VOCABULARY, (3, tokens), generator=torch.Generator().manual_seed(0))
    if "Classification" in type(model).__name__:
        mask = torch.ones_like(ids)
        mask[1, tokens // 2 :] = 0
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2]))
    else:
        positions = torch.arange(tokens // 2, tokens - 1)
        logits = logits_at(model, ids, positions, cut="head")
        loss = torch.nn.functional.cross_entropy(logits, ids[0, positions + 1])
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def state_of(model: Any) -> list[Any]:
    instance = [name for name, module in model.named_modules() if "forward" in vars(module)]
    return [instance, model.config._attn_implementation, [m.training for m in model.modules()]]


def no_dropout(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for attribute in ("attention_dropout", "dropout_prob"):
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)


# Mamba has no attention, and its scan in plain PyTorch is slow.
CASES = [(name, tokens) for name in CONFIGURATIONS for tokens in (SHORT, LONG) if (name, tokens) != ("mamba", LONG)]


@pytest.mark.parametrize(("name", "tokens"), CASES)
def test_loss_and_gradients_are_those_of_peft(zoo: Zoo, name: str, tokens: int) -> None:
    model = adapted(zoo, name)
    no_dropout(model)
    before = state_of(model)
    loss, gradients = loss_and_gradients(model, tokens)
    with lean_training(model):
        lean_loss, lean_gradients = loss_and_gradients(model, tokens)
    assert gradients.keys() == lean_gradients.keys()
    assert any("lora_A" in key for key in gradients)
    assert lean_loss == pytest.approx(loss, abs=1e-5)
    scale = max(1.0, *(gradient.abs().max().item() for gradient in gradients.values()))
    for key, gradient in gradients.items():
        torch.testing.assert_close(lean_gradients[key], gradient, rtol=1e-4, atol=1e-5 * scale)
    assert state_of(model) == before
    assert loss_and_gradients(model, tokens)[0] == loss


@pytest.mark.parametrize("rank", [1, 16])
@pytest.mark.parametrize("group", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
def test_each_group_of_a_llama_alone(zoo: Zoo, group: str, rank: int) -> None:
    model = adapted(zoo, "llama", Placement.of([group], rank), Alpha(3))
    loss, gradients = loss_and_gradients(model, SHORT)
    with lean_training(model):
        patched = [m for m in model.modules() if "forward" in vars(m)]
        lean_loss, lean_gradients = loss_and_gradients(model, SHORT)
    assert [type(m) for m in patched] == [Linear, Linear], "one of each layer"
    assert lean_loss == pytest.approx(loss, abs=1e-5)
    for key, gradient in gradients.items():
        torch.testing.assert_close(lean_gradients[key], gradient, rtol=1e-4, atol=1e-5)


def test_the_adapted_weight_is_used_only_where_that_is_cheaper(zoo: Zoo) -> None:
    def patched(name: str) -> int:
        model = adapted(zoo, name)
        with lean_training(model):
            return sum("forward" in vars(m) for m in model.modules())

    assert patched("llama") == 2 * 7
    assert patched("gpt2") == 0, "its Conv1D holds the weight transposed"

    wide = adapted(zoo, "llama", Placement.of(["q_proj"], 1))
    layer = next(m for m in wide.modules() if isinstance(m, Linear))
    layer.base_layer = torch.nn.Linear(4096, 4096, device="meta")
    with lean_training(wide):
        assert "forward" not in vars(layer)


def test_an_error_within_leaves_the_model_as_it_was(zoo: Zoo) -> None:
    model = adapted(zoo, "llama")
    before = state_of(model)
    with pytest.raises(ZeroDivisionError), lean_training(model):
        assert state_of(model) != before
        raise ZeroDivisionError
    assert state_of(model) == before


def test_an_error_on_the_way_in_leaves_the_model_as_it_was(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(zoo, "llama")
    before = state_of(model)

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("not for this model")

    monkeypatch.setattr(type(model), "set_attn_implementation", refuse)
    with pytest.raises(ValueError, match="not for this model"), lean_training(model):
        pass
    monkeypatch.undo()
    assert state_of(model) == before


def test_attention_of_a_model_that_asks_for_another_kind_is_left_alone(zoo: Zoo) -> None:
    model = adapted(zoo, "llama")
    model.set_attn_implementation("eager")
    with lean_training(model):
        assert model.config._attn_implementation == "eager"
    assert model.config._attn_implementation == "eager"


def test_in_half_precision_nothing_is_patched(zoo: Zoo) -> None:
    model = copy.deepcopy(adapted(zoo, "llama")).to(torch.bfloat16)
    before = state_of(model)
    with lean_training(model):
        assert state_of(model) == before


@settings(max_examples=40)
@given(
    rows=st.integers(1, 3),
    shared=st.integers(1, 3),
    per_key=st.integers(1, 3),
    tokens=st.integers(1, 96),
    width=st.sampled_from([1, 4, 8]),
    scaled=st.booleans(),
)
def test_short_attention_is_attention(
    rows: int, shared: int, per_key: int, tokens: int, width: int, scaled: bool
) -> None:
    """Against the definition: softmax(q k^T / sqrt(width)) v, each token seeing itself and those before it."""
    generator = torch.Generator().manual_seed(tokens)
    query = torch.randn(rows, shared * per_key, tokens, width, generator=generator)
    key = torch.randn(rows, shared, tokens, width, generator=generator)
    value = torch.randn(rows, shared, tokens, width, generator=generator)
    scaling = 0.3 if scaled else None
    out, weights = short_attention(torch.nn.Module(), query, key, value, None, scaling=scaling)

    k, v = key.repeat_interleave(per_key, dim=1), value.repeat_interleave(per_key, dim=1)
    scores = query @ k.mT * (scaling or 1 / math.sqrt(width))
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    expected = (scores.masked_fill(future, -torch.inf).softmax(-1) @ v).transpose(1, 2)
    assert weights is None
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert out.is_contiguous(), "as what transformers' own functions return, which some models take views of"


@pytest.mark.parametrize("case", ["mask", "not causal", "long", "cached"])
def test_all_but_the_plain_case_goes_to_the_function_of_transformers(case: str) -> None:
    tokens = 97 if case == "long" else 6
    query, key, value = torch.randn(3, 2, 4, tokens, 8).unbind()
    mask: torch.Tensor | None = None
    causal: bool | None = None
    if case == "mask":
        mask = torch.zeros(2, 1, tokens, tokens)
        mask[..., 2:4] = -torch.inf
    elif case == "not causal":
        causal = False
    elif case == "cached":
        query = query[:, :, -1:]
    module = torch.nn.Module()
    out, _ = short_attention(module, query, key, value, mask, is_causal=causal)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, is_causal=causal)
    assert torch.equal(out, expected)

"""Slots of one pass train as they would alone, and what cannot be packed is refused with its reason."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers.models.llama.modeling_llama import LlamaMLP

from objectives import packed
from objectives.backbone import attach, twin
from objectives.cut import narrowest_cut
from objectives.packable import why_not_packed
from objectives.packed import train_packed
from objectives.placement import Alpha, Placement
from objectives.training import TrainingDiverged, TrainingResult, TrainingSettings, train, update
from tests.objectives.tiny import Zoo, all_groups, give_biases, make_task

#: Every part of a step at work: warm-up, several batches, clipping and decay of weights.
SETTINGS = TrainingSettings(
    steps=6, batch_size=4, learning_rate=3e-3, warmup=0.3, weight_decay=0.01, clip=0.5, accumulate=2
)


def calm_base(zoo: Zoo, name: str) -> Any:
    """Without the dropout that GPT-2 has by default, and with biases."""
    base = zoo.copy(name)
    give_biases(base)
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return base


def placements(zoo: Zoo, name: str) -> list[Placement]:
    """Different groups and ranks, which overlap in part."""
    names = [group.name for group in zoo.space(name).groups if group.kind == "linear"]
    return [Placement.of(names[:1], 2), Placement.of(names, 4), Placement.of(names[1:3], 8)]


def attached(zoo: Zoo, name: str, base: Any) -> list[Any]:
    """With one alpha for all, so that each slot has a scale of its own."""
    return [attach(base, zoo.space(name), p, seed=0, alpha=Alpha(6)).get_base_model() for p in placements(zoo, name)]


def both_ways(
    zoo: Zoo, name: str, settings: TrainingSettings, base: Any
) -> tuple[list[TrainingResult], list[Any], list[TrainingResult | TrainingDiverged], list[Any]]:
    task, cut = make_task(zoo, name), narrowest_cut(base)
    alone, together = attached(zoo, name, base), attached(zoo, name, base)
    assert why_not_packed(base, together, task) is None
    results = [train(model, task, settings, cut=cut) for model in alone]
    return results, alone, train_packed(base, together, task, settings, cut=cut), together


def assert_equal(
    results: Sequence[TrainingResult],
    alone: Sequence[Any],
    outcomes: Sequence[TrainingResult | TrainingDiverged],
    together: Sequence[Any],
    within: float = 1e-5,
) -> None:
    for result, one, outcome, other in zip(results, alone, outcomes, together, strict=True):
        assert isinstance(outcome, TrainingResult)
        assert outcome.steps == result.steps
        assert [step for step, _ in outcome.losses] == [step for step, _ in result.losses]
        for (_, a), (_, b) in zip(result.losses, outcome.losses, strict=True):
            assert b == pytest.approx(a, abs=1e-5, rel=0)
        weights = dict(other.named_parameters())
        for key, weight in one.named_parameters():
            torch.testing.assert_close(weights[key], weight, rtol=0, atol=within if weight.requires_grad else 0)
        assert not any(module.training for module in other.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_a_pack_leaves_nothing_for_the_garbage_collector(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Its stacks and their moments are as large as all adapters together, and the next pack needs the memory."""
    base, stacks = zoo.base("llama"), []
    carry = packed._carry

    def spied(*args: Any) -> Any:
        carrier, layers = carry(*args)
        stacks.extend(weakref.ref(stack) for layer in layers for stack in (layer.down, layer.up))
        return carrier, layers

    def short(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(packed, "_carry", spied)
    if fails:
        monkeypatch.setattr(packed, "update", short)
    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError) if fails else nullcontext():
            train_packed(base, attached(zoo, "llama", base), make_task(zoo, "llama"), SETTINGS)
        assert stacks
        assert not [stack for stack in stacks if stack() is not None]
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "opt", "mixtral"])
def test_slots_train_as_they_do_alone(zoo: Zoo, name: str) -> None:
    base = calm_base(zoo, name)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    if name == "mixtral":  # its experts are adapted as parameters
        assert [p.groups for p in placements(zoo, name)][1] == ("k_proj", "o_proj", "q_proj", "v_proj")
    assert_equal(*both_ways(zoo, name, SETTINGS, base))
    assert all(torch.equal(before[key], value) for key, value in base.state_dict().items())
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in base.modules())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_in_double_precision_nothing_but_rounding_is_left(zoo: Zoo, name: str) -> None:
    assert_equal(*both_ways(zoo, name, SETTINGS, calm_base(zoo, name).double()), within=1e-13)


def test_the_thin_products_of_wide_layers(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "merging_is_cheaper", lambda *_: False)
    assert_equal(*both_ways(zoo, "llama", SETTINGS, zoo.base("llama")))


def test_in_half_precision_the_adapters_stay_in_single(zoo: Zoo) -> None:
    base = zoo.copy("llama").bfloat16()
    results, alone, outcomes, together = both_ways(zoo, "llama", replace(SETTINGS, steps=3), base)
    for result, one, outcome, other in zip(results, alone, outcomes, together, strict=True):
        assert isinstance(outcome, TrainingResult)
        assert outcome.losses[0][1] == pytest.approx(result.losses[0][1], rel=1e-2)
        trained = {key: p for key, p in other.named_parameters() if p.requires_grad}
        for key, weight in one.named_parameters():
            if weight.requires_grad:
                assert trained[key].dtype == torch.float32
                assert (trained[key] - weight).norm() <= 0.1 * weight.norm()


def test_with_checkpoints_of_activations(zoo: Zoo) -> None:
    base = zoo.copy("llama")
    computed: list[int] = []
    for number, block in enumerate(base.model.layers):
        block.self_attn.register_forward_pre_hook(lambda *_, number=number: computed.append(number))
    assert_equal(*both_ways(zoo, "llama", replace(SETTINGS, steps=3, gradient_checkpointing=True), base))
    assert not base.is_gradient_checkpointing
    assert computed[-4:] == [0, 1, 1, 0], "of a pack too, each block again on the way back"


def test_gradients_are_clipped_for_each_slot_by_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 2, 5), (4, 2, 3)]
    stacks = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    sizes = torch.tensor([1e-3, 1.0, math.nan, 1e3])[:, None, None]
    gradients = [torch.randn(shape, generator=generator) * sizes for shape in shapes]
    for stack, gradient in zip(stacks, gradients, strict=True):
        stack.grad = gradient.clone()
    packed._clip(stacks, 0.5)
    for slot in range(4):
        alone = [torch.zeros(shape[1:], requires_grad=True) for shape in shapes]
        for parameter, gradient in zip(alone, gradients, strict=True):
            parameter.grad = gradient[slot].clone()
        torch.nn.utils.clip_grad_norm_(alone, 0.5)
        for parameter, stack in zip(alone, stacks, strict=True):
            assert stack.grad is not None
            torch.testing.assert_close(stack.grad[slot], parameter.grad, rtol=1e-6, atol=0, equal_nan=True)


def break_adapter(model: Any) -> None:
    for key, parameter in model.named_parameters():
        if "lora_B" in key:
            parameter.data.fill_(math.nan)


def test_a_slot_that_diverges_leaves_the_others_untouched(zoo: Zoo) -> None:
    base, task = zoo.base("llama"), make_task(zoo, "llama")
    alone, together = attached(zoo, "llama", base), attached(zoo, "llama", base)
    for models in (alone, together):
        break_adapter(models[1])
    settings = replace(SETTINGS, steps=11)
    with pytest.raises(TrainingDiverged) as caught:
        train(alone[1], task, settings)
    outcomes = train_packed(base, together, task, settings)
    assert isinstance(outcomes[1], TrainingDiverged)
    assert str(outcomes[1]) == str(caught.value) == "the training loss became nan by step 10"
    whole = (0, 2)
    results = [train(alone[slot], task, settings) for slot in whole]
    assert_equal(results, [alone[s] for s in whole], [outcomes[s] for s in whole], [together[s] for s in whole])


def test_training_ends_when_every_slot_has_diverged(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    base = zoo.base("llama")
    models = attached(zoo, "llama", base)
    for model in models:
        break_adapter(model)
    steps: list[int] = []

    def spy(optimiser: torch.optim.Optimizer, step: int, settings: TrainingSettings) -> None:
        steps.append(step)
        update(optimiser, step, settings)

    monkeypatch.setattr(packed, "update", spy)
    outcomes = train_packed(base, models, make_task(zoo, "llama"), replace(SETTINGS, steps=30))
    assert [str(outcome) for outcome in outcomes] == ["the training loss became nan by step 10"] * 3
    assert steps == list(range(10))


def plainly_attached(base: Any, **settings: Any) -> Any:
    return get_peft_model(twin(base), LoraConfig(r=2, target_modules=["v_proj"], **settings)).get_base_model()


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"lora_dropout": 0.1}, "lora_A.default.weight"),
        ({"use_dora": True}, "lora_A.default.weight"),
        ({"lora_bias": True}, "lora_B.default.bias"),
    ],
)
def test_an_adapter_that_computes_something_else_is_refused(zoo: Zoo, settings: dict[str, Any], parameter: str) -> None:
    base = zoo.base("llama")
    models = [plainly_attached(base), plainly_attached(base, **settings)]
    assert why_not_packed(base, models[:1], make_task(zoo, "llama")) is None
    path = f"model.layers.0.self_attn.v_proj.{parameter}"
    reason = f"{path} is trained, and is no weight of a plain LoRA layer without dropout"
    assert why_not_packed(base, models, make_task(zoo, "llama")) == reason


def test_adapters_of_experts_are_refused(zoo: Zoo) -> None:
    base, space = zoo.base("mixtral"), zoo.space("mixtral")
    model = attach(base, space, all_groups(space), seed=0).get_base_model()
    reason = why_not_packed(base, [model], make_task(zoo, "mixtral"))
    assert reason is not None
    assert reason.startswith("model.layers.0.mlp.experts.")
    assert reason.endswith(" is trained, and is no weight of a plain LoRA layer without dropout")


def test_an_encoder_is_refused(zoo: Zoo) -> None:
    base, space = zoo.base("bert"), zoo.space("bert")
    model = attach(base, space, all_groups(space), seed=0).get_base_model()
    assert why_not_packed(base, [model], make_task(zoo, "bert")) == "an encoder trains a head beside its adapter"


WHY = "its numbers for a row depend on the other rows of a pass (dropout, routed tokens, or layout)"


def test_a_base_with_dropout_is_refused_and_no_random_number_is_drawn(zoo: Zoo) -> None:
    base, space = zoo.base("gpt2"), zoo.space("gpt2")
    models = [attach(base, space, Placement.of(["c_attn"], 2), seed=0).get_base_model()]
    torch.manual_seed(3)
    assert why_not_packed(base, models, make_task(zoo, "gpt2")) == f"transformer.h.0.attn.c_attn: {WHY}"
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))


class Transposed(LlamaMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class Expert(LlamaMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Only some tokens are sent here."""
        flat = x.flatten(0, 1)
        sent = torch.arange(0, len(flat), 5)
        return torch.zeros_like(flat).index_copy(0, sent, super().forward(flat[sent])).view_as(x)


@pytest.mark.parametrize("unusual", [Transposed, Expert])
def test_a_layer_whose_input_is_not_slot_after_slot_is_refused(zoo: Zoo, unusual: type) -> None:
    base, space = zoo.copy("llama"), zoo.space("llama")
    models = [attach(base, space, Placement.of(["o_proj", "up_proj"], 2), seed=0).get_base_model()]
    assert why_not_packed(base, models, make_task(zoo, "llama")) is None
    base.model.layers[1].mlp.__class__ = unusual
    assert why_not_packed(base, models, make_task(zoo, "llama")) == f"model.layers.1.mlp.up_proj: {WHY}"


def test_a_base_that_mixes_rows_behind_all_adapters_is_refused(zoo: Zoo) -> None:
    base, space = zoo.copy("llama"), zoo.space("llama")
    models = [attach(base, space, Placement.of(["o_proj"], 2), seed=0).get_base_model()]
    base.model.layers[1].mlp.__class__ = Expert  # what it gives reaches the output head alone
    assert why_not_packed(base, models, make_task(zoo, "llama")) == f"output head: {WHY}"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_in_parts_or_in_one_go_the_result_is_the_same(zoo: Zoo, name: str) -> None:
    """The part before may have been made alone, and what is kept on the way is as good as what is returned."""
    settings = replace(SETTINGS, steps=30)
    base = calm_base(zoo, name)
    results, alone, outcomes, together = both_ways(zoo, name, settings, base)
    assert_equal(results, alone, outcomes, together, within=1e-4)
    task, cut = make_task(zoo, name), narrowest_cut(base)
    parted = attached(zoo, name, base)
    before = [train(model, task, settings, cut=cut, until=10) for model in parted]
    kept: list[list[Any]] = []
    stopped = train_packed(
        base, parted, task, settings, cut=cut, until=20, before=before, keep=lambda up: kept.append(up())
    )
    assert kept == []  # nothing is kept of what is returned anyhow
    ended = train_packed(
        base,
        parted,
        task,
        settings,
        cut=cut,
        before=[outcome for outcome in stopped if isinstance(outcome, TrainingResult)],
        keep=lambda up: kept.append(up()),
    )
    assert kept == []
    assert_equal(results, alone, ended, parted, within=1e-4)

    on_the_way = attached(zoo, name, base)
    train_packed(base, on_the_way, task, replace(settings, seed=1), cut=cut, keep=lambda up: kept.append(up()))
    assert [[outcome.steps for outcome in each] for each in kept] == [[10] * 3, [20] * 3]
    for outcome, model in zip(kept[1], on_the_way, strict=True):
        named = {key: p for key, p in model.named_parameters() if p.requires_grad}
        assert outcome.moments.keys() == named.keys()
        for key, moments in outcome.moments.items():
            assert moments["exp_avg"].shape == moments["exp_avg_sq"].shape == named[key].shape


def test_what_a_pack_keeps_goes_on_alone(zoo: Zoo) -> None:
    base, task, settings = zoo.base("llama"), make_task(zoo, "llama"), replace(SETTINGS, steps=20)
    alone, started = attached(zoo, "llama", base), attached(zoo, "llama", base)
    results = [train(model, task, settings) for model in alone]
    halves = train_packed(base, started, task, settings, until=10)
    ended = [
        train(model, task, settings, before=half)
        for model, half in zip(started, halves, strict=True)
        if isinstance(half, TrainingResult)
    ]
    assert_equal(results, alone, ended, started, within=1e-4)


def test_trainings_of_one_pass_begin_together(zoo: Zoo) -> None:
    base, task = zoo.base("llama"), make_task(zoo, "llama")
    before = [TrainingResult(steps) for steps in (0, 10, 10)]
    with pytest.raises(ValueError, match="begin at the same step"):
        train_packed(base, attached(zoo, "llama", base), task, SETTINGS, before=before)

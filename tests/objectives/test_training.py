"""The loop learns, repeats itself exactly, and says when it fails."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.accuracy import evaluate
from objectives.backbone import attach
from objectives.batches import pad
from objectives.cut import Cut
from objectives.encoding import EncodedRow, EncodedTask
from objectives.model import meta_model
from objectives.modules import module_space
from objectives.placement import Placement
from objectives.training import (
    TrainingDiverged,
    TrainingResult,
    TrainingSettings,
    completion_batch,
    default_learning_rate,
    learning_rate_at,
    step_batches,
    train,
)
from tests.objectives.tiny import CONFIGURATIONS, ENCODERS, Zoo, all_groups, make_task

FAST = TrainingSettings(steps=20, batch_size=8, learning_rate=1e-2)


def trained(
    zoo: Zoo, name: str, settings: TrainingSettings, task: EncodedTask | None = None, base: Any = None
) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
    space = zoo.space(name)
    model = attach(base or zoo.base(name), space, all_groups(space), seed=settings.seed).get_base_model()
    result = train(model, task or make_task(zoo, name), settings)
    assert not model.training
    return result, {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_loss_falls(zoo: Zoo, name: str) -> None:
    result, _ = trained(zoo, name, replace(FAST, steps=40 if name in ENCODERS else 20))
    losses = [loss for _, loss in result.losses]
    assert [step for step, _ in result.losses] == list(range(10, result.steps + 1, 10))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_same_seed_gives_the_same_weights_to_the_bit(zoo: Zoo, name: str) -> None:
    first, weights = trained(zoo, name, FAST)
    torch.rand(7)  # the state of the random generators before does not matter
    again, same = trained(zoo, name, FAST)
    assert first == again
    assert equal(weights, same)


def test_another_seed_gives_other_weights(zoo: Zoo) -> None:
    _, weights = trained(zoo, "llama", FAST)
    _, other = trained(zoo, "llama", replace(FAST, seed=1))
    assert not any(torch.equal(weights[key], other[key]) for key in weights)


def test_the_seed_decides_the_order_of_rows_and_what_dropout_draws(zoo: Zoo) -> None:
    """Beside the adapter's own beginning, which is the same here; and no ten steps draw what others drew."""
    space, task = zoo.space("gpt2"), make_task(zoo, "gpt2")

    def seen(seed: int) -> tuple[list[list[list[int]]], set[int]]:
        model = attach(zoo.base("gpt2"), space, all_groups(space), seed=0).get_base_model()
        batches: list[list[list[int]]] = []
        drawn: set[int] = set()

        def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            batches.append(kwargs["input_ids"].tolist())
            drawn.add(torch.initial_seed())
            assert all(module.training for module in model.modules()), "else nothing would be dropped"

        model.register_forward_pre_hook(note, with_kwargs=True)
        train(model, task, replace(FAST, steps=30, seed=seed))
        return batches, drawn

    (first, drawn), (other, others) = seen(0), seen(1)
    assert first != other
    assert len(drawn) == len(others) == 3
    assert not drawn & others


def test_the_loss_is_on_the_completion_alone(zoo: Zoo) -> None:
    rows = [EncodedRow([5, 6, 7], [8, 9]), EncodedRow([5], [6, 1])]
    ids, positions, targets = completion_batch(rows, pad_id=2, device=torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7, 8], [5, 6, 2, 2]]
    assert positions.tolist() == [2, 3, 4, 5]
    assert targets.tolist() == [8, 9, 6, 1]


def test_the_recorded_losses_are_means_over_the_steps_since(zoo: Zoo) -> None:
    task = make_task(zoo, "llama")
    result, _ = trained(zoo, "llama", replace(FAST, steps=13, learning_rate=1e-12), task)
    assert [step for step, _ in result.losses] == [10, 13]
    model = attach(zoo.base("llama"), zoo.space("llama"), all_groups(zoo.space("llama")), seed=0).get_base_model()
    ids, positions, targets = completion_batch(task.splits["train"], 2, torch.device("cpu"))
    with torch.inference_mode():
        logits = model(input_ids=ids).logits.reshape(-1, 320)[positions]
    whole = torch.nn.functional.cross_entropy(logits, targets).item()
    assert result.losses[0][1] == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_loss_that_is_no_number_ends_training_and_names_the_step(zoo: Zoo, name: str) -> None:
    with pytest.raises(TrainingDiverged) as caught:
        trained(zoo, name, replace(FAST, steps=30, learning_rate=1e30))
    assert str(caught.value) == "the training loss became nan by step 10"


def test_a_weight_that_is_no_number_is_noticed(zoo: Zoo) -> None:
    model = zoo.copy("llama")
    model.lm_head.weight.data[7] = math.nan
    adapted = attach(model, zoo.space("llama"), all_groups(zoo.space("llama")), seed=0).get_base_model()
    with pytest.raises(TrainingDiverged, match=r"^the training loss became nan by step 3$"):
        train(adapted, make_task(zoo, "llama"), replace(FAST, steps=3))
    assert not adapted.training


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_parts_of_a_batch_make_the_step_of_the_whole(zoo: Zoo, name: str) -> None:
    task = make_task(zoo, name)
    # As many rows as one step takes: then both ways take the same rows, whose completions differ in length.
    task = replace(task, splits={**task.splits, "train": task.splits["train"][:16]})
    settings = replace(FAST, steps=5, batch_size=16)
    base = zoo.copy(name)
    for module in base.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    whole, weights = trained(zoo, name, settings, task, base)
    parts, close = trained(zoo, name, replace(settings, batch_size=4, accumulate=4), task, base)
    assert parts.losses[0][1] == pytest.approx(whole.losses[0][1], rel=1e-4)
    for key, weight in weights.items():
        torch.testing.assert_close(close[key], weight, rtol=1e-2, atol=1e-3)


def test_a_training_is_that_of_a_plain_loop_with_the_loss_of_transformers(zoo: Zoo) -> None:
    """Every part of a step at work: warm-up, several batches, clipping and decay of weights."""
    settings = replace(
        FAST, steps=8, batch_size=4, accumulate=2, warmup=0.3, weight_decay=0.1, clip=0.5, label_weight=0
    )
    task = make_task(zoo, "llama")
    _, weights = trained(zoo, "llama", settings, task)
    model = attach(zoo.base("llama"), zoo.space("llama"), all_groups(zoo.space("llama")), seed=0).get_base_model()
    parameters = {key: p for key, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(parameters.values(), weight_decay=0.1)
    for step, batches in enumerate(step_batches(task, settings)):
        targets = sum(len(row.completion) for rows, _ in batches for row in rows)
        for rows, _ in batches:
            ids, _ = pad([row.prompt + row.completion for row in rows], 2)
            labels, _ = pad([[-100] * len(row.prompt) + row.completion for row in rows], -100)
            model(input_ids=ids, labels=labels, num_items_in_batch=targets).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 0.5)
        optimiser.param_groups[0]["lr"] = learning_rate_at(step, settings)
        optimiser.step()
        optimiser.zero_grad()
    for key, weight in weights.items():
        torch.testing.assert_close(weight, parameters[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "mamba", "bert"])
def test_checkpoints_of_activations_change_no_loss(zoo: Zoo, name: str) -> None:
    settings = replace(FAST, steps=10)
    plain, _ = trained(zoo, name, settings)
    checkpointed, _ = trained(zoo, name, replace(settings, gradient_checkpointing=True))
    assert checkpointed.losses[0][1] == pytest.approx(plain.losses[0][1], rel=1e-3)


def test_checkpoints_of_activations_are_taken_and_the_base_knows_nothing_of_it(zoo: Zoo) -> None:
    base = zoo.base("llama")
    space = zoo.space("llama")
    model = attach(base, space, all_groups(space), seed=0).get_base_model()
    train(model, make_task(zoo, "llama"), replace(FAST, steps=1, gradient_checkpointing=True))
    assert model.is_gradient_checkpointing
    assert not base.is_gradient_checkpointing
    assert not any(module._forward_hooks for module in base.modules())


def test_with_checkpoints_of_activations_frozen_blocks_below_the_first_adapter_are_computed_once(zoo: Zoo) -> None:
    config = CONFIGURATIONS["llama"]()
    space = module_space(meta_model(config, "causal"), config, "causal", bands=2)
    last = Placement.of((group.name for group in space.groups if group.name.endswith("@last")), 4)
    model = attach(zoo.base("llama"), space, last, seed=0).get_base_model()
    computed: list[int] = []
    for number, block in enumerate(model.model.layers):
        block.self_attn.register_forward_pre_hook(lambda *_, number=number: computed.append(number))
    train(model, make_task(zoo, "llama"), replace(FAST, steps=1, gradient_checkpointing=True))
    assert computed == [0, 1, 1]


@pytest.mark.parametrize("cut", ["block", "head"])
def test_what_is_cut_off_trains_alike(zoo: Zoo, cut: Cut) -> None:
    def losses(cut: Cut) -> list[tuple[int, float]]:
        space = zoo.space("llama")
        model = attach(zoo.base("llama"), space, all_groups(space), seed=0).get_base_model()
        return train(model, make_task(zoo, "llama"), FAST, cut=cut).losses

    for (_, few), (_, full) in zip(losses(cut), losses("none"), strict=True):
        assert few == pytest.approx(full, rel=1e-3)


def test_lean_training_trains_as_peft_does(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    lean, _ = trained(zoo, "llama", FAST)

    monkeypatch.setattr("objectives.training.lean_training", nullcontext)
    usual, _ = trained(zoo, "llama", FAST)
    for (_, a), (_, b) in zip(lean.losses, usual.losses, strict=True):
        assert a == pytest.approx(b, rel=1e-3)


@given(st.integers(1, 500), st.floats(0, 1), st.floats(1e-6, 1.0))
def test_the_learning_rate_rises_to_its_peak_and_falls_towards_zero(steps: int, warmup: float, peak: float) -> None:
    settings = TrainingSettings(steps=steps, warmup=warmup, learning_rate=peak)
    rates = [learning_rate_at(step, settings) for step in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(peak)
    assert all(rate > 0 for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_learning_rate_by_hand() -> None:
    settings = TrainingSettings(steps=10, warmup=0.2, learning_rate=0.8)
    rates = [learning_rate_at(step, settings) for step in range(10)]
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


def test_the_default_learning_rate_falls_with_width() -> None:
    rates = [default_learning_rate(width) for width in (16, 64, 256, 1024, 4096, 16384)]
    assert rates == sorted(rates, reverse=True)
    assert default_learning_rate(2000) == pytest.approx(5e-4)
    assert rates[0] == rates[1] == 3e-3, "the cap"


def test_looking_at_a_training_changes_nothing_about_it(zoo: Zoo) -> None:
    space, task = zoo.space("llama"), make_task(zoo, "llama")
    seen: list[int] = []
    runs = []
    for pauses in ((), (1, 7, 10)):
        model = attach(zoo.base("llama"), space, all_groups(space), seed=0).get_base_model()

        def look(step: int, model: Any = model) -> None:
            assert not model.training
            seen.append(step)
            evaluate(model, task, "validation", metric="accuracy")

        result = train(model, task, replace(FAST, steps=10), pauses=pauses, look=look)
        runs.append((result.losses, [p.detach() for p in model.parameters() if p.requires_grad]))
    assert seen == [1, 7, 10]
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))

"""Several adapters trained at once, on one pass of their frozen base.

Each adapter has a slot. A pass takes the rows of a batch once for each slot, slot after slot; an adapted layer computes
y = x W^T + s (x A^T) B^T with the A and B of all slots stacked, so that one batched product serves them all. The base
is frozen and treats each row alone, so nothing of one slot reaches another: the loss is summed over slots, and each
slot's gradients are those of training alone.

What it gains is in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from objectives.backbone import twin
from objectives.cut import Cut, logits_at
from objectives.encoding import EncodedRow, EncodedTask
from objectives.kernels import lean_training, merging_is_cheaper
from objectives.loss import CompletionLoss
from objectives.packable import lora_weights, plain_layers
from objectives.training import (
    TrainingDiverged,
    TrainingResult,
    TrainingSettings,
    checkpoint_activations,
    completion_batch,
    is_logged,
    make_optimiser,
    step_batches,
    update,
)

_PLAIN = torch.contiguous_format
Outcome = TrainingResult | TrainingDiverged


def train_packed(
    base: Any,
    models: Sequence[Any],
    task: EncodedTask,
    settings: TrainingSettings,
    *,
    cut: Cut = "head",
    until: int | None = None,
    before: Sequence[TrainingResult] | None = None,
    keep: Callable[[Callable[[], list[Outcome]]], object] = lambda _: None,
) -> list[Outcome]:
    """What :func:`~objectives.training.train` makes of each of ``models``, but for rounding; one outcome a model.

    ``models`` are twins of ``base`` with an adapter each, as ``attach(base, ...).get_base_model()`` gives them, against
    which :func:`~objectives.packable.why_not_packed` has nothing. At the end they hold the trained weights and are in
    evaluation mode. One that diverges does not touch the others; the error that ``train`` would have raised is then its
    outcome. Lets out-of-memory errors of the device through, and the models are then as they were.

    ``until`` and ``before`` are those of ``train``, the latter one for each model, all of as many steps. ``keep`` is
    called every ten steps on the way, with a function that brings the models up to date and returns what a later call
    takes as ``before``. Raises ValueError if trainings begin at different steps.
    """
    began = before[0].steps if before else 0
    if any(result.steps != began for result in before or ()):
        raise ValueError("trainings of one pass must begin at the same step")
    last = settings.steps if until is None else min(until, settings.steps)
    carrier, layers = _carry(base, models)
    stacks = [stack for layer in layers for stack in (layer.down, layer.up)]
    optimiser = make_optimiser(stacks, settings)
    if before:
        for layer in layers:
            layer.take_moments(optimiser, before)
    completion_loss = CompletionLoss(task.label_ids, settings.label_weight)
    cut = checkpoint_activations(carrier, settings, cut)
    outcomes: list[Outcome] = [TrainingResult(began, list(result.losses)) for result in before or ()]
    outcomes = outcomes or [TrainingResult() for _ in models]
    since_log: list[Tensor] = []

    def up_to_date() -> list[Outcome]:
        moments: list[dict[str, dict[str, Tensor]]] = [{} for _ in models]
        for layer in layers:
            layer.hand_back()
            for slot, name, state in layer.moments(optimiser):
                moments[slot][name] = state
        return [
            replace(outcome, moments=own) if isinstance(outcome, TrainingResult) else outcome
            for outcome, own in zip(outcomes, moments, strict=True)
        ]

    with _in_place(layers), lean_training(carrier.train()):
        for step, batches in islice(enumerate(step_batches(task, settings), start=1), began, last):
            for rows, share in batches:
                objectives, cross_entropies = _losses(carrier, len(models), rows, task.pad_id, cut, completion_loss)
                torch.autograd.backward((objectives * share).sum())
                since_log.append(cross_entropies.detach() * share)
            _clip(stacks, settings.clip)
            update(optimiser, step - 1, settings)
            if is_logged(step, settings):
                means = torch.stack(since_log).mean(0) * settings.accumulate
                since_log.clear()
                outcomes = [
                    _record(outcome, step, mean) for outcome, mean in zip(outcomes, means.tolist(), strict=True)
                ]
                if all(isinstance(outcome, TrainingDiverged) for outcome in outcomes):
                    break
                if step < last:
                    keep(up_to_date)
    for model in models:
        model.eval()
    return up_to_date()


@dataclass(frozen=True)
class _Part:
    """One parameter of one slot, and where in a stack it is."""

    slot: int
    name: str  # of the parameter in the slot's model
    own: Tensor
    stack: Tensor
    transposed: bool

    def of(self, stacked: Tensor) -> Tensor:
        """The part of a tensor like the stack, in the parameter's shape."""
        part = stacked[self.slot]
        return part[: self.own.shape[1]].mT if self.transposed else part[: self.own.shape[0]]


class _StackedLayer:
    """A linear layer of the base, and what the slots put onto it.

    ``down`` (slots, rank, inputs) is A, ``up`` (slots, rank, outputs) is B transposed. They hold zeros where a slot has
    a lower rank or no adapter; the gradient of these is zero as well, so AdamW leaves them there. Multiplying
    zeros was measured to cost less than picking the slots that have an adapter and putting their rows back.
    """

    def __init__(self, path: str, base: Any, adapters: dict[int, Any], slots: int) -> None:
        self._path = path
        self.base = base
        self._adapters = adapters
        some = next(iter(adapters.values()))
        rank = max(len(lora_weights(adapter)[0]) for adapter in adapters.values())
        like = lora_weights(some)[0].detach()
        self.down = like.new_zeros(slots, rank, some.in_features)
        self.up = like.new_zeros(slots, rank, some.out_features)
        self._scaling = like.new_zeros(slots, 1, 1)
        for slot, adapter in adapters.items():
            self._scaling[slot] = adapter.scaling[adapter.active_adapters[0]]
        for part in self._parts():
            part.of(part.stack).copy_(part.own.detach())
        self.down.requires_grad_()
        self.up.requires_grad_()
        self._frozen = base.weight if some.fan_in_fan_out else base.weight.mT
        on_cpu = like.device.type == "cpu" and base.weight.dtype == torch.float32
        self._merged = on_cpu and merging_is_cheaper(some.in_features, some.out_features, rank)

    def _parts(self) -> Iterator[_Part]:
        for slot, adapter in self._adapters.items():
            name = adapter.active_adapters[0]
            down, up = lora_weights(adapter)
            yield _Part(slot, f"{self._path}.lora_A.{name}.weight", down, self.down, transposed=False)
            yield _Part(slot, f"{self._path}.lora_B.{name}.weight", up, self.up, transposed=True)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs); the leading sizes together are slots x rows, slot after slot."""
        up = self.up * self._scaling
        by_slot = x.reshape(len(up), -1, x.shape[-1])
        if self._merged:
            weight = torch.baddbmm(self._frozen.expand(len(up), -1, -1), self.down.mT, up)
            out = by_slot.bmm(weight)
            if self.base.bias is not None:
                out.add_(self.base.bias)
        else:
            out = type(self.base).forward(self.base, x).view(len(up), -1, up.shape[-1])
            out.add_(by_slot.to(up.dtype).bmm(self.down.mT).bmm(up))
        return out.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def hand_back(self) -> None:
        """Copy each slot's weights to its own adapter."""
        for part in self._parts():
            part.own.copy_(part.of(part.stack))

    def moments(self, optimiser: torch.optim.Optimizer) -> Iterator[tuple[int, str, dict[str, Tensor]]]:
        """Slot, parameter of its model, and what the optimiser keeps of that."""
        for part in self._parts():
            kept = optimiser.state[part.stack].items()
            # Copies in the parameter's own layout: fused optimisers go through both by address.
            own = {kind: (part.of(value) if value.dim() else value).clone(memory_format=_PLAIN) for kind, value in kept}
            yield part.slot, part.name, own

    def take_moments(self, optimiser: torch.optim.Optimizer, before: Sequence[TrainingResult]) -> None:
        for part in self._parts():
            state = optimiser.state[part.stack]
            for kind, value in before[part.slot].moments[part.name].items():
                if not value.dim():  # the count of steps, the same for all
                    state[kind] = value.clone()
                    continue
                part.of(state.setdefault(kind, torch.zeros_like(part.stack, requires_grad=False))).copy_(value)


def _carry(base: Any, models: Sequence[Any]) -> tuple[Any, list[_StackedLayer]]:
    """A twin of ``base``, and the layers with which its passes give each slot the adapter of its model."""
    carrier = twin(base)
    adapters: dict[str, dict[int, Any]] = {}
    for slot, model in enumerate(models):
        for path, layer in plain_layers(model).items():
            adapters.setdefault(path, {})[slot] = layer
    return carrier, [
        _StackedLayer(path, carrier.get_submodule(path), here, len(models)) for path, here in adapters.items()
    ]


@contextmanager
def _in_place(layers: Sequence[_StackedLayer]) -> Iterator[None]:
    """Within, the carrier computes by them. After, nothing refers to itself, so that stacks and moments go at once."""
    for layer in layers:
        layer.base.forward = layer.forward
    try:
        yield
    finally:
        for layer in layers:
            del layer.base.forward


def _losses(
    carrier: Any, slots: int, rows: list[EncodedRow], pad_id: int, cut: Cut, loss: CompletionLoss
) -> tuple[Tensor, Tensor]:
    """What each slot minimises, and the cross-entropy that is recorded, each (slots,)."""
    ids, positions, targets = completion_batch(rows, pad_id, carrier.device)
    starts = torch.arange(slots, device=ids.device)[:, None] * ids.numel()
    return loss(logits_at(carrier, ids.repeat(slots, 1), (starts + positions).flatten(), cut=cut), targets, rows)


def _clip(stacks: Sequence[Tensor], limit: float) -> None:
    """:func:`torch.nn.utils.clip_grad_norm_` for each slot by itself."""
    gradients = [stack.grad for stack in stacks if stack.grad is not None]
    norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factors = (limit / (norms + 1e-6)).clamp(max=1.0)[:, None, None]
    for gradient in gradients:
        gradient.mul_(factors)


def _record(outcome: Outcome, step: int, mean: float) -> Outcome:
    if isinstance(outcome, TrainingResult):
        outcome.steps = step
        try:
            outcome.record(step, mean)
        except TrainingDiverged as error:
            return error.with_traceback(None)  # which would hold all models of the pack, and their optimiser
    return outcome

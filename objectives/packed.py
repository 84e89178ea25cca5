"""Several adapters trained at once, on one pass of their frozen base.

Each adapter has a slot. A pass takes the rows of a batch once for each slot, slot after slot; an adapted layer computes
y = x W^T + s (x A^T) B^T with the A and B of all slots stacked, so that one batched product serves them all. The base
is frozen and treats each row alone, so nothing of one slot reaches another: the loss is summed over slots, and each
slot's gradients are those of training alone.

What it gains is in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def train_packed(
    base: Any, models: Sequence[Any], task: EncodedTask, settings: TrainingSettings, *, cut: Cut = "head"
) -> list[TrainingResult | TrainingDiverged]:
    """What :func:`~objectives.training.train` makes of each of ``models``, but for rounding; one outcome a model.

    ``models`` are twins of ``base`` with an adapter each, as ``attach(base, ...).get_base_model()`` gives them, against
    which :func:`~objectives.packable.why_not_packed` has nothing. At the end they hold the trained weights and are in
    evaluation mode. One that diverges does not touch the others; the error that ``train`` would have raised is then its
    outcome. Lets out-of-memory errors of the device through, and the models are then as they were.
    """
    carrier, layers = _carry(base, models)
    stacks = [stack for layer in layers for stack in (layer.down, layer.up)]
    optimiser = make_optimiser(stacks, settings)
    completion_loss = CompletionLoss(task.label_ids, settings.label_weight)
    checkpoint_activations(carrier, settings)
    outcomes: list[TrainingResult | TrainingDiverged] = [TrainingResult() for _ in models]
    since_log: list[Tensor] = []
    with lean_training(carrier.train()):
        for step, batches in enumerate(step_batches(task, settings), start=1):
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
    for layer in layers:
        layer.hand_back()
    for model in models:
        model.eval()
    return outcomes


class _StackedLayer:
    """A linear layer of the base, and what the slots put onto it.

    ``down`` (slots, rank, inputs) is A, ``up`` (slots, rank, outputs) is B transposed. They hold zeros where a slot has
    a lower rank or no adapter; the gradient of these is zero as well, so AdamW leaves them there. Multiplying
    zeros was measured to cost less than picking the slots that have an adapter and putting their rows back.
    """

    def __init__(self, base: Any, adapters: dict[int, Any], slots: int) -> None:
        self._base = base
        self._adapters = adapters
        some = next(iter(adapters.values()))
        rank = max(len(lora_weights(adapter)[0]) for adapter in adapters.values())
        like = lora_weights(some)[0].detach()
        self.down = like.new_zeros(slots, rank, some.in_features)
        self.up = like.new_zeros(slots, rank, some.out_features)
        self._scaling = like.new_zeros(slots, 1, 1)
        for slot, adapter in adapters.items():
            self._scaling[slot] = adapter.scaling[adapter.active_adapters[0]]
        for own, stacked in self._pairs():
            stacked.copy_(own.detach())
        self.down.requires_grad_()
        self.up.requires_grad_()
        self._frozen = base.weight if some.fan_in_fan_out else base.weight.mT
        on_cpu = like.device.type == "cpu" and base.weight.dtype == torch.float32
        self._merged = on_cpu and merging_is_cheaper(some.in_features, some.out_features, rank)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each adapter's own weights, and the part of the stacks that is theirs, in the same shape."""
        for slot, adapter in self._adapters.items():
            down, up = lora_weights(adapter)
            yield down, self.down[slot, : len(down)]
            yield up, self.up[slot, : len(down)].mT

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs); the leading sizes together are slots x rows, slot after slot."""
        up = self.up * self._scaling
        by_slot = x.reshape(len(up), -1, x.shape[-1])
        if self._merged:
            weight = torch.baddbmm(self._frozen.expand(len(up), -1, -1), self.down.mT, up)
            out = by_slot.bmm(weight)
            if self._base.bias is not None:
                out.add_(self._base.bias)
        else:
            out = type(self._base).forward(self._base, x).view(len(up), -1, up.shape[-1])
            out.add_(by_slot.to(up.dtype).bmm(self.down.mT).bmm(up))
        return out.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def hand_back(self) -> None:
        """Copy each slot's weights to its own adapter."""
        for own, stacked in self._pairs():
            own.copy_(stacked)


def _carry(base: Any, models: Sequence[Any]) -> tuple[Any, list[_StackedLayer]]:
    """A twin of ``base`` in whose passes each slot has the adapter of its model, and the layers that make it so."""
    carrier = twin(base)
    adapters: dict[str, dict[int, Any]] = {}
    for slot, model in enumerate(models):
        for path, layer in plain_layers(model).items():
            adapters.setdefault(path, {})[slot] = layer
    layers = []
    for path, here in adapters.items():
        module = carrier.get_submodule(path)
        layers.append(_StackedLayer(module, here, len(models)))
        module.forward = layers[-1].forward
    return carrier, layers


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


def _record(outcome: TrainingResult | TrainingDiverged, step: int, mean: float) -> TrainingResult | TrainingDiverged:
    if isinstance(outcome, TrainingResult):
        outcome.steps = step
        try:
            outcome.record(step, mean)
        except TrainingDiverged as error:
            return error
    return outcome

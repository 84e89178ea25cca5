"""Our own training loop: one adapter on a frozen base that is already in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from objectives.batches import pad, training_order
from objectives.class_logits import class_logits
from objectives.cut import Cut, logits_at
from objectives.encoding import EncodedRow, EncodedTask
from objectives.kernels import lean_training
from objectives.loss import CompletionLoss

#: Steps over which training losses are averaged.
LOSS_EVERY = 10


@dataclass(frozen=True)
class TrainingSettings:
    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.0
    clip: float = 1.0  # norm of all gradients together
    accumulate: int = 1  # batches whose gradients make one step, as if they were one batch
    gradient_checkpointing: bool = False
    label_weight: float = 4.0  # of the choice among labels, see CompletionLoss; 0 for the likelihood alone
    seed: int = 0


@dataclass
class TrainingResult:
    """How far a training is. ``moments`` are the optimiser's, by parameter: with them it can go on later."""

    steps: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)  # (step, mean cross-entropy since the entry before)
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def record(self, step: int, mean: float) -> None:
        """Raises TrainingDiverged if the mean loss since the entry before is no finite number."""
        if not math.isfinite(mean):
            raise TrainingDiverged(f"the training loss became {mean} by step {step}", step)
        self.losses.append((step, mean))


def default_learning_rate(hidden_size: int) -> float:
    """5e-4 (2000 / hidden size)^0.775, at most 3e-3.

    The fit of Schulman et al., "LoRA Without Regret" (2025), for Llama models: ten times the rate of full fine-tuning,
    falling with width, nearly independent of rank. The cap is ours: narrower models than those fitted diverge above it.
    """
    return min(3e-3, 5e-4 * math.pow(2000 / hidden_size, 0.775))


class TrainingDiverged(Exception):
    """The loss is not a number, or infinite. The message names the step, which is ``step``."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def completion_batch(rows: list[EncodedRow], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids (rows, tokens) of prompt + completion, the positions (n,) that predict a completion token, and those tokens.

    The last token of a row predicts nothing, so it is left off.
    """
    ids, _ = pad([(row.prompt + row.completion)[:-1] for row in rows], pad_id)
    width = ids.shape[1]
    positions = [
        index * width + len(row.prompt) - 1 + offset
        for index, row in enumerate(rows)
        for offset in range(len(row.completion))
    ]
    targets = [token for row in rows for token in row.completion]
    return ids.to(device), torch.tensor(positions, device=device), torch.tensor(targets, device=device)


def learning_rate_at(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then linear decay to zero; ``step`` counts from 0."""
    warmup = max(1, round(settings.steps * settings.warmup))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * (settings.steps - step) / max(1, settings.steps - warmup)


def step_batches(task: EncodedTask, settings: TrainingSettings) -> Iterator[list[tuple[list[EncodedRow], float]]]:
    """For each step its batches of training rows, each with its share of the step's loss; the shares sum to one."""
    rows = task.splits["train"]
    lengths = [len(row.prompt) + len(row.completion) for row in rows]
    order = training_order(lengths, settings.batch_size, settings.steps * settings.accumulate, settings.seed)
    for _ in range(settings.steps):
        batches = [[rows[i] for i in next(order)] for _ in range(settings.accumulate)]
        weights = [_targets(batch) for batch in batches]
        yield [(batch, weight / sum(weights)) for batch, weight in zip(batches, weights, strict=True)]


def is_logged(step: int, settings: TrainingSettings) -> bool:
    """Whether losses are read after ``step``, counted from 1: reading each would make a GPU wait each time."""
    return step % LOSS_EVERY == 0 or step == settings.steps


def make_optimiser(parameters: list[Tensor], settings: TrainingSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def update(optimiser: torch.optim.Optimizer, step: int, settings: TrainingSettings) -> None:
    """Step number ``step``, counted from 0, of the schedule; the gradients are gone after it."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate_at(step, settings)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def checkpoint_activations(model: Any, settings: TrainingSettings, cut: Cut) -> Cut:
    """Turn gradient checkpointing on where the settings ask for it; the cut with which to train then.

    Blocks are computed again when a pass is over and its cut is gone, so none may be inside one. Only those that a
    gradient goes through are: frozen ones below the first adapter keep nothing, and are computed once.
    """
    if not settings.gradient_checkpointing:
        return cut
    model.gradient_checkpointing_enable({"use_reentrant": False})
    # transformers lets gradients go down to the embeddings, which reentrant checkpoints alone need.
    model.disable_input_require_grads()
    return "head" if cut == "block" else cut


def is_reversible(model: Any) -> bool:
    """Whether layers have a way back of their own, as Reformer's: it begins only where what comes in requires a
    gradient, and needs texts that are padded to whole chunks.
    """
    return any(hasattr(module, "backward_pass") for module in model.modules())


def train(
    model: Any,
    task: EncodedTask,
    settings: TrainingSettings,
    *,
    cut: Cut = "head",
    together: bool = True,
    pauses: Collection[int] = (),
    look: Callable[[int], object] = lambda _: None,
    keep: Callable[[TrainingResult], object] | None = None,
    until: int | None = None,
    before: TrainingResult | None = None,
) -> TrainingResult:
    """Train the parameters of ``model`` that require gradients; deterministic for a seed, device and thread count.

    Rows of an encoder have padding only where they may go ``together`` (see
    :func:`~objectives.class_logits.padding_is_masked`).

    To ``until`` steps, which is all of them unless it is given; from where the training ``before`` ended, whose weights
    ``model`` then has. In parts or in one go, the result is the same if parts are multiples of ten steps, over which
    losses are averaged.

    After each step of ``pauses``, counted from 1, ``look`` is called with it; the model is then in evaluation mode, and
    the training goes on as if nobody had looked. ``keep`` is called every ten steps on the way with what a later call
    takes as ``before``: to be written at once, since its tensors are those that the next step changes.

    Raises TrainingDiverged; lets out-of-memory errors of the device through.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    device = parameters[0].device
    last = settings.steps if until is None else min(until, settings.steps)
    optimiser = make_optimiser(parameters, settings)
    steps = step_batches(task, settings)
    completion_loss = CompletionLoss(task.label_ids, settings.label_weight)
    cut = checkpoint_activations(model, settings, cut)
    result = TrainingResult()
    if before is not None:
        result = TrainingResult(before.steps, list(before.losses))
        optimiser.state.update({named[name]: dict(moments) for name, moments in before.moments.items()})
        for _ in range(before.steps):
            next(steps)
    since_log: list[Tensor] = []

    def moments() -> dict[str, dict[str, Tensor]]:
        return {name: dict(optimiser.state[parameter]) for name, parameter in named.items()}

    def step() -> None:
        if result.steps % LOSS_EVERY == 0:
            # For the base model's own dropout: a training in parts then draws what one in one go draws.
            torch.manual_seed(settings.seed * 1_000_003 + result.steps)
        for rows, share in next(steps):
            objective, cross_entropy = _losses(model, rows, task, device, cut, completion_loss, together)
            torch.autograd.backward(objective * share)
            since_log.append(cross_entropy.detach() * share)
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        update(optimiser, result.steps, settings)
        result.steps += 1
        if is_logged(result.steps, settings):
            mean = torch.stack(since_log).mean().item() * settings.accumulate
            since_log.clear()
            result.record(result.steps, mean)
            if keep is not None and result.steps < last:
                keep(replace(result, moments=moments()))

    try:
        for end in sorted({step for step in pauses if result.steps < step < last} | {last}):
            model.train()
            with lean_training(model):
                while result.steps < end:
                    step()
            model.eval()
            if end in pauses:
                look(end)
    finally:
        model.eval()
    result.moments = moments()
    return result


def _targets(rows: list[EncodedRow]) -> int:
    """How many terms the means of :func:`_losses` have, so that parts of a batch weigh as they would in the whole."""
    return sum(max(1, len(row.completion)) for row in rows)


def _losses(
    model: Any,
    rows: list[EncodedRow],
    task: EncodedTask,
    device: torch.device,
    cut: Cut,
    loss: CompletionLoss,
    together: bool,
) -> tuple[Tensor, Tensor]:
    """What is minimised, and the cross-entropy that is recorded, each ()."""
    if task.kind == "encoder":
        logits = class_logits(model, rows, task.pad_id, together)
        labels = torch.tensor([row.label for row in rows], device=device)
        cross_entropy = functional.cross_entropy(logits.float(), labels)
        return cross_entropy, cross_entropy
    ids, positions, targets = completion_batch(rows, task.pad_id, device)
    objective, cross_entropy = loss(logits_at(model, ids, positions, cut=cut), targets, rows)
    return objective[0], cross_entropy[0]

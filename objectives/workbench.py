"""One worker's bench: the base model and the data stay, placements come and go."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from objectives.accuracy import Evaluation, evaluate
from objectives.adapter import save_adapter
from objectives.backbone import attach, load_adapter
from objectives.batched_generation import rows_keep_apart
from objectives.causality import check_causal
from objectives.checkpoint import SUFFIX, Keeper, load_checkpoint, save_checkpoint
from objectives.class_logits import padding_is_masked
from objectives.cut import narrowest_cut
from objectives.device_errors import free_memory, is_broken_for_good, is_out_of_memory
from objectives.encoding import EncodedTask
from objectives.errors import ModelError, in_a_line
from objectives.heads import head_parameters
from objectives.label_scoring import prompt_is_shareable
from objectives.latency import LatencySettings
from objectives.latency.context import profile_context
from objectives.latency.engine import measure
from objectives.latency.in_process import InProcessPair, TransformersEngine
from objectives.model import load_base
from objectives.modules import ModuleSpace
from objectives.packable import why_not_packed
from objectives.packed import Outcome, train_packed
from objectives.placement import BASE, CUSTOMARY_ALPHA, Alpha, Placement
from objectives.storage import Storage
from objectives.tokenizer import load_tokenizer
from objectives.training import TrainingDiverged, TrainingResult, TrainingSettings, train

#: Where memory ran out in a trial, what may help.
_ADAPTER = "lower --ranks, or fewer --workers"
_TRAINING = "a smaller --batch-size with --accumulate, or --gradient-checkpointing"
_EVALUATION = "a smaller --max-tokens, or fewer --workers: it takes no --batch-size"


@dataclass(frozen=True)
class Assignment:
    """What all trials of a search have in common; travels once through the object store."""

    model: Path
    space: ModuleSpace
    task: EncodedTask
    metric: str
    training: TrainingSettings
    latency: LatencySettings
    adapters: Storage  # which every worker can write to
    threads: int
    alpha: Alpha = CUSTOMARY_ALPHA
    max_ratio: float | None = None
    checkpoint_seconds: float = 30.0  # of training, from one checkpoint to the next
    trust_remote_code: bool = False
    uses_gpu: bool = True  # where torch sees one
    hub_id: str | None = None  # that `model` is a snapshot of


@dataclass(frozen=True)
class Request:
    """Of a trial; ``profile`` is a latency profile known from before, ``name`` the adapter's."""

    placement: Placement
    name: str
    profile: Mapping[str, Any] | None = None


class _Trial:
    """A request on its way to an outcome."""

    def __init__(self, request: Request, parameters: int) -> None:
        self.request = request
        self.checkpoint = f"{request.name}{SUFFIX}"
        self.seconds: dict[str, float] = {}
        self.measurement: dict[str, Any] = {"parameters": parameters, "seconds": self.seconds}
        self.outcome: dict[str, Any] = {"status": None, "reason": None, "steps": 0, "measurement": self.measurement}
        self.adapted: Any = None
        self.model: Any = None
        self.before: TrainingResult | None = None
        self.trained: TrainingResult | None = None

    @property
    def is_open(self) -> bool:
        return self.outcome["status"] is None

    def close(self, status: str, reason: str | None = None) -> None:
        self.outcome |= {"status": status, "reason": reason}

    def diverged(self, error: TrainingDiverged) -> None:
        self.outcome["steps"] = error.step
        self.close("failed", f"{error}: try a lower --learning-rate")


class Workbench:
    """Measures placements of one assignment. Everything it returns is plain and ready for JSON."""

    def __init__(self, assignment: Assignment) -> None:
        """Raises ModelError if the model cannot be loaded, computes nan, or should be causal and is not."""
        on_gpu = assignment.uses_gpu and torch.cuda.is_available()
        torch.set_num_threads(assignment.threads)
        self._given = assignment
        self.device = torch.device("cuda" if on_gpu else "cpu")
        torch.manual_seed(assignment.training.seed)  # the head of an encoder is new
        self.base = load_base(
            assignment.model,
            assignment.space.kind,
            torch.bfloat16 if on_gpu else torch.float32,
            self.device,
            labels=list(assignment.task.labels) if assignment.space.kind == "encoder" else None,
            trust_remote_code=assignment.trust_remote_code,
        )
        if assignment.hub_id is not None:
            # PEFT names the base model in every adapter; the snapshot's folder means nothing on another machine.
            self.base.name_or_path = self.base.config.name_or_path = assignment.hub_id
        self.tokenizer = load_tokenizer(assignment.model, assignment.trust_remote_code)
        self._encoder = assignment.space.kind == "encoder"
        if not self._encoder:
            check_causal(self.base, assignment.model)
        self.cut = "none" if self._encoder else narrowest_cut(self.base)
        pad_id = assignment.task.pad_id
        self.by_prompt = not self._encoder and prompt_is_shareable(self.base, pad_id, self.cut)
        if self._encoder:
            self.base.config.pad_token_id = pad_id  # by which some find the last token of a text
            self.together = padding_is_masked(self.base, assignment.model, assignment.task)
        else:
            self.together = assignment.task.task != "generation" or rows_keep_apart(self.base, pad_id)
        self._most = sys.maxsize  # trainings of one pass for which there was memory
        self._was_short = False  # of memory, a moment ago
        self.engine = TransformersEngine(self.base, assignment.space, assignment.latency)

    def measure_base(self, profile: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The base model on validation, timed against itself: the ratio shows what noise alone does.

        ``profile`` is its latency where that was measured elsewhere.

        Raises ModelError if the model computes no finite loss.
        """
        seconds: dict[str, float] = {}
        with _timed(seconds, "latency"):
            latency = dict(profile) if profile else self._profile(self.engine.open(BASE, self._given.training.seed))
        with _timed(seconds, "evaluation"):
            validation = self._evaluate(self.base, "validation")
        if not math.isfinite(validation["loss"]):
            raise ModelError(
                f"{self._given.model} has a loss of {validation['loss']}: its weights hold no usable numbers."
            )
        return {
            "validation": validation,
            "latency": latency,
            "latency_context": self._latency_context(),
            "seconds": seconds,
            "device": self._device_name(),
            "dtype": str(self.base.dtype).removeprefix("torch."),
        }

    def measure(self, requests: Sequence[Request], until: int | None = None) -> list[dict[str, Any]]:
        """Latency of each, then, of those within the cap, training and validation; an outcome for each request.

        Of a latency that was measured here the outcome has the ``latency_context`` too: by that others may find it.

        With ``until`` below all steps the trainings stop there, without validation, and leave checkpoints beside the
        adapters, from which the next call for these trials goes on; so does the next call after a process that died on
        the way. Trainings from the same step are made in one pass of the base model where that is possible.

        A diverged or out-of-memory training is a result ("failed" with its reason), not an exception; a disk or server
        that refuses is a StoreError. Lets through an error after which the device does no more in this process.
        """
        head = head_parameters(self.base)
        trials = [_Trial(request, self._given.space.parameters(request.placement) + head) for request in requests]
        for trial in trials:
            with self._answering(trial, _ADAPTER):
                self._begin(trial)
        self._train([trial for trial in trials if trial.is_open], until, self._most)
        for trial in trials:
            if trial.is_open:
                with self._answering(trial, _EVALUATION):
                    self._end(trial)
        return [trial.outcome for trial in trials]

    def _begin(self, trial: _Trial) -> None:
        given = self._given
        self._attach(trial)
        with _timed(trial.seconds, "latency"):
            latency = trial.request.profile or self._profile(self.engine.beside(trial.model, given.training.seed))
        trial.measurement["latency"] = dict(latency)
        if not trial.request.profile:
            trial.outcome["latency_context"] = self._latency_context()
        if given.max_ratio is not None and (ratio := latency["ratio"]) > given.max_ratio:
            trial.close(
                "infeasible", f"latency ratio {ratio:.3f} is above --max-tpot-ratio {given.max_ratio:g}: not trained"
            )

    def _attach(self, trial: _Trial) -> None:
        given = self._given
        with _timed(trial.seconds, "attach"):
            trial.adapted = attach(
                self.base, given.space, trial.request.placement, seed=given.training.seed, alpha=given.alpha
            )
            trial.model = trial.adapted.get_base_model()

    def _train(self, trials: Sequence[_Trial], until: int | None, most: int) -> None:
        """As many as ``most`` in one pass, as far as that is possible."""
        by_start: dict[int, list[_Trial]] = {}
        for trial in trials:
            with self._answering(trial), _timed(trial.seconds, "training"):
                trial.before = load_checkpoint(self._given.adapters, trial.checkpoint, trial.model)
                if trial.before is not None:
                    trial.outcome["steps"] = trial.measurement["continued_from"] = trial.before.steps
                by_start.setdefault(trial.before.steps if trial.before else 0, []).append(trial)
        packs = [alike[first : first + most] for alike in by_start.values() for first in range(0, len(alike), most)]
        for alike in packs:
            if len(alike) == 1 or why_not_packed(self.base, [trial.model for trial in alike], self._given.task):
                for trial in alike:
                    with self._answering(trial):
                        self._train_alone(trial, until)
            elif (fewer := self._train_packed(alike, until)) is not None:
                for trial in alike:
                    with self._answering(trial, _ADAPTER):
                        self._attach(trial)  # it may be on its way: back to its start, or its checkpoint
                self._train([trial for trial in alike if trial.is_open], until, fewer)

    def _train_alone(self, trial: _Trial, until: int | None) -> None:
        given = self._given
        with _timed(trial.seconds, "training"):
            trial.trained = train(
                trial.model,
                given.task,
                given.training,
                cut=self.cut,
                together=self.together,
                until=until,
                before=trial.before,
                keep=Keeper(given.adapters, trial.checkpoint, trial.model, given.checkpoint_seconds),
            )

    def _train_packed(self, trials: Sequence[_Trial], until: int | None) -> int | None:
        """None, or how many to train at once instead: half where memory is short, as of all packs to come, else one."""
        given = self._given
        keepers = [Keeper(given.adapters, t.checkpoint, t.model, given.checkpoint_seconds) for t in trials]

        def keep(up_to_date: Callable[[], list[Outcome]]) -> None:
            if keepers[-1].is_due:  # the last one made is the last to be
                for keeper, outcome in zip(keepers, up_to_date(), strict=True):
                    if isinstance(outcome, TrainingResult):
                        keeper(outcome)

        seconds: dict[str, float] = {}
        before = [trial.before for trial in trials if trial.before is not None]
        outcomes: list[Outcome] = []
        refused, is_short = None, False
        try:
            with _timed(seconds, "training"):
                outcomes = train_packed(
                    self.base,
                    [trial.model for trial in trials],
                    given.task,
                    given.training,
                    cut=self.cut,
                    until=until,
                    before=before,
                    keep=keep,
                )
        except (MemoryError, RuntimeError) as error:
            if is_broken_for_good(error):
                raise
            refused, is_short = in_a_line(error), is_out_of_memory(error)
        finally:
            for trial in trials:
                trial.seconds["training"] += seconds["training"] / len(trials)
        if refused is not None:
            if is_short:
                self._was_short = True
                self._most = len(trials) // 2
                return self._most
            for trial in trials:
                trial.measurement["not_packed"] = refused
            return 1
        for trial, outcome in zip(trials, outcomes, strict=True):
            trial.measurement["packed"] = len(trials)
            if isinstance(outcome, TrainingDiverged):  # raised, it would hold this frame, with all adapters in it
                trial.diverged(outcome)
            else:
                trial.trained = outcome
        return None

    def _end(self, trial: _Trial) -> None:
        given, trained = self._given, trial.trained
        assert trained is not None
        trial.outcome["steps"] = trained.steps
        trial.measurement["losses"] = trained.losses
        if trained.steps < given.training.steps:
            with _timed(trial.seconds, "saving"):
                save_checkpoint(given.adapters, trial.checkpoint, trial.model, trained)
            trial.close("stopped")
            return
        with _timed(trial.seconds, "evaluation"):
            validation = self._evaluate(trial.model, "validation")
        if not math.isfinite(validation["loss"]):  # the last step did it
            raise TrainingDiverged(
                f"the validation loss became {validation['loss']} by step {trained.steps}", trained.steps
            )
        trial.measurement["validation"] = validation
        with _timed(trial.seconds, "saving"):
            trial.outcome["adapter"] = given.adapters.at(trial.request.name)
            trial.outcome["adapter_sha256"] = save_adapter(trial.adapted, given.adapters, trial.request.name)
            given.adapters.delete(trial.checkpoint)
        trial.close("complete")

    @contextmanager
    def _answering(self, trial: _Trial, remedy: str = _TRAINING) -> Iterator[None]:
        """What goes wrong within is the trial's, and ends it; a disk or server that refuses is not its fault.

        ``remedy`` is that for memory that is short.
        """
        if self._was_short:  # not when the error came: whoever handles one holds its tensors
            free_memory()
            self._was_short = False
        try:
            yield
        except TrainingDiverged as error:
            trial.diverged(error)
        except (MemoryError, RuntimeError) as error:
            if is_broken_for_good(error):
                raise
            if is_out_of_memory(error):
                self._was_short = True
                trial.close("failed", f"out of memory: try {remedy}")
            else:
                trial.close("failed", in_a_line(error))

    def test(self, adapter: str | None) -> dict[str, Any]:
        """The test split with a stored adapter, read back from its location; with the base model for ``None``."""
        if adapter is None:
            return self._evaluate(self.base, "test")
        return self._evaluate(load_adapter(self.base, adapter), "test")

    def _profile(self, pair: InProcessPair) -> dict[str, Any]:
        given = self._given
        return measure(pair, given.latency, seed=given.training.seed, engine=self.engine.name)

    def _latency_context(self) -> str:
        return profile_context(self._given.space, self.engine.facts, self._given.latency)

    def _evaluate(self, model: Any, split: str) -> dict[str, Any]:
        return self.evaluate(model, split).to_json(self._given.training.seed)

    def evaluate(self, model: Any, split: str) -> Evaluation:
        """``model`` is the base or a twin of it with an adapter, in evaluation mode."""
        return evaluate(
            model,
            self._given.task,
            split,
            metric=self._given.metric,
            tokenizer=self.tokenizer,
            cut=self.cut,
            by_prompt=self.by_prompt,
            together=self.together,
        )

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start

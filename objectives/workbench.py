"""One worker's bench: the base model and the data stay, placements come and go."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from objectives.accuracy import Evaluation, evaluate
from objectives.adapter import adapter_at, save_adapter
from objectives.backbone import attach
from objectives.checkpoint import SUFFIX, Keeper, load_checkpoint, save_checkpoint
from objectives.cut import narrowest_cut
from objectives.encoding import EncodedTask
from objectives.errors import ModelError, StoreError
from objectives.label_scoring import prompt_is_shareable
from objectives.latency import LatencySettings
from objectives.latency.context import profile_context
from objectives.latency.engine import measure
from objectives.latency.in_process import InProcessPair, TransformersEngine
from objectives.model import load_model, load_tokenizer
from objectives.modules import ModuleSpace
from objectives.placement import BASE, CUSTOMARY_ALPHA, Alpha, Placement
from objectives.storage import Storage
from objectives.training import TrainingDiverged, TrainingSettings, train


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


class Workbench:
    """Measures placements of one assignment. Everything it returns is plain and ready for JSON."""

    def __init__(self, assignment: Assignment) -> None:
        """Raises ModelError if the model cannot be loaded."""
        on_gpu = torch.cuda.is_available()
        torch.set_num_threads(assignment.threads)
        self._given = assignment
        self.device = torch.device("cuda" if on_gpu else "cpu")
        torch.manual_seed(assignment.training.seed)  # the head of an encoder is new
        self.base = load_model(
            assignment.model,
            assignment.space.kind,
            torch.bfloat16 if on_gpu else torch.float32,
            self.device,
            labels=list(assignment.task.labels) if assignment.space.kind == "encoder" else None,
            trust_remote_code=assignment.trust_remote_code,
        )
        self.tokenizer = load_tokenizer(assignment.model)
        self._encoder = assignment.space.kind == "encoder"
        self.cut = "none" if self._encoder else narrowest_cut(self.base)
        pad_id = assignment.task.pad_id
        self.by_prompt = not self._encoder and prompt_is_shareable(self.base, pad_id, self.cut)
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
            "latency_context": profile_context(self._given.space, self.engine.facts, self._given.latency),
            "seconds": seconds,
            "device": self._device_name(),
        }

    def measure(
        self, placement: Placement, name: str, profile: Mapping[str, Any] | None, until: int | None = None
    ) -> dict[str, Any]:
        """Latency, then, if that is within the cap, training and validation.

        ``profile`` is a latency profile known from before, ``name`` the adapter's. With ``until`` below all steps the
        training stops there, without validation, and leaves a checkpoint beside the adapter, from which the next call
        for this trial goes on; so does the next call after a process that died on the way.

        A diverged or out-of-memory training is a result ("failed" with its reason), not an exception; a disk or server
        that refuses is a StoreError.
        """
        seconds: dict[str, float] = {}
        given = self._given
        measurement: dict[str, Any] = {"parameters": given.space.parameters(placement), "seconds": seconds}
        outcome: dict[str, Any] = {"status": "complete", "reason": None, "steps": 0, "measurement": measurement}
        try:
            with _timed(seconds, "attach"):
                adapted = attach(self.base, given.space, placement, seed=given.training.seed, alpha=given.alpha)
                model = adapted.get_base_model()
            with _timed(seconds, "latency"):
                measurement["latency"] = (
                    dict(profile) if profile else self._profile(self.engine.beside(model, given.training.seed))
                )
            ratio = measurement["latency"]["ratio"]
            if given.max_ratio is not None and ratio > given.max_ratio:
                reason = f"latency ratio {ratio:.3f} is above --max-tpot-ratio {given.max_ratio:g}: not trained"
                return outcome | {"status": "infeasible", "reason": reason}
            checkpoint = f"{name}{SUFFIX}"
            with _timed(seconds, "training"):
                before = load_checkpoint(given.adapters, checkpoint, model)
                if before is not None:
                    measurement["continued_from"] = before.steps
                keeper = Keeper(given.adapters, checkpoint, model, given.checkpoint_seconds)
                trained = train(
                    model, given.task, given.training, cut=self.cut, until=until, before=before, keep=keeper
                )
            outcome["steps"] = trained.steps
            measurement["losses"] = trained.losses
            if trained.steps < given.training.steps:
                with _timed(seconds, "saving"):
                    save_checkpoint(given.adapters, checkpoint, model, trained)
                return outcome | {"status": "stopped"}
            with _timed(seconds, "evaluation"):
                validation = self._evaluate(model, "validation")
            if not math.isfinite(validation["loss"]):  # the last step did it
                raise TrainingDiverged(f"the validation loss became {validation['loss']} by step {trained.steps}")
            measurement["validation"] = validation
            with _timed(seconds, "saving"):
                outcome["adapter"] = given.adapters.at(name)
                outcome["adapter_sha256"] = save_adapter(adapted, given.adapters, name)
                given.adapters.delete(checkpoint)
        except StoreError:
            raise
        except TrainingDiverged as error:
            return outcome | {"status": "failed", "reason": f"{error}: try a lower --learning-rate"}
        except (MemoryError, RuntimeError) as error:
            return outcome | {"status": "failed", "reason": self._memory_reason(error)}
        return outcome

    def test(self, adapter: str | None) -> dict[str, Any]:
        """The test split with a stored adapter, read back from its location; with the base model for ``None``."""
        if adapter is None:
            return self._evaluate(self.base, "test")
        return self._evaluate(load_adapter(self.base, adapter), "test")

    def _profile(self, pair: InProcessPair) -> dict[str, Any]:
        given = self._given
        return measure(pair, given.latency, seed=given.training.seed, engine=self.engine.name)

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
        )

    def _device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"cpu, {torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"

    def _memory_reason(self, error: BaseException) -> str:
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not out_of_memory:
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return "out of memory: try a smaller --batch-size with --accumulate, or --gradient-checkpointing"


def load_adapter(base: Any, location: str) -> Any:
    """A PEFT model in eval mode with a stored adapter, on a twin of ``base``. Raises RequestError for a pickle."""
    from peft import PeftModel

    from objectives.backbone import twin

    with adapter_at(location, None) as folder:
        return PeftModel.from_pretrained(twin(base), str(folder)).eval().get_base_model()


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] = time.perf_counter() - start

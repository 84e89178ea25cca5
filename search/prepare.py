"""From a request to what a search needs: the model's structure, the encoded data, every open value filled in."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.cores import cores
from objectives.errors import ModelError, RequestError
from objectives.placement import Alpha, Placement
from search.asked import baseline_of, named_placements, placements_of, with_names_of
from search.names import INSTALLED
from search.series import Before
from search.spec import SearchSpec

if TYPE_CHECKING:
    from objectives.data import Task
    from objectives.workbench import Assignment
    from search.strategy.space import PlacementSpace

_PACKAGES = ("torch", "transformers", "peft", "ray", "optuna", "mlflow-skinny", "lora-target-search")
#: Trials of one pass on a GPU: see benchmarks/README.md, "Packed training".
_PACK = 8
_DEFAULT_STEPS = {"classification": 200, "generation": 300}
#: Rows that are read by default; more make a trial slow and an interval little narrower. Always said in the notes.
_DEFAULT_ROWS: Mapping[Task, tuple[int, int]] = {"classification": (500, 2000), "generation": (64, 200)}
#: Rows of train that are tokenised, if training takes no more: hundreds of thousands are gigabytes in every worker, of
#: which 200 steps of 16 see 3,200.
_TRAIN_ROWS = 50_000


@dataclass(frozen=True)
class Prepared:
    """What a search needs beside its spec: from model and data, and from the searches of its series that came before.

    The same on every resume.
    """

    spec: SearchSpec  # with every value that was left open filled in
    facts: dict[str, Any]
    assignment: Assignment
    space: PlacementSpace
    references: dict[Placement, str]
    before: Before = field(default_factory=Before)
    baseline: Placement | None = None

    @property
    def again(self) -> list[Placement]:
        """What is tried first and to its end, whatever is known of it: what the series asks for, and the baseline."""
        asked = [] if self.baseline is None else [self.baseline]
        return list(dict.fromkeys([*self.before.again(self.spec.budget), *asked]))


def prepare(spec: SearchSpec) -> Prepared:
    """Read the model's structure and the data, and fill in what the spec leaves open. Raises RequestError."""
    from objectives import demo
    from objectives.data import load_data
    from objectives.encoding import encode
    from objectives.fingerprint import model_digest
    from objectives.fitting import ended_once, with_position_doubt, within_vocabulary
    from objectives.heads import head_parameters_of
    from objectives.latency import LatencySettings
    from objectives.metrics import resolve_metric
    from objectives.model import (
        check_weights,
        context_length,
        kind_of,
        load_config,
        meta_model,
        resolve,
    )
    from objectives.modules import module_space
    from objectives.quantised import check_quantised
    from objectives.secrets import redacted
    from objectives.storage import Folder
    from objectives.tokenizer import answer_ends, load_tokenizer
    from objectives.training import TrainingSettings, default_learning_rate
    from objectives.workbench import Assignment

    oversights = _oversights(spec)
    model = spec.model or str(demo.model_dir())
    source = spec.data or str(demo.data_dir())
    folder = resolve(model, spec.trust_remote_code)
    config = load_config(folder, spec.trust_remote_code)
    check_quantised(config, folder)
    kind = kind_of(config)
    data = load_data(
        source,
        spec.task,  # type: ignore[arg-type]
        seed=spec.seed,
        validation_rows=spec.validation_rows,
        test_rows=spec.test_rows,
        default_rows=_DEFAULT_ROWS,
    )
    if kind == "encoder" and data.task == "generation":
        raise RequestError(
            f"model {model} is an encoder ({config.model_type}) and cannot generate text: choose a causal language "
            "model"
        )
    metric = resolve_metric(data.task, spec.metric)
    check_weights(folder)
    structure = meta_model(config, kind, max(2, len(data.labels)))
    _check_training(spec, structure, model, config.model_type)
    space = module_space(structure, config, kind, spec.bands)
    if not space.groups:
        raise ModelError(f"model {model} ({config.model_type}) has no module that an adapter can target")
    space.check_ranks(spec.ranks)
    spec = with_names_of(spec, space)
    tokenizer = load_tokenizer(folder, spec.trust_remote_code)
    max_tokens = min(spec.max_tokens, context_length(structure, kind, tokenizer))
    steps = spec.steps or (demo.STEPS if spec.data is None else _DEFAULT_STEPS[data.task])
    data = data.with_train_of(max(_TRAIN_ROWS, steps * spec.batch_size * spec.accumulate), spec.seed)
    ends = answer_ends(folder, config)
    task = encode(data, tokenizer, kind, max_tokens=max_tokens, template=spec.template, ends=ends)
    task = with_position_doubt(ended_once(within_vocabulary(task, config, folder), config), config)
    spec = replace(
        spec,
        model=model,
        data=source,
        task=data.task,
        metric=metric,
        steps=steps,
        learning_rate=spec.learning_rate or default_learning_rate(space.hidden_size),
        training_seed=spec.seed if spec.training_seed is None else spec.training_seed,
        validation_rows=len(data.splits["validation"]),
        test_rows=len(data.splits["test"]),
        gpus_per_trial=_default_gpus() if spec.gpus_per_trial is None else spec.gpus_per_trial,
    )
    spec = replace(spec, workers=spec.workers or _default_workers(spec))
    spec = replace(spec, pack=spec.pack or _default_pack(spec))
    assert spec.learning_rate is not None
    assert spec.training_seed is not None
    head = 0
    if kind == "encoder" and spec.max_adapter_mb is not None:  # else not asked for: it reads every shard's header
        head = 4 * head_parameters_of(structure, folder)
    placements = placements_of(spec, space, head)
    facts = {
        "model": model,
        "data": source,
        "task": data.task,
        "metric": metric,
        "data_hash": data.digest,
        "structure": space.structure,
        "model_digest": model_digest(folder),
        "template": task.template,
        "scoring": task.scoring(),
        "kind": space.kind,
        "model_type": config.model_type,
        "labels": list(task.labels),
        "notes": [*oversights, *data.notes, *task.notes()],
        "versions": {package: version(package) for package in _PACKAGES} | {"python": platform.python_version()},
        "command": redacted(_command(spec)),
        "groups": [group.name for group in space.groups],
    }
    assert spec.workers is not None
    assignment = Assignment(
        model=folder.absolute(),
        space=space,
        task=task,
        metric=metric,
        training=TrainingSettings(
            steps=steps,
            batch_size=spec.batch_size,
            learning_rate=spec.learning_rate,
            label_weight=spec.label_weight,
            accumulate=spec.accumulate,
            gradient_checkpointing=spec.gradient_checkpointing,
            seed=spec.training_seed,
        ),
        latency=LatencySettings(),
        adapters=Folder(Path()),  # depends on the search
        threads=threads_for(spec.workers),
        alpha=Alpha.parse(spec.alpha),
        max_ratio=spec.max_tpot_ratio,
        checkpoint_seconds=spec.checkpoint_seconds,
        trust_remote_code=spec.trust_remote_code,
        uses_gpu=bool(spec.gpus_per_trial),  # Ray leaves a worker that asked for none those of its machine
        hub_id=None if Path(model).expanduser().is_dir() else model,
    )
    named, baseline = named_placements(spec, space), baseline_of(spec, space)
    return Prepared(spec, facts, assignment, placements, named, baseline=baseline)


def _oversights(spec: SearchSpec) -> list[str]:
    """What may not have been meant, and no figure would show."""
    found = []
    if spec.model is None and spec.data is not None:
        found.append("no --model was given: the base model is the demonstration's, a Llama of 0.2 million parameters")
    if spec.data is None and spec.model is not None:
        found.append("no --data was given: the rows are the demonstration's, messages to a web shop")
    if spec.keep is not None and spec.series is None:
        found.append(f"--keep {spec.keep} is not used: it is for the searches of a --series")
    if spec.stop_when == "settled" and spec.strategy not in ("auto", "additive"):
        found.append(
            f"--stop-when settled is not used: --strategy {spec.strategy} does not tell when a front is settled"
        )
    return found


def _check_training(spec: SearchSpec, structure: Any, model: str, model_type: str) -> None:
    """Raises RequestError, or ModelError, where the model cannot be trained as it was asked for."""
    from objectives.training import is_reversible

    if spec.gradient_checkpointing and not structure.supports_gradient_checkpointing:
        raise RequestError(
            f"--gradient-checkpointing: transformers has none for model type {model_type!r}: leave it out; "
            "where memory is short take a smaller --batch-size with --accumulate"
        )
    if is_reversible(structure):
        raise ModelError(
            f"model {model} ({model_type}) has reversible layers, which learn only where gradients reach the "
            "embeddings, and an adapter leaves those frozen: choose another model"
        )


def _command(spec: SearchSpec) -> str:
    """What to write to search again, in a shell, or in Python where that began the search."""
    program = Path(sys.argv[0])
    if program.stem == INSTALLED or program.match("search/__main__.py"):
        return shlex.join(["python", "-m", "search", *sys.argv[1:]])
    return f"Search.run({spec})"


def _default_gpus() -> float:
    import torch

    return 1.0 if torch.cuda.is_available() else 0.0


def _default_workers(spec: SearchSpec) -> int:
    """As many as Ray has room for at once: those beyond would have trials that are chosen and wait.

    Each takes a core, and a share of a GPU is of one GPU: five GPUs hold five workers of 0.6, not eight.
    """
    import torch

    if torch.cuda.is_available() and spec.gpus_per_trial != 0:
        devices, each = torch.cuda.device_count(), spec.gpus_per_trial or 1.0
        return max(1, min(cores(), devices * int(1 / each) if each < 1 else int(devices / each)))
    return cores()


def _default_pack(spec: SearchSpec) -> int:
    """On a GPU a small pass is bound by launching its kernels, and one for several trials launches no more.

    Of a spec whose GPUs and workers are known.
    """
    assert spec.workers is not None
    return max(1, min(_PACK, spec.budget // spec.workers)) if spec.gpus_per_trial else 1


def threads_for(workers: int) -> int:
    """Of each worker: its share of the cores, and no more than OMP_NUM_THREADS allows.

    Threads that wait for each other on cores that others use are many times slower than one.
    """
    share = max(1, cores() // workers)
    allowed = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(share, int(allowed)) if allowed.isdecimal() and int(allowed) > 0 else share

"""Gives adapters of this project to vLLM's own code, as ``serve.sh`` would, and compares its logits with PEFT's.

    python -m benchmarks.vllm_loading                     tiny models with random weights, of the types below
    python -m benchmarks.vllm_loading --types llama,gpt2
    python -m benchmarks.vllm_loading --model DIR         a model of yours

It has to run where vLLM can be imported. No GPU and none of vLLM's kernels are needed: what reads the adapter, LoRA
layers, fused layers and the model are vLLM's, in float32 and by their PyTorch forms; attention alone is written here.
For each module group, all groups, and the last third of the layers, a random adapter is made, and vLLM is configured by
the command of :func:`objectives.latency.deployment.deployment`.

An adapter is served right if vLLM's logits are PEFT's, to a thousandth of what the adapter moves them by, and exact if
vLLM wrapped only layers that the adapter has weights for: any other costs latency for nothing. What is not is printed
by itself.
"""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.vllm_on_cpu import take_python_kernels
from objectives.adapter import WEIGHTS, adapted_layers, adapter_config
from objectives.latency.deployment import deployment
from objectives.latency.server import write_random_adapter
from objectives.model import kind_of, load_config, meta_model
from objectives.modules import ModuleSpace, module_space
from objectives.placement import Placement

TOKENS = torch.tensor([1, 5, 9, 40, 77, 3, 200, 31])
RANK = 8
_SIZES: dict[str, Any] = {"vocab_size": 256, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_USUAL = _SIZES | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
}
_OLDER = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
TYPES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "granite", "olmo2", "starcoder2", "gemma2", "gemma3_text"), _USUAL
    ),
    "cohere": _USUAL,
    "glm4": _USUAL,
    "phi3": _USUAL,
    "phi": _USUAL,
    "stablelm": _USUAL,
    "gpt_neox": _USUAL,
    "gpt2": _SIZES | _OLDER,
    "gptj": _SIZES | _OLDER | {"rotary_dim": 16},
    "opt": _USUAL | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "falcon": _SIZES | {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
    "bloom": _SIZES | {"hidden_size": 64, "n_layer": 3, "n_head": 4},
}


@dataclass(frozen=True)
class Case:
    """``logits`` are PEFT's, (tokens, vocabulary); ``moves`` is how far the adapter moves one at most."""

    label: str
    adapter: Path
    command: list[str]
    logits: torch.Tensor
    moves: float

    def after(self, option: str) -> list[str]:
        rest = self.command[self.command.index(option) + 1 :]
        return rest[: next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))]


@dataclass(frozen=True)
class Outcome:
    """``off`` is the largest difference of a logit from PEFT's, beside how far the adapter moves one."""

    wrapped: int
    adapted: int
    off: float
    moves: float

    @property
    def is_right(self) -> bool:
        return self.off <= 1e-3 * self.moves and self.wrapped == self.adapted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vllm_loading",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--types", help=f"of {', '.join(TYPES)}: all of them by default, unless --model is given")
    asked = parser.parse_args(argv)
    if asked.model:
        return int(not check(asked.model))
    print("| model | placements served right | logits off by at most | of | otherwise |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    right = True
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.types.split(",") if asked.types else TYPES:
            _tiny(name, Path(scratch, name))
            # vLLM changes transformers where it is imported: each model has a process of its own.
            command = [sys.executable, "-m", "benchmarks.vllm_loading", "--model", f"{scratch}/{name}"]
            right &= subprocess.run(command, check=False).returncode == 0
    return int(not right)


def _tiny(name: str, folder: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **TYPES[name]))
    for parameter in model.parameters():
        if parameter.ndim > 1:  # at the usual 0.02 all logits of so small a model would be nearly nothing
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)


def check(folder: Path) -> bool:
    """Prints a row for the model in ``folder``; gives whether vLLM serves as PEFT does whatever we say that it does."""
    wrong: list[str] = []
    served: list[Outcome] = []
    with tempfile.TemporaryDirectory() as scratch:
        cases, otherwise = _cases(folder, Path(scratch))
        take_python_kernels()
        for case in cases:
            try:
                one = _serve(folder, case)
            except Exception as error:  # of whatever kind vLLM refuses with
                wrong.append(f"**{case.label}: {type(error).__name__}, {' '.join(str(error).split())[:200]}**")
                continue
            if one.is_right:
                served.append(one)
            else:
                wrong.append(f"**{case.label}: {one}**")
    worst = max(served, key=lambda one: one.off / one.moves, default=None)
    figures = f"{worst.off:.0e} | {worst.moves:.1f}" if worst else " | "
    counted = f"{len(served)} of {len(cases)}" if cases else ""
    print(f"| {folder.name} | {counted} | {figures} | {'; '.join([*wrong, *otherwise])} |", flush=True)
    return not wrong


def _cases(folder: Path, scratch: Path) -> tuple[list[Case], list[str]]:
    """What is served, and a clause for each reason why another placement is not, with how many have it."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model_type = base.config.model_type
    cases, reasons = [], Counter[str]()
    with torch.no_grad():
        plain = base(TOKENS[None]).logits[0]
        for label, placement, space in _placements(folder):
            out = scratch / label
            write_random_adapter(folder, space, placement, 0, out)
            _enlarge(out / WEIGHTS)
            found = deployment(adapter_config(out), adapted_layers(out), str(folder), "it", model_type=model_type)
            if not found["loads"]:
                reasons.update(found["why_not"])
                continue
            adapted = PeftModel.from_pretrained(base, out).eval()
            logits = adapted(TOKENS[None]).logits[0]
            adapted.unload()
            moves = (logits - plain).abs().max().item()
            cases.append(Case(label, out, shlex.split(found["command"]), logits, moves))
    return cases, [f"{count} not offered, {why}" for why, count in reasons.items()]


def _placements(folder: Path) -> Iterator[tuple[str, Placement, ModuleSpace]]:
    whole, banded = _space(folder, 1), _space(folder, 3)
    for group in whole.groups:
        yield group.name, Placement.of([group.name], RANK), whole
    yield "all groups", Placement.of([group.name for group in whole.groups], RANK), whole
    last = [group.name for group in banded.groups if group.name.endswith("@last")]
    yield "last band of all", Placement.of(last, RANK), banded


def _space(folder: Path, bands: int) -> ModuleSpace:
    config = load_config(folder)
    return module_space(meta_model(config, kind_of(config)), config, kind_of(config), bands)


def _enlarge(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file({name: tensor * 10 for name, tensor in load_file(file).items()}, file)


def _serve(folder: Path, case: Case) -> Outcome:
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.forward_context import set_forward_context
    from vllm.lora.layers import LoRAMapping
    from vllm.lora.request import LoRARequest
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.model_executor.layers.attention import Attention
    from vllm.model_executor.model_loader import get_model

    Attention.forward = _attend
    config = EngineArgs(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
        skip_tokenizer_init=True,
        enable_lora=True,
        max_lora_rank=int(case.after("--max-lora-rank")[0]),
        lora_target_modules=case.after("--lora-target-modules"),
    ).create_engine_config()
    with set_current_vllm_config(config), torch.no_grad(), set_forward_context(None, config, num_tokens=len(TOKENS)):
        _alone()
        worker = WorkerLoRAManager(config, torch.device("cpu"), {})
        model = worker.create_lora_manager(get_model(vllm_config=config), config)
        mapping = LoRAMapping((1,) * len(TOKENS), (1,), is_prefill=True)
        worker.set_active_adapters({LoRARequest("it", 1, str(case.adapter))}, mapping)
        served = model.compute_logits(model(TOKENS, torch.arange(len(TOKENS))))
    layers = model.lora_manager.modules.values()
    del worker
    gc.collect()
    return Outcome(
        wrapped=len(layers),
        adapted=sum(any(bool(part.any()) for part in layer.lora_b_stacked) for layer in layers),
        off=(served[:, : case.logits.shape[1]] - case.logits).abs().max().item(),
        moves=case.moves,
    )


def _alone() -> None:
    """vLLM's process group, of this process only; it wants to be asked for under a configuration."""
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.distributed.parallel_state import model_parallel_is_initialized

    if not model_parallel_is_initialized():
        init_distributed_environment(1, 0, f"file://{tempfile.mkdtemp()}/meeting", 0, "gloo")
        initialize_model_parallel(1, 1)


def _attend(self: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Causal attention of one prompt, (tokens, heads x head size): there is no cache and no batch."""
    q, k, v = (
        part.view(len(query), -1, size).transpose(0, 1)[None]
        for part, size in ((query, self.head_size), (key, self.head_size), (value, self.head_size_v))
    )
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).transpose(-1, -2) * self.impl.scale
    if cap := getattr(self.impl, "logits_soft_cap", None):
        scores = cap * torch.tanh(scores / cap)
    if (slopes := getattr(self.impl, "alibi_slopes", None)) is not None:
        at = torch.arange(len(query))
        scores = scores + torch.as_tensor(slopes)[None, :, None, None] * (at[None, :] - at[:, None])
    later = torch.ones(len(query), len(query), dtype=torch.bool).triu(1)
    mixed: torch.Tensor = scores.masked_fill(later, -torch.inf).softmax(-1) @ v.repeat_interleave(
        q.shape[1] // v.shape[1], 1
    )
    return mixed[0].transpose(0, 1).reshape(len(query), -1)


if __name__ == "__main__":
    raise SystemExit(main())

"""Gives adapters of this project to vLLM's own code, as ``serve.sh`` would, and compares its logits with PEFT's.

    python -m benchmarks.vllm_loading                     tiny models with random weights, of the types below
    python -m benchmarks.vllm_loading --types llama,gpt2
    python -m benchmarks.vllm_loading --model DIR         a model of yours

It has to run where vLLM can be imported. No GPU and none of vLLM's kernels are needed: what reads the adapter, LoRA
layers, fused layers and the model are vLLM's, in float32 and by their PyTorch forms; attention alone is written here.
For each module group, all linear layers, and the last third of them, a random adapter is made, and vLLM is configured
by the command of :func:`objectives.latency.deployment.deployment`.

An adapter is served right if vLLM's layers hold all of it, vLLM's logits are PEFT's, to a thousandth of what the
adapter moves them by, and, where the command is said to be exact, only layers are wrapped that the adapter has weights
for: any other costs latency for nothing. What is not is printed by itself. Models of experts and of states have kernels
that are not written here: of these the adapter's place is checked, and no logits.
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
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from benchmarks.architectures import REQUIRED
from benchmarks.architectures_live import SMALL
from benchmarks.vllm_on_cpu import take_python_kernels
from objectives.adapter import WEIGHTS, adapted_layers, adapter_config
from objectives.latency.deployment import deployment
from objectives.latency.server import write_random_adapter
from objectives.model import kind_of, load_config, meta_model
from objectives.modules import ModuleSpace, module_space
from objectives.placement import Placement

TOKENS = torch.tensor([1, 5, 9, 40, 77, 3, 200, 31])
RANK = 8
#: Small sizes, by the names that configurations have for them, and few experts; each type takes those that it knows.
_SIZES: dict[str, Any] = {
    **SMALL,
    "vocab_size": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "block_ff_dim"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "linear_num_value_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "linear_num_key_heads"), 2),
    **dict.fromkeys(("head_dim", "rotary_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "mamba_d_ssm"), 128),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 32),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 48),
    **dict.fromkeys(("n_shared_experts", "mamba_n_groups"), 1),
    # Of states and linear attention.
    **dict.fromkeys(("mamba_d_state", "mamba_d_head", "linear_key_head_dim", "linear_value_head_dim"), 16),
    "mamba_n_heads": 8,
}
#: What a type has otherwise, or beside.
_OWN: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4, "topk_method": "noaux_tc"},
    "falcon": {"head_dim": None},
    "lfm2": {"block_dim": 64, "block_multiple_of": 16, "block_ffn_dim_multiplier": 1.0, "conv_bias": False},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention", "full_attention"]},
}
#: Decoders like Llama, others that are dense, with experts, with parts that are no attention; what is refused.
TYPES = (
    *("llama", "mistral", "qwen2", "qwen3", "granite", "olmo2", "olmo3", "gemma2", "gemma3_text", "cohere", "cohere2"),
    *("ernie4_5", "exaone4", "bitnet", "starcoder2", "glm4", "phi3", "phi", "gpt_neox", "opt", "gpt_bigcode"),
    *("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "granitemoeshared", "deepseek_v2", "deepseek_v3"),
    *("falcon_h1", "granitemoehybrid", "jamba", "lfm2", "qwen3_next"),
    *("bamba", "codegen", "stablelm", "gpt2", "gptj", "falcon", "bloom"),
)


@dataclass(frozen=True)
class Case:
    """``logits`` are PEFT's, (tokens, vocabulary); ``moves`` is how far the adapter moves one at most."""

    label: str
    adapter: Path
    command: list[str]
    exact: bool
    logits: torch.Tensor
    moves: float

    def after(self, option: str) -> list[str]:
        rest = self.command[self.command.index(option) + 1 :]
        return rest[: next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))]


@dataclass(frozen=True)
class Outcome:
    """``held`` is the share of the adapter that vLLM's layers hold; ``off`` the largest difference of a logit from
    PEFT's, beside how far the adapter moves one, and None where a kernel is missing."""

    wrapped: int
    adapted: int
    held: float
    off: float | None
    moves: float

    def is_right(self, exact: bool) -> bool:
        right = abs(self.held - 1) < 1e-3 and (self.off is None or self.off <= 1e-3 * self.moves)
        return right and (self.wrapped == self.adapted or not exact)


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
    needed = REQUIRED.get(name, {})
    known = CONFIG_MAPPING[name](**needed)
    sizes = {field: size for field, size in _SIZES.items() if hasattr(known, field)} | _OWN.get(name, {})
    fields = needed | {field: size for field, size in sizes.items() if size is not None}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**fields), dtype=torch.float32)
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
            if one.is_right(case.exact):
                served.append(one)
            else:
                wrong.append(f"**{case.label}: {one}**")
    worst = max(((one.off, one.moves) for one in served if one.off is not None), key=_share, default=None)
    figures = f"{worst[0]:.0e} | {worst[1]:.1f}" if worst else "not run | " if served else " | "
    counted = f"{len(served)} of {len(cases)}" if cases else ""
    print(f"| {folder.name} | {counted} | {figures} | {'; '.join([*wrong, *otherwise])} |", flush=True)
    return not wrong


def _share(figures: tuple[float, float]) -> float:
    off, moves = figures
    return off / moves


def _cases(folder: Path, scratch: Path) -> tuple[list[Case], list[str]]:
    """What is served, and a clause for each reason why another placement is not, with how many have it."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model_type = base.config.model_type
    cases, reasons = [], Counter[str]()
    with torch.no_grad():
        plain = base(TOKENS[None], use_cache=False).logits[0]
        for label, placement, space in _placements(folder):
            out = scratch / label
            write_random_adapter(folder, space, placement, 0, out)
            _enlarge(out / WEIGHTS)
            found = deployment(adapter_config(out), adapted_layers(out), str(folder), "it", model_type=model_type)
            if not found["loads"]:
                reasons.update(found["why_not"])
                continue
            adapted = PeftModel.from_pretrained(base, out).eval()
            logits = adapted(TOKENS[None], use_cache=False).logits[0]
            adapted.unload()
            moves = (logits - plain).abs().max().item()
            cases.append(Case(label, out, shlex.split(found["command"]), found["exact"], logits, moves))
    return cases, [f"{count} not offered, {why}" for why, count in reasons.items()]


def _placements(folder: Path) -> Iterator[tuple[str, Placement, ModuleSpace]]:
    whole, banded = _space(folder, 1), _space(folder, 3)
    for group in whole.groups:
        yield group.name, Placement.of([group.name], RANK), whole
    every, last = (
        [group.name for group in space.groups if group.kind == "linear" and group.name.endswith(band)]
        for space, band in ((whole, ""), (banded, "@last"))
    )
    yield "all layers", Placement.of(every, RANK), whole
    if last:
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
        layers = model.lora_manager.modules.values()
        held = [sum(part.double().square().sum().item() for part in layer.lora_b_stacked) for layer in layers]
        off = _off(model, case.logits)
    del worker, model
    gc.collect()
    return Outcome(
        wrapped=len(held),
        adapted=sum(squares > 0 for squares in held),
        held=sum(held) / _squares(case.adapter),
        off=off,
        moves=case.moves,
    )


def _off(model: Any, logits: torch.Tensor) -> float | None:
    """None where vLLM has a kernel for it alone, which is not here: of experts, in Triton, and of states.

    Lets every other error through.
    """
    if any("Mamba" in type(module).__name__ for module in model.modules()):
        return None
    try:
        served = model.compute_logits(model(TOKENS, torch.arange(len(TOKENS))))
    except AttributeError as error:
        if "triton.language" not in str(error):  # an empty module of vLLM's own, where Triton is not
            raise
        return None
    off: float = (served[:, : logits.shape[1]] - logits).abs().max().item()
    return off


def _squares(adapter: Path) -> float:
    """Of the products' second factors, which vLLM scales when it loads them."""
    from safetensors.torch import load_file

    config = adapter_config(adapter)
    scale = config["lora_alpha"] / config["r"]
    weights = load_file(adapter / WEIGHTS).items()
    total: float = sum((scale * weight.double()).square().sum().item() for name, weight in weights if "lora_B" in name)
    return total


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

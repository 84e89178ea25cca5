"""How vLLM is started so that an adapter costs what was measured, and whether it would load the adapter at all.

Without ``--lora-target-modules`` vLLM wraps every linear layer that it supports, whatever an adapter targets, and at
``--max-lora-rank`` its kernels compute: both decide the latency more than the adapter does. Sources: vLLM's
``lora/peft_helper.py`` (what a configuration may hold) and ``lora/utils.py``, ``is_in_target_modules`` (what names
match). ``python -m benchmarks.vllm_loading`` gives adapters to vLLM's own code by these commands.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from objectives.latency.classes import FUSED, SERVER_RANKS

_READ = "0.33"
#: Types of causal models in that version's ``model_executor/models/registry.py`` whose class is no ``SupportsLoRA``.
# fmt: off
_WITHOUT_LORA = frozenset({
    "beam", "bloom", "cohere2_moe", "dbrx", "deepseek_v4", "dory", "falcon", "falcon_mamba", "flint", "gemma3n_text",
    "gpt-sw3", "gpt2", "gptj", "hrm_text", "kimi_linear", "mamba", "mamba2", "mimo_v2_flash", "stablelm", "zamba2",
})
# fmt: on
#: By type, a layer that is one in the model, and two in that version's ``packed_modules_mapping`` of its class.
_SPLIT = {"glm4": "gate_up_proj"}
#: Paths of single layers that vLLM has too, but for the fused ones: those of Llama and the many models built like it.
#: Elsewhere its layers may have other paths, and an adapter whose layers are not wrapped is dropped without a word.
_SAME_PATH = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)")


def deployment(
    config: Mapping[str, Any],
    layers: Sequence[str],
    base_model: str,
    name: str,
    folder: str = ".",
    *,
    model_type: str | None = None,
    trusts_code: bool = False,
) -> dict[str, Any]:
    """``config`` is an adapter_config.json and ``layers`` the paths of what it adapts
    (:func:`objectives.adapter.adapted_layers`), ``name`` what requests will call the adapter, ``folder`` where it is,
    ``model_type`` the base model's, if known; with ``trusts_code`` the model's own code is run, as in the search.

    Gives {"server", "loads", "why_not", "command"}: ``why_not`` holds a clause for each thing that vLLM refuses, and
    ``command`` is None if there is one.
    """
    why_not = [*_obstacles_of_type(model_type, layers), *_obstacles(config, layers)]
    if why_not:
        return {"server": "vllm", "loads": False, "why_not": why_not, "command": None}
    targets = config["target_modules"] if _are_names(config) else layers
    rank = next(allowed for allowed in SERVER_RANKS if config["r"] <= allowed)
    words = ["vllm", "serve", base_model, "--enable-lora", "--max-lora-rank", str(rank)]
    words += ["--trust-remote-code"] if trusts_code else []
    words += ["--lora-target-modules", *wrapped_names(targets), "--lora-modules", f"{name}={folder}"]
    return {"server": "vllm", "loads": True, "why_not": [], "command": shlex.join(words)}


def wrapped_names(targets: Sequence[str]) -> list[str]:
    """The targets, names or paths, and the fused layers that hold them: vLLM matches a fused layer by its own name or
    path and, from some version on, by the names of its parts."""
    parents = set()
    for target in targets:
        place, dot, name = target.rpartition(".")
        parents |= {f"{place}{dot}{parent}" for parent, parts in FUSED.items() if name in parts}
    return sorted({*targets, *parents})


def _obstacles_of_type(model_type: str | None, layers: Sequence[str]) -> list[str]:
    if model_type in _WITHOUT_LORA:
        return [f"its base model is of type {model_type}, for which vLLM {_READ} has no LoRA"]
    split = _SPLIT.get(model_type or "")
    if split and any(path.endswith(f".{split}") for path in layers):
        return [f"it targets {split}, which vLLM {_READ} takes for two layers in models of type {model_type}"]
    return []


def _are_names(config: Mapping[str, Any]) -> bool:
    """Whether every layer of a name is adapted; else the targets are paths, their ends, or a pattern."""
    targets = config.get("target_modules") or []
    return not isinstance(targets, str) and not any("." in target for target in targets)


def _obstacles(config: Mapping[str, Any], layers: Sequence[str]) -> list[str]:
    found = []
    if config.get("peft_type") != "LORA":
        found.append(f"it is of type {config.get('peft_type')}, and vLLM loads LoRA alone")
    if config.get("r", 0) > SERVER_RANKS[-1]:
        found.append(f"its rank {config['r']} is above {SERVER_RANKS[-1]}, the largest --max-lora-rank")
    for key, what in (
        ("use_dora", "it uses DoRA"),
        ("modules_to_save", "it holds whole modules beside LoRA (modules_to_save)"),
        (
            "target_parameters",
            "it targets parameters of fused experts (target_parameters), which vLLM may drop silently",
        ),
        ("rank_pattern", "its ranks differ between layers (rank_pattern)"),
        ("alpha_pattern", "its scales differ between layers (alpha_pattern)"),
        ("lora_bias", "it trains biases (lora_bias)"),
    ):
        if config.get(key):
            found.append(what)
    if config.get("bias", "none") != "none":
        found.append(f"it trains biases (bias={config['bias']!r})")
    if not config.get("target_modules"):
        found.append("it targets no module by name")
    elif not _are_names(config) and not all(_SAME_PATH.fullmatch(path) for path in layers):
        found.append("its targets are paths of single layers, which may have other names in vLLM")
    return found

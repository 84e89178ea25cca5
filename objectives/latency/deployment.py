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
#: Types that it has no class for and cannot run by transformers' own model either.
_NOT_SERVED = frozenset({
    "bailing_hybrid", "bamba", "bart", "bigbird_pegasus", "blenderbot-small", "codegen", "cpmant", "diffllama",
    "gpt_neo", "gpt_neox_japanese", "marian", "mbart", "megatron-bert", "minimax", "modernbert-decoder", "mpt", "mvp",
    "openai-gpt", "pegasus", "recurrent_gemma", "rembert", "roc_bert", "roformer", "rwkv", "trocr", "xglm", "xlm",
})
#: Types whose layers were found at their own paths in it (but for the fused ones, which are Llama's): an adapter of
#: single layers can have just these wrapped. One at any other path is dropped without a word.
_SAME_PATHS = frozenset({
    "apertus", "arcee", "cohere", "cohere2", "cwm", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe",
    "flex_olmo", "gemma", "gemma2", "gemma3_text", "granite", "granite_swa", "granitemoe", "helium",
    "hunyuan_v1_dense", "hunyuan_v1_moe", "jais2", "llama", "ministral3", "mistral", "mixtral", "nemotron", "olmo",
    "olmo2", "olmo3", "olmoe", "phimoe", "qwen2", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "solar_open",
    "vaultgemma",
})
# fmt: on
_LLAMAS = re.compile(r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)")
#: By type, a layer that is one in the model, and several in that version.
_SPLIT = {
    "glm4": "gate_up_proj",
    "gpt_bigcode": "c_attn",
    "granitemoeshared": "input_linear",
    "granitemoe_swa": "input_linear",
}
#: Where keys and values are of low rank (MLA), it takes this layer's own weight into its attention when it starts, and
#: decodes without an adapter's; all types but these.
_ABSORBED, _NOT_ABSORBING = "kv_b_proj", frozenset({"minicpm3"})
#: By type, a module whose layers that version has elsewhere than transformers does.
_ELSEWHERE = dict.fromkeys(("axk2", "hy_v3", "kolibri1", "laguna"), "shared_experts")


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

    Gives {"server", "loads", "why_not", "command", "exact"}: ``why_not`` holds a clause for each thing that vLLM
    refuses, and ``command`` is None if there is one. ``exact`` says whether the command wraps just what is adapted:
    where vLLM may have other paths than the model, it goes by names, and wraps all layers of these.
    """
    why_not = [*_obstacles_of_type(model_type, layers), *_obstacles(config)]
    if why_not:
        return {"server": "vllm", "loads": False, "why_not": why_not, "command": None, "exact": None}
    by_name = _are_names(config)
    by_path = not by_name and model_type in _SAME_PATHS and all(_LLAMAS.fullmatch(path) for path in layers)
    targets = layers if by_path else sorted({path.rpartition(".")[2] for path in layers})
    rank = next(allowed for allowed in SERVER_RANKS if config["r"] <= allowed)
    words = ["vllm", "serve", base_model, "--enable-lora", "--max-lora-rank", str(rank)]
    words += ["--trust-remote-code"] if trusts_code else []
    # Else penalties and temperatures of the checkpoint's generation_config.json, without which accuracy was measured,
    # would be those of every request that names none; ends of answers are read from there all the same.
    words += ["--generation-config", "vllm"]
    words += ["--lora-target-modules", *wrapped_names(targets), "--lora-modules", f"{name}={folder}"]
    return {"server": "vllm", "loads": True, "why_not": [], "command": shlex.join(words), "exact": by_name or by_path}


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
    if model_type in _NOT_SERVED:
        return [f"its base model is of type {model_type}, which vLLM {_READ} does not serve"]
    if model_type and _is_part(model_type):
        return [
            f"its base model is of type {model_type}, of which the text part alone was trained: vLLM {_READ} has that "
            "at other paths, and leaves the adapter out without a word"
        ]
    split = _SPLIT.get(model_type or "")
    if split and any(path.endswith(f".{split}") for path in layers):
        return [f"it targets {split}, which vLLM {_READ} takes for several layers in models of type {model_type}"]
    if model_type not in _NOT_ABSORBING and any(path.endswith(f".{_ABSORBED}") for path in layers):
        return [f"it targets {_ABSORBED}, whose weight vLLM {_READ} takes into its attention, without an adapter's"]
    moved = _ELSEWHERE.get(model_type or "")
    if moved and any(f".{moved}." in path for path in layers):
        where = f"which vLLM {_READ} has at other paths in models of type {model_type}"
        return [f"it targets layers of {moved}, {where}, and leaves out without a word"]
    return []


def _is_part(model_type: str) -> bool:
    """Whether transformers reads a language model out of checkpoints of this type, such as Qwen3.5's, that are another
    class's as a whole. vLLM reads the whole, ``language_model.model.layers`` for ``model.layers``."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    text = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    return text is not None and MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type, text) != text


def _are_names(config: Mapping[str, Any]) -> bool:
    """Whether every layer of a name is adapted; else the targets are paths, their ends, or a pattern."""
    targets = config.get("target_modules") or []
    return not isinstance(targets, str) and not any("." in target for target in targets)


def _obstacles(config: Mapping[str, Any]) -> list[str]:
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
    if not config.get("target_modules") and not config.get("target_parameters"):
        found.append("it targets no module by name")
    return found

"""How vLLM is started so that an adapter costs what was measured, and whether it would load the adapter at all.

Without ``--lora-target-modules`` vLLM wraps every linear layer that it supports, whatever an adapter targets, and at
``--max-lora-rank`` its kernels compute: both decide the latency more than the adapter does. Sources: vLLM's
``lora/peft_helper.py`` (what a configuration may hold) and ``lora/utils.py``, ``is_in_target_modules`` (what names
match). No vLLM was run here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from objectives.latency.classes import FUSED, SERVER_RANKS


def deployment(
    config: Mapping[str, Any], base_model: str, name: str, folder: str = ".", *, trusts_code: bool = False
) -> dict[str, Any]:
    """``config`` is an adapter_config.json, ``name`` what requests will call the adapter, ``folder`` where it is;
    with ``trusts_code`` the model's own code is run, as in the search.

    Gives {"server", "loads", "why_not", "command"}: ``why_not`` holds a clause for each thing that vLLM refuses, and
    ``command`` is None if there is one.
    """
    why_not = _obstacles(config)
    if why_not:
        return {"server": "vllm", "loads": False, "why_not": why_not, "command": None}
    targets = sorted(config["target_modules"])
    rank = next(allowed for allowed in SERVER_RANKS if config["r"] <= allowed)
    words = ["vllm", "serve", base_model, "--enable-lora", "--max-lora-rank", str(rank)]
    words += ["--trust-remote-code"] if trusts_code else []
    words += ["--lora-target-modules", *wrapped_names(targets), "--lora-modules", f"{name}={folder}"]
    return {"server": "vllm", "loads": True, "why_not": [], "command": shlex.join(words)}


def wrapped_names(targets: Sequence[str]) -> list[str]:
    """The targets, and the names of the fused layers that hold them: vLLM matches a fused layer by its own name and,
    from some version on, by the names of its parts."""
    parents = [parent for parent, parts in FUSED.items() if set(parts) & set(targets)]
    return sorted({*targets, *parents})


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
    targets = config.get("target_modules")
    if isinstance(targets, str):
        found.append("its targets are a pattern, not a list of names")
    elif any("." in target for target in targets or ()):
        found.append("its targets are paths of single layers, which have other names in vLLM")
    elif not targets:
        found.append("it targets no module by name")
    return found

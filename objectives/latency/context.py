"""What a latency profile depends on beside the placement, and so what it may be reused for."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from objectives.latency.paired import Ratio
from objectives.latency.settings import LatencySettings
from objectives.modules import ModuleSpace

_CPUINFO = Path("/proc/cpuinfo")
#: Goes up with a change that gives other figures for the same model and machine. 2: each token of a server's answer has
#: its time and prompts their length; base and adapted model take turns over requests too.
_METHOD = 2


def in_process_facts(device: Any, dtype: Any) -> dict[str, str]:
    """Device, threads, dtype and versions of the engine ``transformers``, as a profile records them."""
    import peft
    import torch
    import transformers

    on_gpu = device.type == "cuda"
    return {
        "engine": "transformers",
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{device.type} {processor()}",
        "threads": "0" if on_gpu else str(torch.get_num_threads()),
        "dtype": str(dtype).removeprefix("torch."),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}",
    }


def processor() -> str:
    """The CPU's model name, by which measurements of two machines are told apart; where Linux names none, what Python
    knows of it, and on ARM the numbers of its maker and design."""
    said: dict[str, str] = {}
    with suppress(OSError):
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            said.setdefault(name.strip(), " ".join(value.split()))
    if model := said.get("model name"):
        return model
    numbers = [f"{name} {said[name]}" for name in ("CPU implementer", "CPU part") if said.get(name)]
    return ", ".join([platform.processor() or platform.machine(), *numbers])


def profile_context(space: ModuleSpace, facts: Mapping[str, str], settings: LatencySettings) -> str:
    """Equal for equal model (structure, computation, groups of layers), engine, device, dtype, versions, request and
    way of measuring.

    Not of an encoder's head: with as many classes as a task has it is no more than a layer for one token. How long was
    measured is no part of it either: see :func:`good_enough`.
    """
    shape = f"{settings.prompt_tokens}+{settings.output_tokens} tokens x {settings.concurrency}"
    # A name such as q_proj@first means other layers with other --bands.
    groups = hashlib.sha256(repr([(group.name, group.paths) for group in space.groups]).encode()).hexdigest()[:16]
    model = f"{space.model_type} {space.body} {space.computation} {groups}"
    steps = "graphs" if settings.graphs else "eager"
    return "|".join([f"method {_METHOD}", model, shape, steps, *(f"{name}={facts[name]}" for name in sorted(facts))])


def profile_key(context: str, class_name: str) -> str:
    """Where the catalog keeps the profile of a latency class; a digest, since a context is longer than a column."""
    return hashlib.sha256(f"{context}|{class_name}".encode()).hexdigest()


def good_enough(profile: Mapping[str, Any], settings: LatencySettings) -> bool:
    """Whether a kept profile is as narrow as asked for, or could not become so in as much time.

    One that settled for a wider interval has not used up its time.
    """
    out_of_time = not profile.get("settled") and profile.get("max_seconds", 0.0) >= settings.max_seconds
    return bool(is_settled(profile, settings) or out_of_time)


def is_settled(profile: Mapping[str, Any], settings: LatencySettings) -> bool:
    """Whether the interval is within the goal, which may be another one than when the profile was taken."""
    return Ratio(profile["ratio"], *profile["ratio_ci"]).half_width <= settings.half_width

"""How servers take a LoRA adapter while they run, each by its own means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from objectives.errors import RequestError
from objectives.latency.classes import Kernels
from objectives.latency.stream import Endpoint


class Loader(Kernels, Protocol):
    """One kind of server."""

    name: str
    unmerged: str

    def load(self, name: str, adapter: Path) -> dict[str, Any]:
        """The fields of a completion request that name the adapter. Raises RequestError where the server refuses."""

    def unload(self, name: str) -> None:
        """Nothing of the adapter stays behind in the server."""


class VllmLoader:
    """vLLM's dynamic loading, which its operator has to allow."""

    name = "vllm"
    fused = True
    fixed_rank = True
    unmerged = (
        "every linear layer that the server supports is wrapped whatever an adapter targets, unless "
        "--lora-target-modules restricts it; kernels compute at --max-lora-rank"
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def load(self, name: str, adapter: Path) -> dict[str, Any]:
        body = {"lora_name": name, "lora_path": str(adapter)}
        status, answer = self._endpoint.call("POST", "/v1/load_lora_adapter", body)
        if status == 404 and "No adapter found" in str(answer):
            raise RequestError(
                f"--endpoint {self._endpoint.url} sees no adapter at {adapter}: give the server this machine's "
                "temporary folder (TMPDIR) under the same path"
            )
        if status == 404:
            raise RequestError(
                f"--endpoint {self._endpoint.url} does not load adapters while it runs: start vLLM with --enable-lora "
                "and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
            )
        if status != 200:
            raise self._endpoint.refused("/v1/load_lora_adapter", status, answer)
        return {"model": name}

    def unload(self, name: str) -> None:
        self._endpoint.call("POST", "/v1/unload_lora_adapter", {"lora_name": name})


class SglangLoader:
    """SGLang's dynamic loading. Adapters are named in a field of their own."""

    name = "sglang"
    fused = True
    fixed_rank = False
    unmerged = (
        "the modules of --lora-target-modules, or of the adapters that the server was started with, are wrapped for "
        "every request; kernels compute at the adapter's rank"
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def load(self, name: str, adapter: Path) -> dict[str, Any]:
        body = {"lora_name": name, "lora_path": str(adapter)}
        status, answer = self._endpoint.call("POST", "/load_lora_adapter", body)
        if status != 200:
            raise self._endpoint.refused("/load_lora_adapter", status, answer)
        return {"lora_path": name}

    def unload(self, name: str) -> None:
        self._endpoint.call("POST", "/unload_lora_adapter", {"lora_name": name})


class TransformersServeLoader:
    """``transformers serve`` takes any folder as a model: one that holds base model and adapter is served unmerged."""

    name = "transformers serve"
    fused = False
    fixed_rank = False
    unmerged = "each adapted layer computes two thin products beside its own; each adapter holds a copy of the model"

    def __init__(self, endpoint: Endpoint, base: Path) -> None:
        self._endpoint, self._base = endpoint, base

    def load(self, name: str, adapter: Path) -> dict[str, Any]:
        for file in self._base.absolute().iterdir():
            link = adapter / file.name
            if not link.exists():
                link.symlink_to(file)
        return {"model": str(adapter)}

    def unload(self, name: str) -> None:
        """All models at once, since it unloads no single one; the base model is loaded again by the next request.

        Otherwise a copy of the base model would stay for each adapter, for the time of --model-timeout, and a profile
        has two dozen. Versions without /reset do keep them so long.
        """
        self._endpoint.call("POST", "/reset")


class NoLoader:
    """A server that is not known to take adapters while it runs."""

    name = "openai"
    fused = False
    fixed_rank = False
    unmerged = "not known of this server"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def load(self, name: str, adapter: Path) -> dict[str, Any]:
        raise RequestError(
            f"--endpoint {self._endpoint.url} is not known to load adapters while it runs (it is neither vLLM, SGLang "
            "nor transformers serve): measure with --engine transformers instead"
        )

    def unload(self, name: str) -> None:
        """Nothing was loaded."""


#: What a latency depends on of the flags that SGLang was started with, as it tells them.
_SGLANG = (
    "max_lora_rank", "lora_target_modules", "max_loras_per_batch", "lora_backend", "dtype", "quantization",
    "kv_cache_dtype", "attention_backend", "tp_size", "disable_cuda_graph", "speculative_algorithm",
)  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """What a running server says of itself."""

    loader: Loader
    version: str  # empty where it says none
    model: str | None  # the base model's name there, if it names one
    said: str  # of the base model, what a profile must agree in


def identify(endpoint: Endpoint, base: Path) -> Identity:
    """Raises RequestError if nobody answers at the address, or not without a key, or no server of this kind."""
    status, models = endpoint.call("GET", "/v1/models")
    if status in (401, 403):
        raise RequestError(
            f"--endpoint {endpoint.url} wants a key (status {status}), and none is ever sent: measure on a server that "
            "was started without one"
        )
    if status == 404:
        raise RequestError(
            f"--endpoint {endpoint.url} has no /v1/models (status 404), by which a server says what it serves: give "
            "the address of an OpenAI-compatible server, without a path"
        )
    listed = models.get("data") if status == 200 and isinstance(models, dict) else None
    first = next((m for m in listed or [] if isinstance(m, dict) and not m.get("parent")), {})
    owner, served = first.get("owned_by"), first.get("id")
    # Not what differs from call to call, such as the time.
    said = ", ".join(f"{name} {first[name]}" for name in ("id", "root", "max_model_len") if first.get(name) is not None)
    if owner == "vllm":
        return Identity(VllmLoader(endpoint), _version(endpoint), served, said)
    if owner == "sglang":
        version, flags = _sglang(endpoint)
        return Identity(SglangLoader(endpoint), version or _version(endpoint), served, f"{said}, {flags}".strip(", "))
    _, description = endpoint.call("GET", "/openapi.json")
    paths = description.get("paths", {}) if isinstance(description, dict) else {}
    if "/load_model" in paths and "/v1/completions" in paths:
        # What it lists are the models that it could load.
        folder = str(base.absolute())
        return Identity(TransformersServeLoader(endpoint, base), "", folder, folder)
    if status != 200:  # transformers serve alone may list none and serve all the same
        raise endpoint.refused("/v1/models", status, models)
    return Identity(NoLoader(endpoint), _version(endpoint), served, said)


def _sglang(endpoint: Endpoint) -> tuple[str, str]:
    """Its version and the flags, by the newer and the older name of its page; empty where it has neither."""
    for path in ("/server_info", "/get_server_info"):
        status, info = endpoint.call("GET", path)
        if status == 200 and isinstance(info, dict):
            flags = [(name, info[name]) for name in _SGLANG if info.get(name) is not None]
            # A set on the server, in another order after each start.
            told = [(name, sorted(map(str, value)) if isinstance(value, list) else value) for name, value in flags]
            return str(info.get("version", "")), ", ".join(f"{name} {value}" for name, value in told)
    return "", ""


def _version(endpoint: Endpoint) -> str:
    _, said = endpoint.call("GET", "/version")
    return str(said.get("version", "")) if isinstance(said, dict) else ""

"""Why a layer is not offered as a target: an adapter there would never run, never learn, or never pay."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from functools import cache

import torch
from torch import nn
from transformers import PreTrainedModel

from objectives.model import Kind
from objectives.module_layers import Layer
from objectives.module_roles import role_of

#: Path components that belong to images, sound, video or the layout of a page rather than to text.
FOREIGN = re.compile(r"(^|_)(vision|visual|image|img|audio|speech|video|vqmodel|vq|codec|layout)(_|$)")

#: Path components that have no part, or not in every layer, in the next token or the class of a text.
UNUSED = {
    r"patcher": "frozen by its model: it only finds the borders of patches",
    r"final_char_encoder": "used for single characters, not for the class of a text",
    r"[we]2[we]_query": "used with entities only",
    r"adapter_modules|\w+_adapter_list": "the model's own adapters, of which only some run",
}

CROSS_ATTENTION = re.compile(r"(^|\.)(encoder_attn|cross_attn|crossattention|cross_attention)\.")

#: (class, layer) whose weight is read in a branch that no pass of ours takes: DeBERTa's, for queries that come from
#: outside, as its masked language modelling brings them.
READ_ELSEWHERE = {("DisentangledSelfAttention", "in_proj")}

#: Under these flags, of a class or its configuration, alone are weights read, and with these values they are off:
#: Bloom's, and that of Llama's first code, from which many models have theirs that bring it with them.
SWITCHES = {"slow_but_exact": False, "pretraining_tp": 1}

#: Methods that fill weights before they are trained or loaded.
FILLING = re.compile(r"_*(init|reset)")

#: From this ratio of its sides on, a layer is no projection but a gate of one number per head or the like. LoRA saves
#: nothing there, and its two products cost the same launch time as for a large layer.
NARROW = 32

Reason = tuple[str, str]  # the name under which the layer is listed, and why


class Exclusions:
    """Decides over the layers of one model."""

    def __init__(self, model: nn.Module, kind: Kind) -> None:
        self.model = model
        self.alone = kind == "causal"  # loaded as a decoder, nothing feeds its cross-attention
        self.modules = dict(model.named_modules())
        head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
        self.reads_text = isinstance(model, PreTrainedModel) and "text" in model.input_modalities
        self.head = next((path for path, module in self.modules.items() if module is head), None)

    def reason(self, layer: Layer) -> Reason | None:
        """None if an adapter can be attached to the layer, runs, and learns."""
        if unrelated := self._unrelated(layer.path):
            return unrelated
        if layer.kind == "embedding":
            return (layer.inside if layer.block else _starred(layer.path)), "embedding"
        if not layer.block:
            return _starred(layer.path), self._outside(layer.path)
        if name := self._router(layer):
            return name, "chooses experts (MoE router)"
        ancestors = self._ancestors(layer)
        if self.alone and (
            CROSS_ATTENTION.search(layer.inside) or "CrossAttentionDecoder" in type(ancestors[0]).__name__
        ):
            return layer.inside, "cross-attention: without an encoder beside it, it never runs"
        if any(_without_gradient(type(module)) for module in ancestors):
            return layer.inside, "no gradient reaches it: an adapter would never learn"
        if layer.kind == "parameter":
            return None if layer.is_stack else (layer.inside, _why_not_adapted(layer))
        parent, leaf = ancestors[-1], layer.path.rpartition(".")[2]
        if _reads_weight(type(parent), leaf) and not _switched_off(parent):
            return layer.inside, "a fused kernel reads its weight and would pass by the adapter"
        if not _is_plain_map(self.modules[layer.path], layer):
            return layer.inside, f"{type(self.modules[layer.path]).__name__} is not a plain linear map"
        wide, narrow = max(layer.inputs, layer.outputs), min(layer.inputs, layer.outputs)
        if wide >= NARROW * narrow and role_of(layer.inside) not in ("query", "key", "value", "qkv"):
            return layer.inside, f"too narrow ({layer.inputs} x {layer.outputs}) for a low-rank update"
        return None

    def _unrelated(self, path: str) -> Reason | None:
        """The outermost module around ``path`` that has no part in what is trained: text to token, or text to class."""
        parts = path.split(".")
        for end, part in enumerate(parts, start=1):
            prefix = ".".join(parts[:end])
            module = self.modules.get(prefix)
            textless = isinstance(module, PreTrainedModel) and "text" not in module.input_modalities
            if (textless and self.reads_text) or FOREIGN.search(part.lower()):
                return _starred(prefix), "not text: belongs to another modality"
            if why := next((why for name, why in UNUSED.items() if re.fullmatch(name, part)), None):
                return _starred(prefix), why
        return None

    def _outside(self, path: str) -> str:
        prefix = getattr(self.model, "base_model_prefix", "")
        is_head = path == self.head or not path.startswith(prefix + ".")
        return "output head" if is_head else "outside the repeated blocks"

    def _router(self, layer: Layer) -> str | None:
        """The inside path of the router that the layer is, or is part of."""
        ancestors = self._ancestors(layer)
        inside = layer.inside.split(".")
        owner = self.modules.get(layer.path)
        chain = [*ancestors, owner] if owner is not None else ancestors
        if any(re.search(r"Router|MoE\w*Gate|TopK\w*Gating", type(module).__name__) for module in chain):
            return layer.inside.removesuffix(".weight")
        beside = [name for name, _ in ancestors[-1].named_children()]
        among_experts = any("expert" in name for name in beside)
        if among_experts and re.fullmatch(r"gate|router|\w*expert\w*_gate", inside[-1]):
            return layer.inside
        return None

    def _ancestors(self, layer: Layer) -> list[nn.Module]:
        """The modules around the layer from its block inwards, without the layer itself."""
        parts = layer.path.split(".")
        start = len(layer.block.split("."))
        return [self.modules[".".join(parts[:end])] for end in range(start, len(parts))]


def _why_not_adapted(parameter: Layer) -> str:
    if "expert" in parameter.inside and not parameter.inside.endswith("bias"):
        return "experts joined into one matrix, which a low-rank update would mix"
    return "a bare parameter, not a layer that PEFT adapts"


def _starred(path: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in path.split("."))


@cache
def _source(kind: type) -> str:
    """What a class and its bases do after their weights are there, up to those bases that every module has."""
    sources = []
    for base in kind.__mro__:
        if base in (nn.Module, PreTrainedModel, object):
            break
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):  # defined without a file, or in the middle of a line
            continue
        methods = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
        sources += [ast.unparse(method) for method in methods if not FILLING.match(method.name)]
    return "\n".join(sources)


def _reads_weight(parent: type, leaf: str) -> bool:
    """Whether the numbers are read: what is only asked for its type, as T5 does, is no way past an adapter."""
    if (parent.__name__, leaf) in READ_ELSEWHERE:
        return False
    reading = rf"(?<!isinstance\()self\.{re.escape(leaf)}\.weight\b(?!\.(dtype|device|shape))"
    return re.search(reading, _source(parent)) is not None


def _switched_off(parent: nn.Module) -> bool:
    """Whether ``parent`` would read weights only under a flag that is not set."""
    kind: type = type(parent)
    source = _source(kind)
    for name, off in SWITCHES.items():
        if name in source:
            holder = parent if hasattr(parent, name) else getattr(parent, "config", None)
            return bool(getattr(holder, name, None) == off)
    return False


def _without_gradient(kind: type) -> bool:
    """Sparse attention's indexers only choose positions, and most of them do so under ``no_grad``."""
    hidden = re.search(r"@torch\.(no_grad|inference_mode)\(\)\s+def forward\b", _source(kind))
    return "Indexer" in kind.__name__ or hidden is not None


def _is_plain_map(module: nn.Module, layer: Layer) -> bool:
    """Whether a subclass that computes in its own way still maps (..., inputs) to (..., outputs)."""
    if type(module).forward is nn.Linear.forward or not isinstance(module, nn.Linear):
        return True
    probe = torch.zeros(1, 1, layer.inputs, device=module.weight.device, dtype=module.weight.dtype)
    try:
        with torch.no_grad():
            output = module(probe)
    except (RuntimeError, TypeError):
        return False
    return isinstance(output, torch.Tensor) and output.shape == (1, 1, layer.outputs)

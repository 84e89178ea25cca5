"""Checks the module space on every architecture of the installed transformers, and writes docs/architectures.md.

    python -m benchmarks.architectures            writes the page (a few minutes on one core, no weights, no network)
    python -m benchmarks.architectures --check    exits with 1 if the page is not what this run would write
    python -m benchmarks.architectures llama bert prints the rows of these types, writes nothing

Each type is built from its default configuration on the meta device. Of the blocks with one structure two are kept,
since PEFT attaches to all of them alike. Then each module group alone, and all of them together, are attached with
PEFT, and the adapted layers are compared with the paths that the group names.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
import textwrap
import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objectives.model import Kind

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
LIVE = Path(__file__).with_name("architectures_live.json")
RANK = 2

ROPE = {"rope_type": "default", "rope_theta": 10000.0}
QWEN4_INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 2048,
    "indexer_compress_ratio": 16,
}
#: Fields without which a default configuration cannot be built, although every published checkpoint sets them.
REQUIRED: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0}, "rope_parameters": ROPE},
    "dots1": {"n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 2},
    "esm": {"vocab_size": 33},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
    "qwen4_exp": {"text_config": QWEN4_INDEXER},
    "qwen4_exp_text": QWEN4_INDEXER,
    "reformer": {"is_decoder": True},
}

#: What stands behind the messages of the exceptions.
EXPLAINED = {
    "gemma3n": "needs the package timm",
    "gemma4_assistant": "a draft model that reads the cache of another model; its default configuration is refused",
    "gemma4_unified_assistant": "a draft model that reads the cache of another model; its default is refused",
    "ibert": "its layers are QuantLinear, not nn.Linear",
    "layoutlmv2": "needs the package detectron2",
    "longformer": "local attention of the last layer does not reach the first token, which alone is classified",
    "mra": "its attention is a CUDA kernel; without it the output is zero",
    "musicgen": "AutoModelForCausalLM does not take its composite configuration",
    "musicgen_melody": "AutoModelForCausalLM does not take its composite configuration",
    "reformer": "its reversible layers need gradients on the embeddings, which are frozen",
    "squeezebert": "its layers are convolutions of width 1, not nn.Linear",
}


@dataclass(frozen=True)
class Row:
    model_type: str
    kind: Kind
    groups: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    failure: str = ""  # empty: every group attaches exactly

    @property
    def built(self) -> bool:
        return not self.failure.startswith("not buildable")


def small_model(model_type: str, kind: Kind) -> tuple[Any, Any]:
    """(configuration, model on the meta device) with at most two blocks of each structure."""
    from transformers import CONFIG_MAPPING

    from objectives.model import meta_model

    config = CONFIG_MAPPING[model_type](**REQUIRED.get(model_type, {}))
    model = meta_model(config, kind)
    thin_out(model)
    return config, model


def thin_out(model: Any) -> None:
    from torch import nn

    for path, module in list(model.named_modules()):
        if not isinstance(module, nn.ModuleList) or re.search(r"\.\d+(\.|$)", path):
            continue
        seen: Counter[Any] = Counter()
        kept = []
        for block in module:
            structure = tuple((name, tuple(weight.shape)) for name, weight in block.named_parameters())
            seen[structure] += 1
            if seen[structure] <= 2:
                kept.append(block)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.ModuleList(kept))


def adapted(model: Any, space: Any, names: Iterable[str]) -> tuple[set[str], int]:
    """(paths that PEFT adapted, trainable parameters) after attaching an adapter to these groups."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.layer import LoraLayer, ParamWrapper

    from objectives.placement import Placement

    placement = Placement.of(names, RANK)
    config = LoraConfig(
        r=RANK,
        target_modules=space.target_modules(placement),
        target_parameters=space.target_parameters(placement) or None,
    )
    peft_model = get_peft_model(copy.deepcopy(model), config, low_cpu_mem_usage=True)
    paths = set()
    for path, module in peft_model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            path = path.replace(".base_layer", "")
            paths.add(f"{path}.{module.parameter_name}" if isinstance(module, ParamWrapper) else path)
    return paths, sum(weight.numel() for weight in peft_model.parameters() if weight.requires_grad)


def check(model_type: str, kind: Kind) -> Row:
    from objectives.errors import ModelError
    from objectives.modules import module_space
    from objectives.placement import Placement

    try:
        config, model = small_model(model_type, kind)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, ModelError) else error
        return Row(model_type, kind, failure=f"not buildable: {one_line(cause)}")
    space = module_space(model, config, kind)
    names = tuple(group.name for group in space.groups)
    row = Row(model_type, kind, names, tuple((item.name, item.why) for item in space.left_out))
    if not names:
        return Row(model_type, kind, (), row.left_out, "no groups: no linear layer in repeated blocks")
    for some in [*((name,) for name in names), names]:
        expected = {path for name in some for path in space.group(name).paths}
        try:
            paths, parameters = adapted(model, space, some)
        except Exception as error:
            return Row(model_type, kind, names, row.left_out, f"{' + '.join(some)}: {one_line(error)}")
        if paths != expected:
            stray = sorted(paths ^ expected)[0]
            return Row(model_type, kind, names, row.left_out, f"{' + '.join(some)}: differs at {stray}")
        if parameters != space.parameters(Placement.of(some, RANK)):
            return Row(model_type, kind, names, row.left_out, f"{' + '.join(some)}: {parameters} parameters")
    return row


def one_line(error: BaseException | None) -> str:
    return textwrap.shorten(str(error), 110, placeholder=" ...")


def model_types() -> list[tuple[str, Kind]]:
    """(model type, kind) of all causal language models, then of all encoders that classify text."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto as auto

    from objectives.errors import ModelError
    from objectives.model import kind_of

    causal = sorted(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    encoders = []
    for model_type in sorted(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES):
        try:
            if kind_of(CONFIG_MAPPING[model_type]()) == "encoder":
                encoders.append(model_type)
        except (ModelError, KeyError):
            continue
    return [(name, "causal") for name in causal] + [(name, "encoder") for name in encoders]


def page(rows: list[Row]) -> str:
    import peft
    import transformers

    lines = [
        "# Architectures",
        "",
        "Written by `python -m benchmarks.architectures`; `--check` verifies it. "
        f"transformers {transformers.__version__}, PEFT {peft.__version__}.",
        "",
        "Each type is built from its default configuration on the meta device. Exact means: every module group, alone "
        "and together with all others, is attached by PEFT at the paths it names and nowhere else, with the number of "
        "parameters that `python -m search modules` states.",
        "",
        "| | types | built | with groups | exact |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for kind, title in (("causal", "causal language models"), ("encoder", "encoders with a classification head")):
        own = [row for row in rows if row.kind == kind]
        counts = (len(own), *(sum(map(test, own)) for test in (_built, _with_groups, _exact)))
        lines.append(f"| {title} | " + " | ".join(map(str, counts)) + " |")
    lines += ["", "## Exceptions", "", "| type | kind | why |", "| --- | --- | --- |"]
    lines += [f"| {row.model_type} | {row.kind} | {_failure(row)} |" for row in rows if row.failure]
    if REQUIRED:
        lines += ["", "Built with fields that their default configuration lacks: " + ", ".join(sorted(REQUIRED)) + "."]
    lines += ["", "## Adapters that run and learn", "", *_live(json.loads(LIVE.read_text(encoding="utf-8")))]
    lines += ["", "## What is left out, and why", "", "| why | types | for example |", "| --- | ---: | --- |"]
    lines += _reasons(rows)
    lines += ["", "## Groups", "", "| type | kind | groups |", "| --- | --- | --- |"]
    lines += [
        f"| {row.model_type} | {row.kind} | {' '.join(f'`{n}`' for n in row.groups)} |" for row in rows if row.groups
    ]
    return "\n".join(lines) + "\n"


def _failure(row: Row) -> str:
    what, _, message = row.failure.partition(": ")
    return f"{what}: {_explained(row.model_type, message)}"


def _explained(model_type: str, message: str) -> str:
    return EXPLAINED.get(model_type) or message.replace("|", "\\|")


def _built(row: Row) -> bool:
    return row.built


def _with_groups(row: Row) -> bool:
    return bool(row.groups)


def _exact(row: Row) -> bool:
    return not row.failure


def _live(record: dict[str, dict[str, Any]]) -> list[str]:
    run = {name: result["dead"] for name, result in record.items() if "dead" in result}
    alive = sum(not dead for dead in run.values())
    lines = [
        "Recorded by `python -m benchmarks.architectures_live`: one training step on a small real model of each "
        f"type, all groups adapted. {len(run)} of {len(record)} types run; in {alive} of them every adapter of every "
        "group gets a gradient.",
        "",
        "| type | exception |",
        "| --- | --- |",
    ]
    for name, result in record.items():
        model_type = name.partition(" ")[0]
        if result.get("dead"):
            count, example = len(result["dead"]), result["dead"][0]
            lines.append(f"| {name} | no gradient at `{example}` and {count - 1} more: {_explained(model_type, '?')} |")
        elif "not_run" in result:
            lines.append(f"| {name} | does not run: {_explained(model_type, result['not_run'])} |")
    ahead = [name.partition(" ")[0] for name, result in record.items() if result.get("sees_ahead")]
    refused = [f"`{model_type}`" for model_type in ahead if f"{model_type} (encoder)" not in record]
    lines += [
        "",
        "Causal types of which a token's logits change with tokens behind it, in their default configuration, are "
        f"refused when they are loaded, unless they are adapted as encoders: {', '.join(refused)}.",
    ]
    return lines


def _reasons(rows: list[Row]) -> list[str]:
    types: dict[str, set[str]] = {}
    example: dict[str, str] = {}
    for row in rows:
        for name, why in row.left_out:
            why = re.sub(r" \(\d+ x \d+\)", "", why)
            types.setdefault(why, set()).add(row.model_type)
            example.setdefault(why, f"`{name}` of {row.model_type}")
    return [f"| {why} | {len(types[why])} | {example[why]} |" for why in sorted(types)]


def chosen(parser: argparse.ArgumentParser, wanted: Collection[str]) -> list[tuple[str, Kind]]:
    """(model type, kind) of those types, or of all; ends the program with a sentence for one that there is not."""
    types = model_types()
    if unknown := sorted(set(wanted) - {model_type for model_type, _ in types}):
        parser.error(f"transformers has no model type {', '.join(unknown)} that is adapted here")
    return [(model_type, kind) for model_type, kind in types if not wanted or model_type in wanted]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    args = parser.parse_args(argv)
    wanted = args.types
    if wanted and args.check:
        parser.error("--check is of the whole page: leave out the types")
    os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
    warnings.filterwarnings("ignore")
    rows = []
    for model_type, kind in chosen(parser, wanted):
        row = check(model_type, kind)
        rows.append(row)
        if wanted or row.failure:
            print(f"{model_type} ({kind}): {row.failure or ' '.join(row.groups)}", file=sys.stderr)
    if wanted:
        return int(any(row.failure for row in rows))
    text = page(rows)
    if args.check:
        if PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is out of date: run python -m benchmarks.architectures", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

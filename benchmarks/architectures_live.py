"""One training step on a small real model of each architecture, with an adapter on every module group.

    python -m benchmarks.architectures_live [TYPE ...]    about twenty minutes; with types, renews their entries only

The structure on the meta device shows where adapters attach; only a real step shows that they run and learn. Each type
is built from its default configuration with few layers (one of each kind), few experts and a small vocabulary, and
random weights. An adapter counts as live if its LoRA B gets a gradient. architectures.py puts the record into the page.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.architectures import REQUIRED, chosen, model_types, one_line

if TYPE_CHECKING:
    from objectives.model import Kind

RECORD = Path(__file__).with_name("architectures_live.json")
VOCABULARY = 512
TOKENS = 160  # more than the longest compression window of any default configuration

SMALL = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "encoder_hash_byte_group_vocab": 30_000,
    "num_kv_shared_layers": 0,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "top_k_experts": 2,
    "moe_topk": 2,
    "moe_top_k": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "zero_expert_num": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
}
#: Fields that a forward pass of the reduced model needs.
TO_RUN: dict[str, dict[str, Any]] = {
    "esm": {"pad_token_id": 1},
    "t5": {"decoder_start_token_id": 0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]},
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
        "hybrid_layer_ids": [1, 2],
    },
}
LAYER_COUNTS = ("n_layer", "num_layer", "n_layers", "num_blocks")


def shrink(config: Any) -> None:
    """In place: one layer of each kind that the configuration lists, two at least; small experts and vocabulary."""
    from transformers import PreTrainedConfig

    fields = dict(vars(config))
    depth = getattr(config, "num_hidden_layers", 0)
    lists = {
        name: value for name, value in fields.items() if isinstance(value, list | tuple) and len(value) == depth > 0
    }
    layers = max([2, *(len(set(map(str, value))) for value in lists.values() if isinstance(value[0], str))])
    for name, value in fields.items():
        if isinstance(value, PreTrainedConfig):
            shrink(value)
        elif name in lists:
            kinds = list(dict.fromkeys(value)) if isinstance(value[0], str) else list(value[:layers])
            setattr(config, name, (kinds + [kinds[-1]] * layers)[:layers])
        elif isinstance(value, bool) or not isinstance(value, int):
            continue
        elif name in SMALL:
            setattr(config, name, min(value, SMALL[name]))
        elif name in LAYER_COUNTS or "layers" in name:
            setattr(config, name, min(value, layers))
        elif "intermediate" in name or "ffn_dim" in name:
            setattr(config, name, min(value, 1024))
        elif name.endswith("token_id") and value >= VOCABULARY:
            setattr(config, name, 3)
    if fields.get("num_experts_per_tok", 0) is None:
        config.num_experts_per_tok = 2


def runnable_model(model_type: str, kind: Kind) -> Any:
    """Raises whatever transformers raises."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification

    config = CONFIG_MAPPING[model_type](**REQUIRED.get(model_type, {}))
    shrink(config)
    for name, value in TO_RUN.get(model_type, {}).items():
        setattr(config, name, value)
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    model = auto.from_config(config, dtype=torch.float32).eval()
    for weight in model.parameters():
        if not weight.any():  # what starts at zero hides the layers before it until it is trained
            torch.nn.init.normal_(weight, std=0.02)
    return model


def dead_adapters(model: Any, kind: Kind) -> list[str]:
    """Paths of the adapted layers that got no gradient in one step. Raises whatever the model raises."""
    from peft import LoraConfig, get_peft_model

    from objectives.modules import module_space
    from objectives.placement import Placement

    space = module_space(model, model.config, kind)
    placement = Placement.of([group.name for group in space.groups], 2)
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=2,
            target_modules=space.target_modules(placement),
            target_parameters=space.target_parameters(placement) or None,
        ),
    )
    ids = _tokens(model.config)
    step = {"use_cache": False} if kind == "causal" else {}
    adapted(input_ids=ids, **step).logits.float().square().mean().backward()
    return [
        name.removeprefix("base_model.model.").partition(".lora_B")[0]
        for name, weight in adapted.named_parameters()
        if "lora_B" in name and (weight.grad is None or not weight.grad.any())
    ]


def _tokens(config: Any) -> Any:
    """(1, tokens) random ids that end as sequence classifiers of encoder-decoders ask for."""
    import torch

    length = getattr(config, "max_position_embeddings", None) or TOKENS
    vocabulary = getattr(config.get_text_config(decoder=True), "vocab_size", VOCABULARY)
    ids = torch.randint(5, min(200, vocabulary), (1, min(TOKENS, length) if length > 0 else TOKENS))
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and end < 5:
        ids[0, -1] = end
    return ids


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE")
    args = parser.parse_args(argv)
    os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
    warnings.filterwarnings("ignore")
    wanted = chosen(parser, args.types)
    from objectives.causality import sees_ahead

    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    renewed = {}
    for model_type, kind in model_types():
        key = f"{model_type} ({kind})"
        if (model_type, kind) not in wanted:
            if key in record:
                renewed[key] = record[key]
            continue
        try:
            model = runnable_model(model_type, kind)
            ahead = {"sees_ahead": sees_ahead(model)} if kind == "causal" else {}
            renewed[key] = {"dead": dead_adapters(model, kind)} | ahead
        except Exception as error:
            renewed[key] = {"not_run": one_line(error)}
        print(key, renewed[key], file=sys.stderr)
        gc.collect()
    RECORD.write_text(json.dumps(renewed, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

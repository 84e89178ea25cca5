"""A placement in the words of the tools that people train and serve with: lines to paste.

Their names were read in PEFT 0.21, TRL 1.16, LLaMA-Factory 0.9.5, Axolotl 0.19 and vLLM 0.33;
``tests/recipes/documented.json`` keeps them, with where they stand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from dashboards.loading import base_class
from objectives.adapter import adapted_layers, adapter_config
from objectives.errors import RequestError
from objectives.latency.deployment import deployment
from search.catalog.records import SearchRecord
from search.catalog.store import Catalog
from search.picked import picked_adapter
from search.result import result_document

#: Share of the steps; here, since ``objectives.training`` is slow to import.
_WARMUP = 0.1


@dataclass(frozen=True)
class Trained:
    """One trial's placement, and what it was trained with."""

    title: str
    note: str  # a whole line of comment for those who train it again, or empty
    search: str
    flags: str  # by which a command finds the search: see :meth:`search.home.Home.flags`
    trial: int
    model: str
    provenance: Mapping[str, Any]  # of the search
    config: Mapping[str, Any]  # adapter_config.json
    layers: Sequence[str]  # paths of the adapted ones
    spec: Mapping[str, Any]

    @property
    def warmup_steps(self) -> int:
        """Over which the learning rate rises to its peak, see ``objectives.training.learning_rate_at``."""
        return max(1, round(int(self.spec["steps"]) * _WARMUP))

    @property
    def trusts_code(self) -> bool:
        return bool(self.provenance["trust_remote_code"])

    def refuse_an_encoder(self, tool: str) -> None:
        if self.provenance["kind"] == "encoder":
            raise RequestError(f"{tool} trains causal language models, and this one is an encoder: take --for peft")


def recipe(catalog: Catalog, search: SearchRecord, pick: str, tool: str, flags: str = "") -> str:
    """Text for a file of ``tool``, one of ``RECIPES``.

    Raises RequestError for an unknown pick, a trial without adapter, and what the tool cannot express.
    """
    document = result_document(catalog, search)
    with picked_adapter(catalog, search, document, pick) as (trial, folder):
        config, layers = adapter_config(folder), adapted_layers(folder)
    trained = Trained(
        title=f"{trial.placement.label}: trial {trial.number} of search {search.name}",
        note=_LABELS.format(search.label_weight) + "\n" if _learned_labels(search, document) else "",
        search=search.name,
        flags=flags,
        trial=trial.number,
        model=document["model"],
        provenance=document["provenance"],
        config=config,
        layers=layers,
        spec=search.spec,
    )
    return RECIPES[tool](trained)


_LABELS = "# The search trained on the choice among labels too (--label-weight {:g}), which this trainer does not know."


def _learned_labels(search: SearchRecord, document: Mapping[str, Any]) -> bool:
    causal = document["provenance"]["kind"] == "causal"
    return causal and document["task"] == "classification" and search.label_weight > 0


def _peft(trained: Trained) -> str:
    auto, told = base_class(trained.provenance)
    spec = trained.spec
    return f"""\
# {trained.title}
# The search trained it with AdamW, learning rate {spec["learning_rate"]!r}, {spec["steps"]} steps of \
{spec["batch_size"]} rows{f" times {spec['accumulate']}" if spec["accumulate"] > 1 else ""}.
# The rate rises over the first {trained.warmup_steps} of them and then falls to zero, linearly.
{trained.note}from peft import LoraConfig, get_peft_model
from transformers import {auto}

base = {auto}.from_pretrained({_text(trained.model)}{told})
{_lora_config(trained.config)}
model = get_peft_model(base, config)
"""


def _trl(trained: Trained) -> str:
    trained.refuse_an_encoder("TRL's SFTTrainer")
    spec = trained.spec
    trusted = "    trust_remote_code=True,\n" if trained.trusts_code else ""
    return f"""\
# {trained.title}; `train_dataset` is yours
{trained.note}from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

{_lora_config(trained.config)}
args = SFTConfig(
    output_dir="output",
    learning_rate={spec["learning_rate"]!r},
    lr_scheduler_type="linear",
    warmup_steps={trained.warmup_steps},
    max_steps={spec["steps"]},
    per_device_train_batch_size={spec["batch_size"]},
    gradient_accumulation_steps={spec["accumulate"]},
{trusted})
trainer = SFTTrainer(model={_text(trained.model)}, args=args, train_dataset=train_dataset, peft_config=config)
"""


def _text(value: str | list[str]) -> str:
    """As Python reads it: JSON's escapes of rarer characters are two characters there."""
    return json.dumps(value, ensure_ascii=False)


def _lora_config(config: Mapping[str, Any]) -> str:
    where = ("target_modules", "target_parameters", "modules_to_save")
    lines = [f"    task_type={_text(config['task_type'])},"]
    # PEFT adds the heads' usual names to modules_to_save, be they there or not. Where no target_modules are given, it
    # takes those that it knows for the model's type, Nemotron-H's beside its experts.
    some = {key: sorted({*(config.get(key) or ())}) for key in where}
    lines += [f"    {key}={_text(names)}," for key, names in some.items() if names or key == "target_modules"]
    lines += [f"    r={config['r']},", f"    lora_alpha={config['lora_alpha']},", "    lora_dropout=0.0,"]
    return "\n".join(["config = LoraConfig(", *lines, ")"])


def _llama_factory(trained: Trained) -> str:
    trained.refuse_an_encoder("LLaMA-Factory")
    if trained.config.get("target_parameters"):
        raise RequestError(
            "LLaMA-Factory cannot name parameters of fused experts (target_parameters), which this placement targets: "
            "take --for peft or --for axolotl"
        )
    spec = trained.spec
    return _yaml(
        trained,
        {
            "model_name_or_path": trained.model,
            "finetuning_type": "lora",
            # One text: PEFT gets the names between the commas, full paths of layers too.
            "lora_target": ",".join(sorted(trained.config["target_modules"])),
            "lora_rank": trained.config["r"],
            "lora_alpha": trained.config["lora_alpha"],
            "lora_dropout": 0.0,
            "learning_rate": spec["learning_rate"],
            "lr_scheduler_type": "linear",
            "warmup_steps": trained.warmup_steps,
            "max_steps": spec["steps"],
            "per_device_train_batch_size": spec["batch_size"],
            "gradient_accumulation_steps": spec["accumulate"],
        },
    )


def _axolotl(trained: Trained) -> str:
    trained.refuse_an_encoder("Axolotl, as this recipe uses it,")
    spec, config = trained.spec, trained.config
    parameters = {"lora_target_parameters": sorted(config["target_parameters"])} if config["target_parameters"] else {}
    return _yaml(
        trained,
        {
            "base_model": trained.model,
            "adapter": "lora",
            "lora_r": config["r"],
            "lora_alpha": config["lora_alpha"],
            "lora_dropout": 0.0,
            "lora_target_modules": sorted(config["target_modules"] or ()),
            **parameters,
            # True would add every linear layer to the list.
            "lora_target_linear": False,
            "learning_rate": spec["learning_rate"],
            "lr_scheduler": "linear",
            "warmup_steps": trained.warmup_steps,
            "max_steps": spec["steps"],
            "micro_batch_size": spec["batch_size"],
            "gradient_accumulation_steps": spec["accumulate"],
        },
    )


def _yaml(trained: Trained, settings: dict[str, Any]) -> str:
    trusted = {"trust_remote_code": True} if trained.trusts_code else {}
    lines = yaml.safe_dump(settings | trusted, sort_keys=False, allow_unicode=True, width=10_000)
    return f"# {trained.title}\n{trained.note}{lines}"


def _vllm(trained: Trained) -> str:
    serving = deployment(
        trained.config,
        trained.layers,
        trained.model,
        trained.search,
        "./adapter",
        model_type=trained.provenance["model_type"],
        trusts_code=trained.trusts_code,
    )
    if not serving["loads"]:
        raise RequestError(
            f"vLLM does not load this adapter: {'; '.join(serving['why_not'])}. Merge it into the base model "
            "(model.merge_and_unload()), which costs no latency, or pick another trial"
        )
    wraps = "" if serving["exact"] else "# All layers of these names are wrapped, so it may be slower than measured.\n"
    return f"""\
# {trained.title}
python -m search export {trained.search} --pick trial={trained.trial} --out ./adapter{trained.flags}
{wraps}{serving["command"]}
"""


RECIPES: dict[str, Callable[[Trained], str]] = {
    "peft": _peft,
    "trl": _trl,
    "llama-factory": _llama_factory,
    "axolotl": _axolotl,
    "vllm": _vllm,
}

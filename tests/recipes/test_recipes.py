"""Recipes as their readers take them: run where the tool is here, held against its documented names where it is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from objectives.adapter import weights_digest
from objectives.errors import RequestError
from objectives.latency.server import write_random_adapter
from objectives.model import load_config, meta_model
from objectives.modules import ModuleSpace, module_space
from objectives.placement import Placement
from objectives.training import TrainingSettings, learning_rate_at
from search.catalog import Catalog
from search.catalog.models import Search as SearchRow
from search.export import export_adapter
from search.home import Home
from search.names import TOOLS
from search.recipes import RECIPES, recipe
from search.spec import SearchSpec
from tests.api.conftest import FACTS
from tests.objectives.conftest import zoo
from tests.objectives.tiny import Zoo

__all__ = ["zoo"]  # a fixture of the objectives' tests

DOCUMENTED: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("documented.json").read_text())


class Searched:
    """A search of one trial, whose adapter is real."""

    def __init__(self, zoo: Zoo, home: Home) -> None:
        self.zoo, self.home = zoo, home
        self.catalog = Catalog(home.storage)

    def space(self, model: str, bands: int) -> ModuleSpace:
        config = load_config(self.zoo.folder(model))
        kind = self.zoo.space(model).kind
        return module_space(meta_model(config, kind), config, kind, bands)

    def of(self, model: str, groups: list[str], rank: int = 4, bands: int = 1) -> tuple[str, Path]:
        """The name of the search, and the folder of its adapter."""
        space, folder = self.space(model, bands), self.zoo.folder(model)
        facts = FACTS | {"model": str(folder), "kind": space.kind, "model_type": space.model_type}
        search = self.catalog.create_search(model, SearchSpec(steps=2, learning_rate=2e-3).to_json(), facts)
        placement, adapter = Placement.of(groups, rank), Path(self.home.adapters(search).at("0"))
        adapter.mkdir(parents=True)
        write_random_adapter(folder, space, placement, 0, adapter)
        validation = {"accuracy": 0.6, "accuracy_ci": [0.5, 0.7], "standard_error": 0.02, "loss": 0.9}
        latency = {"ratio": 1.1, "ratio_ci": [1.0, 1.2], "axis": "ttft" if space.kind == "encoder" else "tpot"}
        measurement = {"validation": validation, "latency": latency, "parameters": 4}
        self.catalog.add_trial(search.id, 0, placement, None)
        ended = {"measurement": measurement, "adapter": str(adapter), "adapter_sha256": weights_digest(adapter)}
        assert self.catalog.record(search.id, 0, "complete", **ended)
        return search.name, adapter

    def recipe(self, name: str, tool: str, pick: str = "recommended", flags: str = "") -> str:
        return recipe(self.catalog, self.catalog.search(name), pick, tool, flags)


@pytest.fixture
def searched(zoo: Zoo, tmp_path: Path) -> Iterator[Searched]:
    searched = Searched(zoo, Home.at(tmp_path, None, None))
    yield searched
    searched.catalog.close()


def adapter_names(adapter: Path) -> set[str]:
    with safe_open(adapter / "adapter_model.safetensors", "pt") as weights:
        return set(weights.keys())


def attached_names(model: Any) -> set[str]:
    from peft import get_peft_model_state_dict

    return set(get_peft_model_state_dict(model))


def attached_by(settings: dict[str, Any], model: Path) -> set[str]:
    """What PEFT makes of the arguments that LLaMA-Factory and Axolotl hand on to ``LoraConfig``."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    return attached_names(get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings)))


CASES = pytest.mark.parametrize(
    ("model", "groups", "bands"),
    [
        ("llama", ["o_proj", "q_proj"], 1),
        ("llama", ["down_proj@first", "o_proj@last"], 2),
        ("gpt2", ["attn.c_proj"], 1),
        ("mixtral", ["o_proj", "experts.down_proj"], 1),
        ("mixtral", ["experts.down_proj"], 1),
    ],
)


def test_experts_alone_are_all_that_is_adapted(searched: Searched) -> None:
    """Where it is told of no modules at all, PEFT adds its own choice for some types: Nemotron-H's attention."""
    name, _ = searched.of("mixtral", ["experts.down_proj"])
    lines = '    target_modules=[],\n    target_parameters=["experts.down_proj"],\n'
    assert lines in searched.recipe(name, "peft")
    assert lines in searched.recipe(name, "trl")
    assert yaml.safe_load(searched.recipe(name, "axolotl"))["lora_target_modules"] == []


def test_a_recipe_for_a_trainer_says_what_else_the_search_trained_on(searched: Searched) -> None:
    name, _ = searched.of("llama", ["o_proj"])
    note = "# The search trained on the choice among labels too (--label-weight 4), which this trainer does not know."
    for tool in TOOLS:
        assert (note in searched.recipe(name, tool).splitlines()) is (tool != "vllm"), tool
    trained = "# The search trained it with AdamW, learning rate 0.002, 2 steps of 16 rows."
    assert trained in searched.recipe(name, "peft").splitlines()
    search = searched.catalog.search(name)
    searched.catalog.set_spec(search.id, search.spec | {"label_weight": 0.0})
    assert not any("choice among labels" in searched.recipe(name, tool) for tool in TOOLS)
    encoder, _ = searched.of("bert", ["query"])
    assert "choice among labels" not in searched.recipe(encoder, "peft"), "it has a head, and no labels to read"


def test_trainers_are_given_the_schedule_of_the_search(searched: Searched) -> None:
    name, _ = searched.of("llama", ["o_proj"])
    search = searched.catalog.search(name)
    searched.catalog.set_spec(search.id, search.spec | {"steps": 40})
    rates = [learning_rate_at(step, TrainingSettings(steps=40)) for step in range(40)]
    rising = rates.index(max(rates)) + 1
    assert f"# The rate rises over the first {rising} of them and then falls" in searched.recipe(name, "peft")
    assert f'lr_scheduler_type="linear",\n    warmup_steps={rising},\n' in searched.recipe(name, "trl")
    for tool, key in (("llama-factory", "lr_scheduler_type"), ("axolotl", "lr_scheduler")):
        settings = yaml.safe_load(searched.recipe(name, tool))
        assert (settings[key], settings["warmup_steps"]) == ("linear", rising)


def test_a_model_with_code_of_its_own_is_trusted_where_the_search_trusted_it(searched: Searched) -> None:
    name, _ = searched.of("llama", ["o_proj"])
    assert not any("trust" in searched.recipe(name, tool) for tool in TOOLS)
    search = searched.catalog.search(name)
    searched.catalog.set_spec(search.id, search.spec | {"trust_remote_code": True})
    for tool in ("llama-factory", "axolotl"):
        assert yaml.safe_load(searched.recipe(name, tool))["trust_remote_code"] is True
        assert "trust_remote_code" in DOCUMENTED[tool]["keys"]
    assert '/llama", trust_remote_code=True)\n' in searched.recipe(name, "peft")
    assert "\n    trust_remote_code=True,\n)" in searched.recipe(name, "trl")
    assert " --trust-remote-code " in searched.recipe(name, "vllm")


def test_a_path_of_rare_characters_is_the_same_as_python(searched: Searched, tmp_path: Path) -> None:
    name, _ = searched.of("llama", ["o_proj"])
    folder = tmp_path / 'a "rare" 😀'
    shutil.copytree(searched.zoo.folder("llama"), folder)
    search = searched.catalog.search(name)
    with searched.catalog.writing() as session:
        row = session.get(SearchRow, search.id)
        assert row is not None
        row.facts = search.facts | {"model": str(folder)}
    names: dict[str, Any] = {}
    exec(searched.recipe(name, "peft"), names)
    assert names["base"].config.name_or_path == str(folder)


def test_the_card_of_an_encoder_names_its_axis(searched: Searched, tmp_path: Path) -> None:
    for model, groups, latency in (
        ("llama", ["o_proj"], "; TPOT 1.10 times"),
        ("bert", ["query"], "; request time 1.10 times"),
    ):
        name, _ = searched.of(model, groups)
        export_adapter(searched.catalog, searched.catalog.search(name), "trial=0", tmp_path / model)
        assert latency in (tmp_path / model / "README.md").read_text()


def test_every_tool_has_a_recipe() -> None:
    assert tuple(RECIPES) == TOOLS


@CASES
def test_peft_attaches_where_the_search_did(searched: Searched, model: str, groups: list[str], bands: int) -> None:
    name, adapter = searched.of(model, groups, bands=bands)
    made: dict[str, Any] = {}
    exec(searched.recipe(name, "peft"), made)
    assert attached_names(made["model"]) == adapter_names(adapter)
    assert (made["config"].r, made["config"].lora_alpha, made["config"].lora_dropout) == (4, 8, 0.0)


@CASES
def test_axolotl_and_llama_factory_name_the_same_layers_with_real_keys(
    searched: Searched, model: str, groups: list[str], bands: int
) -> None:
    from transformers import Seq2SeqTrainingArguments

    name, adapter = searched.of(model, groups, bands=bands)
    axolotl = yaml.safe_load(searched.recipe(name, "axolotl"))
    assert set(axolotl) <= set(DOCUMENTED["axolotl"]["keys"])
    assert (axolotl["adapter"], axolotl["lora_target_linear"], axolotl["learning_rate"]) == ("lora", False, 2e-3)
    folder = Path(axolotl["base_model"])
    settings = {"r": axolotl["lora_r"], "lora_alpha": axolotl["lora_alpha"], "lora_dropout": axolotl["lora_dropout"]}
    settings["target_modules"] = axolotl["lora_target_modules"]
    settings["target_parameters"] = axolotl.get("lora_target_parameters")
    assert attached_by(settings, folder) == adapter_names(adapter)
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)

    if settings["target_parameters"]:
        with pytest.raises(RequestError, match="LLaMA-Factory cannot name parameters of fused experts"):
            searched.recipe(name, "llama-factory")
        return
    factory = yaml.safe_load(searched.recipe(name, "llama-factory"))
    trainer = {field.name for field in fields(Seq2SeqTrainingArguments)}
    assert set(factory) <= {*DOCUMENTED["llama-factory"]["keys"], *trainer}
    assert factory["finetuning_type"] == "lora"
    settings = {"r": factory["lora_rank"], "lora_alpha": factory["lora_alpha"], "lora_dropout": factory["lora_dropout"]}
    # As its `split_arg` reads the text.
    settings["target_modules"] = [target.strip() for target in factory["lora_target"].split(",")]
    assert attached_by(settings, folder) == adapter_names(adapter)
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)


def test_trl_trains_what_the_recipe_says(searched: Searched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset

    monkeypatch.chdir(tmp_path)
    name, adapter = searched.of("llama", ["o_proj", "down_proj"])
    rows = Dataset.from_list([{"prompt": "where is the city?", "completion": " location"}] * 4)
    made: dict[str, Any] = {"train_dataset": rows}
    # TRL computes in bfloat16 by default, and takes that for a sign of a GPU.
    exec(searched.recipe(name, "trl").replace("SFTConfig(\n", "SFTConfig(\n    use_cpu=True,\n"), made)
    made["trainer"].train()
    assert made["trainer"].state.global_step == 2
    assert attached_names(made["trainer"].model) == adapter_names(adapter)


def test_vllm_is_given_options_that_it_has(searched: Searched) -> None:
    name, _ = searched.of("llama", ["o_proj", "v_proj"])
    _, export, serve = searched.recipe(name, "vllm", flags=" --home h").splitlines()
    assert export == f"python -m search export {name} --pick trial=0 --out ./adapter --home h"
    words = serve.split()
    assert {word for word in words if word.startswith("--")} <= set(DOCUMENTED["vllm"]["keys"])
    assert words[:2] == ["vllm", "serve"] and words[-2:] == ["--lora-modules", f"{name}=./adapter"]


def test_vllm_wraps_only_the_layers_of_a_band(searched: Searched) -> None:
    name, _ = searched.of("llama", ["o_proj@first"], bands=2)
    recipe = searched.recipe(name, "vllm")
    assert " --lora-target-modules model.layers.0.self_attn.o_proj --lora-modules " in recipe


def test_vllm_is_said_to_wrap_more_than_a_band_where_its_paths_are_unknown(searched: Searched, tmp_path: Path) -> None:
    name, _ = searched.of("opt", ["fc1@first"], bands=2)
    _, _, more, serve = searched.recipe(name, "vllm").splitlines()
    assert more == "# All layers of these names are wrapped, so it may be slower than measured."
    assert " --lora-target-modules fc1 --lora-modules " in serve
    manifest = export_adapter(searched.catalog, searched.catalog.search(name), "trial=0", tmp_path / "out")
    assert manifest["serving"]["exact"] is False
    assert "`sh serve.sh`, which wraps all layers of the targeted names" in (tmp_path / "out" / "README.md").read_text()


def test_a_module_to_save_is_named_once(searched: Searched) -> None:
    name, adapter = searched.of("bert", ["query"])
    file = adapter / "adapter_config.json"
    # As PEFT writes it for a new head: it adds "classifier" and "score" to what it was given.
    named = {"modules_to_save": ["bert.pooler", "classifier", "classifier", "score"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | named))
    assert '    modules_to_save=["bert.pooler", "classifier", "score"],\n' in searched.recipe(name, "peft")


def test_what_a_tool_cannot_express_is_said(searched: Searched) -> None:
    name, _ = searched.of("bert", ["query"])
    for tool in ("trl", "llama-factory", "axolotl"):
        with pytest.raises(RequestError, match=r"this one is an encoder: take --for peft$"):
            searched.recipe(name, tool)
    assert "AutoModelForSequenceClassification.from_pretrained" in searched.recipe(name, "peft")
    gpt2, _ = searched.of("gpt2", ["c_attn"])
    with pytest.raises(RequestError, match=r"type gpt2, for which vLLM 0\.33 has no LoRA\. Merge it into the base"):
        searched.recipe(gpt2, "vllm")
    with pytest.raises(RequestError, match=f"in search {gpt2}: `show` lists the front"):
        searched.recipe(gpt2, "peft", "trial=7")

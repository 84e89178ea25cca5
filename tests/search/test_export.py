"""Where an adapter is exported to."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from objectives.accuracy import evaluate
from objectives.backbone import attach, load_adapter
from objectives.class_logits import class_logits
from objectives.encoding import encode
from objectives.errors import RequestError, StoreError
from objectives.placement import Placement
from search import inspection
from search.export import export_adapter, verify_adapter
from search.model_card import model_card
from search.prepare import prepare
from search.spec import SearchSpec
from tests.api.conftest import Service, service, write_adapter
from tests.disks import Disk, disk
from tests.objectives.tiny import LABELLED, Zoo, all_groups, make_data, make_task, shake

__all__ = ["disk", "service"]  # fixtures


def exported(service: Service, out: Path) -> set[str]:
    export_adapter(service.catalog, service.catalog.search("demo"), "best", out)
    return {file.name for file in out.iterdir()}


def test_a_folder_that_is_there_and_empty_stays_what_it_is(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link, and the folder that a shell stands in: to rename another one onto either is refused by the system."""
    new = exported(service, tmp_path / "new")
    assert {"adapter_config.json", "adapter_model.safetensors", "manifest.json", "README.md"} <= new
    mode = (tmp_path / "new").stat().st_mode & 0o777
    assert mode == 0o755, "a server's user may read it"
    (tmp_path / "volume").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "volume")
    assert exported(service, tmp_path / "link") == new
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert exported(service, Path()) == new
    longest = "x" * 255
    assert exported(service, tmp_path / longest) == exported(service, tmp_path / "volume" / longest) == new
    assert sorted(path.name for path in tmp_path.glob(".*")) == [], "nothing half-written is left"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_a_folder_is_for_whom_its_files_are(service: Service, tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        exported(service, tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == mode
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()} == {mode & 0o666}


def test_who_finds_a_manifest_in_a_folder_that_was_there_finds_all_else(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files come one by one there, and a kill may come between two of them."""
    came: list[str] = []
    replace = Path.replace

    def noted(file: Path, target: Path) -> Path:
        came.append(target.name)
        return replace(file, target)

    monkeypatch.setattr(Path, "replace", noted)
    (tmp_path / "out").mkdir()
    assert exported(service, tmp_path / "out") == set(came)
    assert came[-1] == "manifest.json"


def test_a_volume_that_is_mounted_is_a_folder_like_others(service: Service, tmp_path: Path, disk: Disk) -> None:
    """Nothing can be renamed from the folder that it is mounted in."""
    disk(tmp_path / "volume", 1024)
    assert exported(service, tmp_path / "volume") == exported(service, tmp_path / "new")


def test_a_full_disk_is_called_so(service: Service, tmp_path: Path, disk: Disk) -> None:
    disk(tmp_path / "volume", 4)
    with pytest.raises(StoreError) as caught:
        exported(service, tmp_path / "volume")
    assert str(caught.value) == (
        f"--out {tmp_path}/volume cannot be written (No space left on device): free space or choose another"
    )
    assert list((tmp_path / "volume").iterdir()) == []


def test_home_is_known_in_a_path(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    export_adapter(service.catalog, service.catalog.search("demo"), "best", Path("~/out"))
    assert (tmp_path / "out" / "manifest.json").is_file()


@pytest.mark.parametrize("address", ["s3://bucket/adapter", "hf://someone/adapter"])
def test_an_address_is_no_folder(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RequestError) as caught:
        exported(service, Path(address))
    said = address.replace("//", "/")
    assert str(caught.value) == f"--out {said} is no folder of this machine: give one, and copy it there afterwards"
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_holds_something_is_refused(service: Service, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(RequestError) as caught:
        exported(service, tmp_path / "full")
    assert str(caught.value) == f"--out {tmp_path}/full exists and is not an empty folder: choose another"


def test_the_card_names_the_rows_that_were_tested_and_what_a_server_wraps(service: Service, tmp_path: Path) -> None:
    """Rows are drawn by the seed of the data, which nights share, and not by that of the training."""
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    manifest["scoring"] = {"template": "{text}", "first_ids": [], "label_ids": {}, "max_tokens": 64}
    manifest["provenance"] |= {"seed": 3, "training_seed": 9}
    card = model_card(manifest | {"notes": ["test: 2 of 9 rows used"]})
    assert 'sorted(random.Random("3 test").sample(range(M), N))' in card
    for exact, wrapped in ((True, "only the targeted layers"), (False, "all layers of the targeted names, also those")):
        served = {"loads": True, "exact": exact, "why_not": []}
        assert f"`sh serve.sh`, which wraps {wrapped}" in model_card(manifest | {"serving": served})


def test_the_card_loads_the_base_model_as_the_search_did(service: Service, tmp_path: Path) -> None:
    """In half precision labels come out otherwise, which a checkpoint may be stored in; some have code of their own."""
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    scoring = {"template": "{text}", "first_ids": [], "label_ids": {}, "max_tokens": 64}
    provenance = manifest["provenance"] | {"dtype": "float32", "trust_remote_code": True}
    card = model_card(manifest | {"scoring": scoring, "provenance": provenance})
    assert "AutoModelForCausalLM.from_pretrained('models/tiny', trust_remote_code=True, dtype=\"float32\")\n" in card
    assert "AutoTokenizer.from_pretrained('models/tiny', trust_remote_code=True)\n" in card


def test_rank_and_alpha_are_those_of_the_trial(service: Service, tmp_path: Path) -> None:
    """Alpha is twice the rank unless it was set."""
    catalog, search = service.catalog, service.catalog.search("demo")
    folder = Path(service.home.adapters(search).at("2"))
    catalog.add_trial(search.id, 2, Placement.of(["v_proj"], 16), None)
    measurement = catalog.trial(search.id, 0).measurement
    ended = {"measurement": measurement, "adapter": str(folder), "adapter_sha256": write_adapter(folder)}
    assert catalog.record(search.id, 2, "complete", **ended)
    manifest = export_adapter(catalog, search, "trial=2", tmp_path / "out")
    assert (manifest["rank"], manifest["alpha"]) == (16, 32)


@pytest.mark.parametrize("template", ["{text}\nAnswer:", "<s>{text}\nAnswer:", "chat"])
def test_the_code_of_the_card_reads_a_prompt_as_the_search_did(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    """A beginning of sequence stands once, whether a row or the template brings it or none does; and of the white space
    around a text only what the template leaves.
    """
    zoo, seen = Zoo(tmp_path), []
    rows = [("<s>who wrote this book?", "yes"), (" where is the city of Rome?\n", "no")]
    tokenizer = zoo.tokenizer("llama")
    tokenizer.chat_template = "<user>{{ messages[0].content | trim }}<bot>"
    task = encode(make_data("classification", {"train": rows}), tokenizer, "causal", max_tokens=64, template=template)
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    manifest |= {"base_model": str(zoo.folder("llama")), "scoring": task.scoring()}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(tmp_path)

    def model(ids: torch.Tensor) -> Any:
        seen.append(ids[0].tolist())
        return zoo.base("llama")(ids)

    _, code = re.findall(r"```python\n(.*?)```", model_card(manifest), re.DOTALL)
    names: dict[str, Any] = {"model": model}
    exec(code, names)  # what a reader would run
    for row, (text, _) in zip(task.splits["test"], rows, strict=True):
        assert names["classify"](text) in task.labels
        assert seen == [row.prompt + list(ids) for ids in task.label_ids]
        seen.clear()


def follow(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What all code of the card defines, run in the folder of the adapter."""
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for code in re.findall(r"```python\n(.*?)```", model_card(manifest), re.DOTALL):
            exec(code, names)
    return names


@pytest.mark.parametrize("ends", [[], [3, 4]])
def test_the_code_of_the_card_answers_as_the_search_did(service: Service, tmp_path: Path, ends: list[int]) -> None:
    """Checkpoints bring penalties and temperatures of their own, which accuracy was measured without."""
    zoo = Zoo(tmp_path)
    rows = [("where is it?", "The Eagle is cheap"), ("<s>who?", "a French place"), ("how many people", "three")]
    data = make_data("generation", {"train": rows})
    task = replace(encode(data, zoo.tokenizer("llama"), "causal", max_tokens=64, ends=ends), max_new_tokens=9)
    adapted = attach(zoo.base("llama"), zoo.space("llama"), all_groups(zoo.space("llama")), seed=0)
    shake(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    found = load_adapter(zoo.base("llama"), str(tmp_path / "adapter"))
    evaluation = evaluate(found, task, "test", metric="rouge_l", tokenizer=zoo.tokenizer("llama"))
    rather = {"repetition_penalty": 9.0, "do_sample": True, "temperature": 9.0, "max_new_tokens": 3}
    (zoo.folder("llama") / "generation_config.json").write_text(json.dumps(rather))
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    told = {"base_model": str(zoo.folder("llama")), "scoring": task.scoring(), "task": "generation"}
    answer = follow(manifest | told | {"metric": "rouge_l"}, tmp_path / "adapter")["answer"]
    assert tuple(answer(text) for text, _ in rows) == evaluation.predictions
    assert len(set(evaluation.predictions)) > 1


def test_the_code_of_the_card_classifies_with_the_head_that_was_trained(service: Service, tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    task = make_task(zoo, "bert", max_tokens=16)  # which cuts some rows
    task = replace(task, labels=("a, b", "né", "c"), splits={"test": task.splits["validation"]})
    adapted = attach(zoo.base("bert"), zoo.space("bert"), all_groups(zoo.space("bert")), seed=0)
    shake(adapted)
    head = adapted.get_base_model().classifier.modules_to_save["default"]
    with torch.no_grad():  # so that rows differ in their class
        head.weight.mul_(100)
        head.bias.sub_(class_logits(adapted.eval(), task.splits["test"], task.pad_id).mean(0))
    adapted.save_pretrained(tmp_path / "adapter")
    predictions = evaluate(adapted, task, "test", metric="accuracy").predictions
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    provenance = manifest["provenance"] | {"kind": "encoder", "labels": list(task.labels), "dtype": "float32"}
    told = {"base_model": str(zoo.folder("bert")), "scoring": task.scoring(), "labels": list(task.labels)}
    classify = follow(manifest | told | {"provenance": provenance}, tmp_path / "adapter")["classify"]
    assert tuple(classify(text) for text, _ in LABELLED[::2]) == predictions
    assert len(set(predictions)) > 1


def test_the_card_keeps_classes_apart(service: Service, tmp_path: Path) -> None:
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    labels = ["a, b", "né"]
    provenance = manifest["provenance"] | {"kind": "encoder", "labels": labels}
    card = model_card(manifest | {"scoring": {"max_tokens": 64}, "labels": labels, "provenance": provenance})
    assert 'The classes are, in this order: `["a, b", "né"]`. The head' in card


def test_the_card_has_a_prompt_whole_and_the_metric_by_its_name(service: Service, tmp_path: Path) -> None:
    """Backticks of a template end no code."""
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    template = "`{text}` in ```json:"
    scoring = {"template": template, "first_ids": [1], "max_tokens": 64, "max_new_tokens": 16, "eos_id": 1}
    test = {"accuracy": 0.6, "accuracy_ci": [0.5, 0.7], "rows": 100}
    told = {"scoring": scoring, "task": "generation", "metric": "rouge_l", "test": test}
    card = model_card(manifest | told)
    assert f"The prompt is ````{template!r}```` with the row's text" in card
    assert "\nTest ROUGE-L 0.6000 (95% interval" in card and "scored once, by ROUGE-L against" in card
    assert f"The prompt is ````{template!r}```` with" in model_card(manifest | {"scoring": None, "template": template})


def test_the_card_tells_how_rows_of_test_were_drawn_and_no_others(service: Service, tmp_path: Path) -> None:
    """Those of train, and of validation, are drawn otherwise."""
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    scoring = {"template": "{text}", "first_ids": [], "label_ids": {}, "max_tokens": 64}
    card = model_card(manifest | {"scoring": scoring, "notes": ["train: 50000 of 60000 rows used"]})
    assert "\nWhere a note on test says below that N of M rows were used, they are those that\n" in card


def test_the_hub_takes_the_card_of_a_model_in_a_folder(service: Service, tmp_path: Path) -> None:
    """It refuses ``base_model`` with anything but a hub id."""
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")

    def metadata(base: str) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load(model_card(manifest | {"base_model": base}).split("---\n")[1])
        return loaded

    assert metadata("acme/tiny") == {"library_name": "peft", "base_model": "acme/tiny", "tags": ["lora"]}
    assert metadata("/models/tiny") == {"library_name": "peft", "tags": ["lora"]}


def test_the_card_promises_no_test_of_what_was_not_tested(service: Service, tmp_path: Path) -> None:
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    assert manifest["test"] is None and "search verify" not in model_card(manifest)
    untested = "Validation accuracy 0.7000; not tested, as the front of a search is when it ends; TPOT 1.30 times"
    assert untested in model_card(manifest), "though it is on the front of a search that was not tested yet"
    tested = {"accuracy": 0.6, "accuracy_ci": [0.5, 0.7], "rows": 100}
    assert model_card(manifest | {"test": tested}).endswith(
        "\n`python -m search verify DIR` measures the test split again and compares.\n"
    )
    trusted = {"test": tested, "provenance": manifest["provenance"] | {"trust_remote_code": True}}
    assert "\n`python -m search verify DIR --trust-remote-code` measures" in model_card(manifest | trusted)


@pytest.fixture
def tested(service: Service, tmp_path: Path) -> Path:
    """An export whose manifest has a test figure."""
    manifest = export_adapter(service.catalog, service.catalog.search("demo"), "best", tmp_path / "out")
    manifest["test"] = {"accuracy": 0.6}
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path / "out"


@pytest.mark.parametrize(
    "lost", ["spec", "test", "metric", "rank", "alpha", "adapter_sha256", "data_hash", "structure"]
)
def test_a_manifest_that_lost_something_is_refused(tested: Path, lost: str) -> None:
    manifest = json.loads((tested / "manifest.json").read_text())
    del manifest[lost]
    (tested / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RequestError) as caught:
        verify_adapter(tested, None, None)
    assert str(caught.value) == f"{tested}/manifest.json is not what `export` writes: export the adapter again"


@pytest.mark.parametrize(("key", "other"), [("r", 4), ("lora_alpha", 32)])
def test_another_scale_than_the_measured_one_is_refused(tested: Path, key: str, other: int) -> None:
    """The weights are the same, and with few rows the accuracy may be too."""
    file = tested / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {key: other}))
    with pytest.raises(RequestError) as caught:
        verify_adapter(tested, None, None)
    assert str(caught.value) == (
        f"{file} has {key} {other}, and the adapter was measured with {config[key]}: export it again"
    )


def test_a_manifest_is_no_leave_to_run_the_code_of_a_model(tested: Path) -> None:
    """Who wrote it may be a stranger, and so may be who wrote the model that it names."""
    manifest = json.loads((tested / "manifest.json").read_text())
    manifest["spec"] |= {"trust_remote_code": True, "model": "someone/model"}
    (tested / "manifest.json").write_text(json.dumps(manifest))
    refused = (
        f"{tested}/manifest.json was measured with the own Python code of model {{}}: read that, then pass "
        "--trust-remote-code to run it"
    )
    for model, named in ((None, "someone/model"), ("other/model", "other/model")):
        with pytest.raises(RequestError) as caught:
            verify_adapter(tested, model, None)
        assert str(caught.value) == refused.format(named)
    with pytest.raises(RequestError, match="/models/none does not exist"):
        verify_adapter(tested, "/models/none", None, trust_remote_code=True)


def test_the_flag_that_verify_needs_for_other_data_or_another_model_is_named(tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "where is the cat {n}", "label": "{n % 3}"}}\n' for n in range(60))
    (tmp_path / "rows.jsonl").write_text(rows)
    spec = SearchSpec(data=str(tmp_path / "rows.jsonl"), workers=1)
    facts = prepare(spec).facts
    for what, data_hash, structure, fact in (
        ("data", "another", facts["structure"], "data_hash"),
        ("model", facts["data_hash"], "another", "structure"),
    ):
        with pytest.raises(RequestError) as caught:
            inspection.test_adapter(spec, tmp_path, data_hash, structure)
        assert str(caught.value) == (
            f"{what} {facts[what]} is not the {what} that the adapter was measured with ({fact} differs): give that "
            f"one with --{what}"
        )

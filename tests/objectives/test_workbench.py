"""One worker's bench from a model folder to a measurement, on real tiny models."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertForMaskedLM,
)

from objectives import workbench
from objectives.accuracy import evaluate
from objectives.adapter import check_adapter
from objectives.errors import ModelError, StoreError
from objectives.heads import head_parameters, head_parameters_of
from objectives.latency import LatencySettings
from objectives.metrics import score
from objectives.model import kind_of, load_config, meta_model
from objectives.modules import module_space
from objectives.placement import Alpha, Placement
from objectives.storage import Folder
from objectives.tokenizer import load_tokenizer
from objectives.training import TrainingSettings
from objectives.workbench import Assignment, Request, Workbench
from tests.objectives.tiny import CONFIGURATIONS, Zoo, all_groups, make_task, make_word_tokenizer

QUICK = LatencySettings(prompt_tokens=8, output_tokens=3, min_requests=2, max_requests=2)
TRAINING = TrainingSettings(steps=30, batch_size=8, learning_rate=2e-2)


def assignment(zoo: Zoo, name: str, adapters: Path, **changes: Any) -> Assignment:
    given = Assignment(
        model=zoo.folder(name),
        space=zoo.space(name),
        task=make_task(zoo, name),
        metric="accuracy",
        training=TRAINING,
        latency=QUICK,
        adapters=Folder(adapters / "adapters"),
        threads=1,
    )
    return replace(given, **changes)


def plain(outcome: dict[str, Any]) -> dict[str, Any]:
    """As it arrives in the catalog; fails on what strict JSON cannot hold."""
    document: dict[str, Any] = json.loads(json.dumps(outcome, allow_nan=False))
    assert document == outcome or "losses" in outcome["measurement"]  # whose pairs become lists
    return document


def test_a_trial_from_start_to_end(zoo: Zoo, tmp_path: Path) -> None:
    bench = Workbench(assignment(zoo, "llama", tmp_path))
    placement = all_groups(zoo.space("llama"))
    outcome = plain(bench.measure([Request(placement, "0007")])[0])

    assert (outcome["status"], outcome["reason"], outcome["steps"]) == ("complete", None, 30)
    assert outcome["adapter"] == str(tmp_path / "adapters" / "0007")
    check_adapter(Path(outcome["adapter"]), outcome["adapter_sha256"])
    assert outcome["latency_context"] == bench.measure_base()["latency_context"]
    measurement = outcome["measurement"]
    assert measurement.keys() == {"parameters", "seconds", "latency", "losses", "validation"}
    assert measurement["parameters"] == zoo.space("llama").parameters(placement)
    assert measurement["latency"]["ratio"] > 0
    assert [step for step, _ in measurement["losses"]] == [10, 20, 30]
    assert measurement["losses"][-1][1] < measurement["losses"][0][1]
    assert measurement["validation"].keys() == {"accuracy", "accuracy_ci", "standard_error", "loss", "rows", "scores"}
    assert measurement["validation"]["rows"] == 18
    assert measurement["seconds"].keys() == {"attach", "latency", "training", "evaluation", "saving"}
    assert all(seconds > 0 for seconds in measurement["seconds"].values())


def test_an_adapter_names_the_model_of_the_hub_and_not_its_snapshot(zoo: Zoo, tmp_path: Path) -> None:
    bench = Workbench(assignment(zoo, "llama", tmp_path, hub_id="acme/tiny", training=replace(TRAINING, steps=1)))
    adapter = Path(bench.measure([Request(Placement.of(["o_proj"], 4), "0007")])[0]["adapter"])
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "acme/tiny"
    card = (adapter / "README.md").read_text()
    assert "base_model: acme/tiny" in card and str(zoo.folder("llama")) not in card


def test_an_adapter_has_the_alpha_of_the_search_and_begins_by_its_seed(zoo: Zoo, tmp_path: Path) -> None:
    """It is trained by so little here that it is what it began as."""
    training = replace(TRAINING, steps=1, learning_rate=1e-12)
    begun = []
    for seed in (0, 1):
        given = assignment(zoo, "llama", tmp_path, training=replace(training, seed=seed), alpha=Alpha(3))
        outcome = Workbench(given).measure([Request(Placement.of(["o_proj"], 4), str(seed), {"ratio": 1.2})])[0]
        adapter = Path(outcome["adapter"])
        assert json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"] == 3
        begun.append(load_file(adapter / "adapter_model.safetensors"))
    first, other = begun
    drawn = [key for key in first if "lora_A" in key]
    assert drawn
    for key in drawn:
        assert (first[key] - other[key]).abs().max() > 0.1 * first[key].abs().max()


def test_the_head_of_an_encoder_is_the_same_in_every_worker_of_a_seed(zoo: Zoo, tmp_path: Path) -> None:
    def head(seed: int) -> torch.Tensor:
        torch.rand(3)  # whatever a process drew before
        bench = Workbench(assignment(zoo, "bert", tmp_path, training=replace(TRAINING, seed=seed)))
        weight: torch.Tensor = bench.base.classifier.weight
        return weight

    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))


def test_the_base_model_is_measured_against_itself(zoo: Zoo, tmp_path: Path) -> None:
    base = Workbench(assignment(zoo, "llama", tmp_path)).measure_base()
    assert json.loads(json.dumps(base, allow_nan=False)) == base
    assert base.keys() == {"validation", "latency", "latency_context", "seconds", "device", "dtype"}
    assert base["dtype"] == ("bfloat16" if torch.cuda.is_available() else "float32")
    assert base["device"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu, 1 thread")
    assert 0.3 < base["latency"]["ratio"] < 3


def test_a_bench_that_uses_no_gpu_leaves_one_alone(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was given none may see those of its machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    bench = Workbench(assignment(zoo, "llama", tmp_path, uses_gpu=False))
    assert (bench.device.type, bench.base.device.type, bench.base.dtype) == ("cpu", "cpu", torch.float32)
    assert bench.measure_base()["device"] == "cpu, 1 thread"


def test_a_trial_does_not_depend_on_those_before_it(zoo: Zoo, tmp_path: Path) -> None:
    first, second = Placement.of(["q_proj"], 4), Placement.of(["down_proj", "o_proj"], 8)
    bench = Workbench(assignment(zoo, "llama", tmp_path))
    bench.measure([Request(first, "a")])
    after = bench.measure([Request(second, "b")])[0]
    alone = Workbench(assignment(zoo, "llama", tmp_path)).measure([Request(second, "c")])[0]
    assert after["adapter_sha256"] == alone["adapter_sha256"]
    assert after["measurement"]["losses"] == alone["measurement"]["losses"]
    assert after["measurement"]["validation"] == alone["measurement"]["validation"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_test_split_with_a_stored_adapter_is_that_of_the_trained_model(zoo: Zoo, name: str, tmp_path: Path) -> None:
    """Validation after training and test from the folder must agree, where both splits hold the same rows."""
    task = make_task(zoo, name)
    task = replace(task, splits={**task.splits, "test": task.splits["validation"]})
    given = assignment(zoo, name, tmp_path, task=task, training=replace(TRAINING, steps=10))
    bench = Workbench(given)
    outcome = bench.measure([Request(all_groups(zoo.space(name)), "0")])[0]
    figures = bench.test(outcome["adapter"])
    assert figures == outcome["measurement"]["validation"]
    assert Workbench(given).test(outcome["adapter"]) == figures, "a worker that did not train it"
    assert bench.test(None) == bench.measure_base()["validation"] != figures


def test_placements_are_compared_on_validation_and_test_is_read_when_it_is_asked_for(zoo: Zoo, tmp_path: Path) -> None:
    """Those that were chosen by rows of test would be flattered there."""
    task = make_task(zoo, "llama")
    task = replace(task, splits={**task.splits, "test": task.splits["test"][:5]})
    bench = Workbench(assignment(zoo, "llama", tmp_path, task=task, training=replace(TRAINING, steps=1)))
    outcome = bench.measure([Request(Placement.of(["q_proj"], 4), "0", {"ratio": 1.2})])[0]
    compared = [bench.measure_base({"ratio": 1.0}), outcome["measurement"]]
    assert [measured["validation"]["rows"] for measured in compared] == [18, 18]
    assert [bench.test(adapter)["rows"] for adapter in (None, outcome["adapter"])] == [5, 5]


@pytest.mark.parametrize("metric", ["rouge_l", "bleu"])
def test_generation(zoo: Zoo, tmp_path: Path, metric: str) -> None:
    task = replace(make_task(zoo, "llama", "generation"), max_new_tokens=8)
    bench = Workbench(assignment(zoo, "llama", tmp_path, task=task, metric=metric))
    outcome = plain(bench.measure([Request(all_groups(zoo.space("llama")), "0")])[0])
    base = bench.measure_base()["validation"]
    assert outcome["status"] == "complete"
    assert outcome["measurement"]["validation"]["accuracy"] > base["accuracy"]
    assert outcome["measurement"]["validation"]["loss"] < base["loss"]
    said = evaluate(bench.base, task, "validation", metric=metric, tokenizer=bench.tokenizer).predictions
    rows = task.splits["validation"]
    assert base["scores"] == [score(metric, text, row.references) for text, row in zip(said, rows, strict=True)]


def test_a_placement_over_the_latency_cap_is_not_trained(zoo: Zoo, tmp_path: Path) -> None:
    bench = Workbench(assignment(zoo, "llama", tmp_path, max_ratio=0.01))
    outcome = plain(bench.measure([Request(Placement.of(["q_proj"], 4), "0")])[0])
    ratio = outcome["measurement"]["latency"]["ratio"]
    assert (outcome["status"], outcome["steps"]) == ("infeasible", 0)
    assert outcome["reason"] == f"latency ratio {ratio:.3f} is above --max-tpot-ratio 0.01: not trained"
    assert "adapter" not in outcome
    assert outcome["measurement"].keys() == {"parameters", "seconds", "latency"}
    assert not (tmp_path / "adapters").exists()


def test_a_profile_that_is_known_is_not_measured_again(zoo: Zoo, tmp_path: Path) -> None:
    profile = {"ratio": 1.5, "tpot_p95_ms": 3.0}
    bench = Workbench(assignment(zoo, "llama", tmp_path, max_ratio=1.4))
    outcome = bench.measure([Request(Placement.of(["q_proj"], 4), "0", profile)])[0]
    assert outcome["status"] == "infeasible"
    assert outcome["measurement"]["latency"] == profile
    assert "latency_context" not in outcome, "it may have been measured elsewhere"
    assert bench.measure_base(profile)["latency"] == profile
    just = Workbench(assignment(zoo, "llama", tmp_path, max_ratio=1.5, training=replace(TRAINING, steps=1)))
    assert just.measure([Request(Placement.of(["q_proj"], 4), "1", profile)])[0]["status"] == "complete"


def test_the_seconds_of_a_phase_that_is_done_twice_are_those_of_both() -> None:
    """As a pack that did not fit is trained again."""
    seconds = {"training": 5.0}
    with workbench._timed(seconds, "training"):
        pass
    assert seconds["training"] > 5


@pytest.mark.parametrize(("steps", "step"), [(30, 10), (1, 1)])
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_a_training_that_diverges_fails_with_a_remedy(
    zoo: Zoo, name: str, steps: int, step: int, tmp_path: Path
) -> None:
    """Also where the last step is the one that did it, which no training loss shows any more."""
    training = TrainingSettings(steps=steps, batch_size=8, learning_rate=1e30)
    bench = Workbench(assignment(zoo, name, tmp_path, training=training))
    outcome = plain(bench.measure([Request(all_groups(zoo.space(name)), "0")])[0])
    assert (outcome["status"], outcome["steps"]) == ("failed", step)
    what = "training loss" if steps == 30 else "validation loss"
    assert outcome["reason"] == f"the {what} became nan by step {step}: try a lower --learning-rate"
    assert "adapter" not in outcome
    assert not (tmp_path / "adapters").exists()
    assert math.isfinite(bench.measure_base()["validation"]["loss"]), "the next trial starts from a clean base"


def test_a_training_that_goes_on_and_fails_keeps_its_steps(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were spent, and count as that: up to where it diverged, or to its checkpoint."""
    given = assignment(zoo, "llama", tmp_path)
    some = [Request(all_groups(zoo.space("llama")), str(number), {"ratio": 1.2}) for number in range(3)]
    bench = Workbench(given)
    assert [stopped["steps"] for stopped in bench.measure(some, until=10)] == [10] * 3
    hot = Workbench(replace(given, training=replace(TRAINING, learning_rate=1e30)))
    ended = [*hot.measure(some[:1]), *hot.measure(some[1:])]
    assert [(outcome["status"], outcome["steps"]) for outcome in ended] == [("failed", 20)] * 3

    def out_of_memory(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(workbench, "train", out_of_memory)
    short = bench.measure(some[:1])[0]
    assert (short["status"], short["steps"], short["measurement"]["continued_from"]) == ("failed", 10, 10)


def test_memory_that_is_not_there_fails_the_trial_alone(zoo: Zoo, tmp_path: Path) -> None:
    bench = Workbench(assignment(zoo, "llama", tmp_path, training=replace(TRAINING, steps=2)))
    outcome = plain(bench.measure([Request(Placement.of(["q_proj"], 10**13), "0")])[0])
    assert outcome["status"] == "failed"
    assert outcome["reason"] == "out of memory: try lower --ranks, or fewer --workers"
    assert bench.measure([Request(Placement.of(["q_proj"], 4), "1")])[0]["status"] == "complete"


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), torch.AcceleratorError("CUDA error: out of memory")]
)
@pytest.mark.parametrize(
    ("phase", "remedy"),
    [
        ("attach", "lower --ranks, or fewer --workers"),
        ("train", "a smaller --batch-size with --accumulate, or --gradient-checkpointing"),
        ("evaluate", "a smaller --max-tokens, or fewer --workers: it takes no --batch-size"),
    ],
)
def test_the_remedy_for_short_memory_is_that_of_the_phase(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, remedy: str, error: Exception
) -> None:
    def short(*_: Any, **__: Any) -> None:
        raise error

    bench = Workbench(assignment(zoo, "llama", tmp_path, training=replace(TRAINING, steps=1)))
    monkeypatch.setattr(workbench, phase, short)
    outcome = plain(bench.measure([Request(Placement.of(["q_proj"], 4), "0", {"ratio": 1.2})])[0])
    assert (outcome["status"], outcome["reason"]) == ("failed", f"out of memory: try {remedy}")


def test_a_disk_that_refuses_is_no_result(zoo: Zoo, tmp_path: Path, no_file_larger_than: Any) -> None:
    bench = Workbench(assignment(zoo, "llama", tmp_path, training=replace(TRAINING, steps=1)))
    with pytest.raises(StoreError, match="could not be written"), no_file_larger_than(0):
        bench.measure([Request(Placement.of(["q_proj"], 4), "0")])


def test_a_model_that_cannot_be_loaded_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no"):
        Workbench(assignment(zoo, "llama", tmp_path, model=tmp_path))


@pytest.mark.parametrize(("name", "part"), [("llama", "lm_head"), ("bert", "bert.encoder.layer.0.output.dense")])
def test_a_model_of_no_numbers_is_refused(name: str, part: str, zoo: Zoo, tmp_path: Path) -> None:
    """Before a trial is: all would be said to have diverged, by their learning rate."""
    model = zoo.copy(name)
    model.get_submodule(part).weight.data.fill_(math.nan)
    model.save_pretrained(tmp_path / "broken")
    zoo.tokenizer(name).save_pretrained(tmp_path / "broken")
    with pytest.raises(ModelError) as caught:
        Workbench(assignment(zoo, name, tmp_path, model=tmp_path / "broken"))
    assert str(caught.value) == f"{tmp_path / 'broken'} computes nan for a text: its weights hold no usable numbers."


def test_a_model_that_knows_no_number_for_some_token_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    model = zoo.copy("llama")
    model.get_input_embeddings().weight.data[100:].fill_(math.nan)
    model.save_pretrained(tmp_path / "broken")
    zoo.tokenizer("llama").save_pretrained(tmp_path / "broken")
    with pytest.raises(ModelError) as caught:
        Workbench(assignment(zoo, "llama", tmp_path, model=tmp_path / "broken")).measure_base()
    assert str(caught.value) == f"{tmp_path / 'broken'} has a loss of nan: its weights hold no usable numbers."


def bert_without_pooler() -> Any:
    return BertForMaskedLM(CONFIGURATIONS["bert"]())


def bart() -> Any:
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = BartConfig(
        vocab_size=320, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, eos_token_id=1, pad_token_id=2, **sizes
    )
    return BartForConditionalGeneration(config)


def values(adapter: str) -> int:
    """Numbers that the files of an adapter hold."""
    return sum(tensor.numel() for tensor in load_file(Path(adapter) / "adapter_model.safetensors").values())


@pytest.mark.parametrize("name", ["llama", "bert", "distilbert"])
def test_the_parameters_are_all_that_is_stored(zoo: Zoo, name: str, tmp_path: Path) -> None:
    """An encoder's head too, but not a pooler that came with the model."""
    bench = Workbench(assignment(zoo, name, tmp_path, training=replace(TRAINING, steps=1)))
    outcome = bench.measure([Request(all_groups(zoo.space(name)), "0", {"ratio": 1.2})])[0]
    assert outcome["measurement"]["parameters"] == values(outcome["adapter"])
    if name != "llama":
        structure = meta_model(load_config(zoo.folder(name)), "encoder", 3)
        assert head_parameters_of(structure, zoo.folder(name)) == head_parameters(bench.base) > 0


@pytest.mark.parametrize("make", [bert_without_pooler, bart])
def test_an_adapter_brings_all_that_an_encoder_learned_anew(make: Any, zoo: Zoo, tmp_path: Path) -> None:
    """Whoever loads the checkpoint gets another random head; with the adapter it must not matter."""
    folder = tmp_path / "model"
    torch.manual_seed(0)
    make().save_pretrained(folder)
    make_word_tokenizer().save_pretrained(folder)
    config = load_config(folder)
    assert kind_of(config) == "encoder"
    space = module_space(meta_model(config, "encoder", 3), config, "encoder")
    task = make_task(zoo, "bert")
    given = assignment(
        zoo, "bert", tmp_path, model=folder, space=space, task=task, training=replace(TRAINING, steps=20)
    )
    bench = Workbench(replace(given, uses_gpu=False))
    outcome = bench.measure([Request(all_groups(space), "0")])[0]
    head = head_parameters_of(meta_model(config, "encoder", 3), folder)
    assert outcome["measurement"]["parameters"] == space.parameters(all_groups(space)) + head
    assert outcome["measurement"]["parameters"] == values(outcome["adapter"])

    torch.manual_seed(99)
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, dtype=bench.base.dtype)
    base = base.to(bench.device)
    read = PeftModel.from_pretrained(base, outcome["adapter"]).eval()
    figures = evaluate(read, task, "test", metric="accuracy", tokenizer=load_tokenizer(folder))
    assert figures.to_json(seed=0) == bench.test(outcome["adapter"])


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_in_half_precision_what_is_trained_is_in_float32(zoo: Zoo, name: str, tmp_path: Path) -> None:
    """PEFT casts LoRA weights alone, and small updates of a head in half precision are rounded away."""
    task = make_task(zoo, name)
    task = replace(task, splits={**task.splits, "test": task.splits["validation"]})
    bench = Workbench(assignment(zoo, name, tmp_path, task=task, uses_gpu=False))
    bench.base.bfloat16()
    placement = all_groups(zoo.space(name))
    stopped = bench.measure([Request(placement, "0", {"ratio": 1.2})], until=10)[0]
    ended = bench.measure([Request(placement, "0", {"ratio": 1.2})])[0]
    whole = bench.measure([Request(placement, "1", {"ratio": 1.2})])[0]
    assert (stopped["status"], ended["measurement"]["continued_from"]) == ("stopped", 10)
    assert ended["adapter_sha256"] == whole["adapter_sha256"]
    assert bench.test(whole["adapter"]) == whole["measurement"]["validation"], "read back as it was"

    stored = load_file(Path(whole["adapter"]) / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    head = {key: tensor for key, tensor in stored.items() if "lora_" not in key}
    assert head
    assert not any(torch.equal(tensor, tensor.bfloat16().float()) for tensor in head.values())
    plain = PeftModel.from_pretrained(zoo.copy(name).bfloat16(), whole["adapter"]).eval()
    read = plain.get_base_model().classifier.modules_to_save["default"].weight
    assert torch.equal(read, head["base_model.model.classifier.weight"].bfloat16()), "PEFT rounds it to the base's"
    assert evaluate(plain, task, "test", metric="accuracy").loss == pytest.approx(
        whole["measurement"]["validation"]["loss"], rel=0.05
    )

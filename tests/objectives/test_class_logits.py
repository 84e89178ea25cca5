"""What an encoder says of a row is what it says of that row alone, also where its layers take in the padding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    FNetConfig,
    Gemma3TextConfig,
    PreTrainedConfig,
    XLNetConfig,
    YosoConfig,
    YosoForSequenceClassification,
)

from objectives.class_logits import class_logits, padding_is_masked
from objectives.errors import ModelError
from objectives.model import meta_model
from objectives.modules import module_space
from objectives.placement import Placement
from objectives.training import TrainingSettings, train
from objectives.workbench import Assignment, Request, Workbench
from tests.objectives.test_workbench import assignment
from tests.objectives.tiny import ENCODERS, VOCABULARY, Zoo, make_task

MIXING = {
    "fnet": lambda: FNetConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, pad_token_id=2
    ),
    "xlnet": lambda: XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=48, pad_token_id=2),
}


GEMMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": VOCABULARY}


def folder_of(config: PreTrainedConfig, zoo: Zoo, folder: Path) -> Path:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    zoo.tokenizer("bert").save_pretrained(folder)
    return folder


def assigned(config: PreTrainedConfig, zoo: Zoo, folder: Path) -> Assignment:
    model = folder_of(config, zoo, folder / "model")
    space = module_space(meta_model(config, "encoder", 3), config, "encoder")
    return assignment(zoo, "bert", folder, model=model, space=space)


@pytest.fixture(params=MIXING)
def given(request: pytest.FixtureRequest, zoo: Zoo, tmp_path: Path) -> Assignment:
    return assigned(MIXING[request.param](), zoo, tmp_path)


@pytest.mark.parametrize("name", ENCODERS)
def test_most_encoders_mask_their_padding(zoo: Zoo, name: str) -> None:
    task = make_task(zoo, name)
    assert len({len(row.prompt) for row in task.splits["validation"]}) > 2
    assert padding_is_masked(zoo.base(name), zoo.folder(name), task)
    assert padding_is_masked(zoo.copy(name).bfloat16(), zoo.folder(name), task)


def test_what_leaks_is_seen_in_bfloat16_too(zoo: Zoo) -> None:
    """YOSO takes in less of its padding than bfloat16 rounds; its weights are then what they were."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = YosoForSequenceClassification(YosoConfig(vocab_size=VOCABULARY, pad_token_id=2, **sizes)).bfloat16().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    task = make_task(zoo, "bert")
    assert not padding_is_masked(model, zoo.folder("bert"), task)
    assert {name: tensor.dtype for name, tensor in before.items()} == {
        n: t.dtype for n, t in model.state_dict().items()
    }
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
    assert not any(parameter.is_inference() for parameter in model.parameters())


@pytest.mark.parametrize("split", ["train", "test"])
def test_padding_counts_of_whatever_split(split: str, given: Assignment) -> None:
    """Where validation has rows of one length, as long texts that are all cut, others may not."""
    task = given.task
    (some, *_) = by_length = sorted(task.splits["train"], key=lambda row: len(row.prompt))
    splits = {key: [some] for key in task.splits} | {split: [some, by_length[-1]]}
    assert not padding_is_masked(Workbench(given).base, given.model, replace(task, splits=splits))


def test_rows_keep_their_order(given: Assignment) -> None:
    base, pad_id, rows = Workbench(given).base, given.task.pad_id, given.task.splits["test"]
    lengths = [len(row.prompt) for row in rows]
    assert lengths != sorted(lengths)
    alone = torch.cat([class_logits(base, [row], pad_id) for row in rows])
    torch.testing.assert_close(class_logits(base, rows, pad_id, together=False), alone)
    pair = [lengths.index(max(lengths)), lengths.index(min(lengths))]
    torch.testing.assert_close(class_logits(base, [rows[i] for i in pair], pad_id, together=False), alone[pair])


def test_rows_are_evaluated_as_each_is_alone(given: Assignment) -> None:
    bench, task = Workbench(given), given.task
    assert not bench.together
    found = bench.evaluate(bench.base, "test")
    rows = task.splits["test"]
    alone = torch.cat([class_logits(bench.base, [row], task.pad_id) for row in rows])
    assert found.predictions == tuple(task.labels[label] for label in alone.argmax(-1).tolist())
    truth = torch.tensor([row.label for row in rows])
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(alone, truth).item(), rel=1e-5)


def test_rows_are_trained_on_as_each_is_alone(given: Assignment) -> None:
    bench = Workbench(given)
    few = replace(given.task, splits={**given.task.splits, "train": given.task.splits["train"][:8]})
    settings = TrainingSettings(steps=1, batch_size=8)
    alone = torch.cat([class_logits(bench.base, [row], few.pad_id) for row in few.splits["train"]])
    truth = torch.tensor([row.label for row in few.splits["train"]])
    expected = torch.nn.functional.cross_entropy(alone, truth).item()
    model = bench.base
    model.get_submodule(model.new_modules[0]).requires_grad_(True)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert train(model, few, settings, together=bench.together).losses == [(1, pytest.approx(expected, rel=1e-5))]


def test_a_trial_of_such_a_model_is_trained_so(given: Assignment, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append(options["together"])
        return train(*arguments, **options)

    monkeypatch.setattr("objectives.workbench.train", noted)
    placement = Placement.of([given.space.groups[0].name], 2)
    (outcome,) = Workbench(given).measure([Request(placement, "a", {"ratio": 1.0})])
    assert outcome["status"] == "complete"
    assert asked == [False]


@pytest.mark.parametrize("pad_id", [None, 0])
def test_a_model_that_classifies_by_the_last_token_knows_what_is_padding(
    pad_id: int | None, zoo: Zoo, tmp_path: Path
) -> None:
    """By its configuration, which may say nothing, or another token than the tokenizer's."""
    config = Gemma3TextConfig(use_bidirectional_attention=True, pad_token_id=pad_id, **GEMMA)
    bench = Workbench(assigned(config, zoo, tmp_path))
    assert bench.together
    assert len(bench.evaluate(bench.base, "test").scores) == len(make_task(zoo, "bert").splits["test"])


def test_a_model_that_cannot_classify_a_row_is_refused_in_a_sentence(zoo: Zoo) -> None:
    model = zoo.copy("bert")

    def refuse(*_: object) -> None:
        raise ValueError("You have to specify boxes")

    model.register_forward_pre_hook(refuse)
    with pytest.raises(ModelError) as refusal:
        padding_is_masked(model, zoo.folder("bert"), make_task(zoo, "bert"))
    assert str(refusal.value) == (
        "model type 'bert' does not classify a text in this version of transformers (ValueError: You have to specify "
        "boxes): choose another model"
    )

"""A training in parts is the training in one go, wherever it stopped and whatever became of its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from objectives.backbone import attach
from objectives.checkpoint import load_checkpoint, save_checkpoint
from objectives.errors import StoreError
from objectives.storage import Folder
from objectives.training import TrainingSettings, train
from tests.objectives.tiny import Zoo, all_groups, make_task

SETTINGS = TrainingSettings(steps=40, batch_size=8, learning_rate=1e-2, clip=0.5)


def fresh(zoo: Zoo, name: str) -> Any:
    space = zoo.space(name)
    return attach(zoo.base(name), space, all_groups(space), seed=0).get_base_model()


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_parts_give_the_same_bits_as_one_go(zoo: Zoo, name: str, accumulate: int, tmp_path: Path) -> None:
    task, settings, here = make_task(zoo, name), replace(SETTINGS, accumulate=accumulate), Folder(tmp_path)
    whole = fresh(zoo, name)
    expected = train(whole, task, settings)
    for until in (10, 30, 40):
        model = fresh(zoo, name)
        before = load_checkpoint(here, "part", model)
        assert (before is None) == (until == 10)
        result = train(model, task, settings, until=until, before=before)
        assert result.steps == until
        save_checkpoint(here, "part", model, result)
    assert result == expected
    ended, wanted = weights(model), weights(whole)
    assert ended.keys() == wanted.keys()
    assert all(torch.equal(ended[key], wanted[key]) for key in wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


@pytest.mark.parametrize("damage", ["cut", "empty", "no safetensors", "of another model"])
def test_a_damaged_checkpoint_is_none_and_changes_nothing(zoo: Zoo, damage: str, tmp_path: Path) -> None:
    file, model = tmp_path / "part", fresh(zoo, "llama")
    other = fresh(zoo, "gpt2" if damage == "of another model" else "llama")
    kind = "gpt2" if damage == "of another model" else "llama"
    save_checkpoint(Folder(tmp_path), "part", other, train(other, make_task(zoo, kind), SETTINGS, until=10))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "no safetensors":
        file.write_bytes(b"\x80\x04not a pickle either" * 50)
    before = weights(model)
    assert load_checkpoint(Folder(tmp_path), "part", model) is None
    assert all(torch.equal(value, before[key]) for key, value in weights(model).items())


def test_a_disk_that_refuses_is_said(zoo: Zoo, tmp_path: Path) -> None:
    model = fresh(zoo, "llama")
    result = train(model, make_task(zoo, "llama"), SETTINGS, until=10)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"checkpoint .* could not be written \(.*\): free space or check the folder"):
        save_checkpoint(Folder(tmp_path / "file"), "part", model, result)

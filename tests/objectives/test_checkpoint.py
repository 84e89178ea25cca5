"""A training in parts is the training in one go, wherever it stopped and whatever became of its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from objectives import checkpoint
from objectives.backbone import attach
from objectives.checkpoint import SUFFIX, Keeper, drop_checkpoints, load_checkpoint, save_checkpoint
from objectives.errors import StoreError
from objectives.storage import Folder
from objectives.training import TrainingResult, TrainingSettings, train
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


@pytest.mark.parametrize("what", ["weight", "exp_avg_sq"])
@pytest.mark.parametrize("other", ["shape that would spread", "shape", "precision"])
def test_a_checkpoint_of_other_shapes_is_none_and_changes_nothing(
    zoo: Zoo, what: str, other: str, tmp_path: Path
) -> None:
    model = fresh(zoo, "llama")
    save_checkpoint(Folder(tmp_path), "part", model, train(model, make_task(zoo, "llama"), SETTINGS, until=10))
    with safe_open(tmp_path / "part", "pt") as stored:
        metadata = stored.metadata()
    tensors = load_file(tmp_path / "part")
    key = next(key for key in reversed(tensors) if key.endswith(f"|{what}"))
    changed = {"shape that would spread": tensors[key][:1], "shape": tensors[key].mT, "precision": tensors[key].half()}
    save_file(tensors | {key: changed[other].contiguous()}, tmp_path / "part", metadata)
    again = fresh(zoo, "llama")
    before = weights(again)
    assert load_checkpoint(Folder(tmp_path), "part", again) is None
    assert all(torch.equal(value, before[name]) for name, value in weights(again).items())


@pytest.mark.parametrize("told", [{}, {"training": "{}"}, {"training": '{"losses": []}'}, {"training": "[]"}])
def test_a_checkpoint_that_does_not_say_where_it_is_is_none(zoo: Zoo, told: dict[str, str], tmp_path: Path) -> None:
    model = fresh(zoo, "llama")
    save_file({f"{name}|weight": value for name, value in weights(model).items()}, tmp_path / "part", told)
    assert load_checkpoint(Folder(tmp_path), "part", model) is None


def test_a_checkpoint_without_a_weight_is_none(zoo: Zoo, tmp_path: Path) -> None:
    model = fresh(zoo, "llama")
    first, *others = weights(model).items()
    told = {"training": '{"steps": 10, "losses": []}'}
    save_file({f"{name}|weight": value for name, value in others}, tmp_path / "part", told)
    assert load_checkpoint(Folder(tmp_path), "part", model) is None
    save_file({f"{name}|weight": value for name, value in (first, *others)}, tmp_path / "part", told)
    assert load_checkpoint(Folder(tmp_path), "part", model) == TrainingResult(10)


def test_a_checkpoint_is_written_when_its_seconds_have_passed_since_the_last(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    storage, model = Folder(tmp_path), fresh(zoo, "llama")
    keeper = Keeper(storage, "part", model, 30.0)
    written = []
    for step, clock[0] in enumerate((1029.0, 1030.0, 1059.0, 1061.0, 1090.0, 1091.0)):
        keeper(TrainingResult(step))
        found = load_checkpoint(storage, "part", model)
        written.append(found and found.steps)
    assert written == [None, 1, 1, 3, 3, 5]


def test_a_disk_that_refuses_is_said(zoo: Zoo, tmp_path: Path) -> None:
    model = fresh(zoo, "llama")
    result = train(model, make_task(zoo, "llama"), SETTINGS, until=10)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"checkpoint .* could not be written \(.*\): free space or check the folder"):
        save_checkpoint(Folder(tmp_path / "file"), "part", model, result)


def test_what_a_kill_left_of_a_checkpoint_is_dropped_too(tmp_path: Path) -> None:
    """It has the name of what was being written, and more."""
    storage = Folder(tmp_path)
    (tmp_path / "0001").mkdir()
    writing = storage.writing(f"0003{SUFFIX}")
    writing.__enter__().touch()
    assert len(storage.names()) == 2
    drop_checkpoints(storage)
    assert storage.names() == ["0001"]

"""Adapter folders: whole or absent, the same to the bit when PEFT reads them back."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from objectives.adapter import WEIGHTS, adapter_config, check_adapter, save_adapter, weights_digest
from objectives.backbone import attach, load_adapter, twin
from objectives.errors import RequestError, StoreError
from objectives.storage import Folder
from tests.objectives.tiny import CONFIGURATIONS, Zoo, all_groups, shake

Limit = Callable[[int], AbstractContextManager[None]]


def adapter_of(zoo: Zoo, name: str = "llama") -> Any:
    space = zoo.space(name)
    adapted = attach(zoo.base(name), space, all_groups(space), seed=0).eval()
    shake(adapted)
    return adapted


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_peft_reads_back_computes_the_same_to_the_bit(zoo: Zoo, name: str, tmp_path: Path) -> None:
    adapted = adapter_of(zoo, name)
    save_adapter(adapted, Folder(tmp_path), "adapter")
    read = PeftModel.from_pretrained(twin(zoo.base(name)), str(tmp_path / "adapter")).eval()
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        expected, got, base = (model(input_ids=ids).logits for model in (adapted, read, zoo.base(name)))
    assert torch.equal(got, expected)
    assert not torch.allclose(got, base)


def test_a_folder_holds_safetensors_and_json_that_everyone_may_read(zoo: Zoo, tmp_path: Path) -> None:
    folder = tmp_path / "search" / "0001"
    digest = save_adapter(adapter_of(zoo), Folder(folder.parent), folder.name)
    assert {file.name for file in folder.iterdir()} == {WEIGHTS, "adapter_config.json", "README.md"}
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
    assert names(folder.parent) == ["0001"], "nothing else stays"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 8, "CAUSAL_LM")
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert digest == weights_digest(folder)
    assert all("lora_" in key for key in load_file(folder / WEIGHTS)), "no weight of the base model"


def test_the_same_adapter_has_the_same_digest(zoo: Zoo, tmp_path: Path) -> None:
    assert save_adapter(adapter_of(zoo), Folder(tmp_path), "a") == save_adapter(adapter_of(zoo), Folder(tmp_path), "b")


@pytest.mark.parametrize("change", [{"r": 3}, {"target_modules": ["nope"]}])
def test_an_adapter_that_its_configuration_does_not_fit_is_refused(
    zoo: Zoo, tmp_path: Path, change: dict[str, Any]
) -> None:
    save_adapter(adapter_of(zoo), Folder(tmp_path), "a")
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(RequestError) as caught:
        load_adapter(zoo.base("llama"), str(tmp_path / "a"))
    assert str(caught.value).startswith(f"adapter {tmp_path}/a does not fit its own configuration (")
    assert str(caught.value).endswith("): export it again")


def test_an_adapter_that_was_there_is_replaced(zoo: Zoo, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "left over").touch()
    digest = save_adapter(adapter_of(zoo), Folder(folder.parent), folder.name)
    check_adapter(folder, digest)
    assert not (folder / "left over").exists()


@pytest.mark.parametrize("room", [0, 6000])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_disk_that_refuses_leaves_what_was_there(
    zoo: Zoo, tmp_path: Path, room: int, is_there: bool, no_file_larger_than: Limit
) -> None:
    """With no room at all the first file fails, with 6000 bytes the weights do, half written."""
    folder = tmp_path / "adapters" / "0001"
    adapter = adapter_of(zoo)  # outside of the limit, which would also hold for the zoo's own files
    digest = save_adapter(adapter, Folder(folder.parent), folder.name) if is_there else None
    with pytest.raises(StoreError) as caught, no_file_larger_than(room):
        save_adapter(adapter, Folder(folder.parent), folder.name)
    assert re.fullmatch(
        rf"adapter {re.escape(str(folder))} could not be written \(.*File too large.*\): "
        r"free space or check the folder, then resume",
        str(caught.value),
    )
    assert names(folder.parent) == (["0001"] if is_there else [])
    if is_there:
        check_adapter(folder, digest)


def test_a_parent_that_is_a_file_is_a_clear_error(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "adapters").touch()
    folder = tmp_path / "adapters" / "0001"
    with pytest.raises(StoreError) as caught:
        save_adapter(adapter_of(zoo), Folder(folder.parent), folder.name)
    assert str(caught.value) == (
        f"adapter {folder} could not be written (File exists): free space or check the folder, then resume"
    )


def test_other_errors_are_not_called_a_full_disk_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        save_adapter(torch.nn.Linear(1, 1), Folder(tmp_path), "adapter")
    assert names(tmp_path) == []


def test_a_changed_adapter_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    digest = save_adapter(adapter_of(zoo), Folder(folder.parent), folder.name)
    check_adapter(folder, digest)
    check_adapter(folder, None)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(RequestError) as caught:
        check_adapter(folder, digest)
    assert str(caught.value) == (
        f"adapter {folder / WEIGHTS} has changed since it was measured (its SHA-256 differs): restore it from MLflow, "
        "where the same adapter is stored"
    )


def test_a_missing_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        check_adapter(tmp_path / "gone", None)
    assert str(caught.value) == (
        f"adapter {tmp_path / 'gone'} has no {WEIGHTS}: it was moved or deleted; take it from where it is still "
        "kept (MLflow has a copy), or train it again"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that even root cannot read")
def test_an_adapter_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).symlink_to("/proc/self/mem")
    with pytest.raises(RequestError) as caught:
        check_adapter(tmp_path, "ab")
    assert str(caught.value) == (
        f"adapter {tmp_path}/{WEIGHTS} cannot be read (Input/output error): let its owner give you the right to, or "
        "check its disk"
    )


@pytest.mark.parametrize("text", ["{}", "[]"])
def test_a_configuration_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(RequestError) as caught:
        adapter_config(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/adapter_config.json is no configuration of PEFT (it has no peft_type): restore the file"
    )


def test_a_configuration_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LO')
    with pytest.raises(RequestError) as caught:
        adapter_config(tmp_path)
    assert re.fullmatch(
        rf"adapter {re.escape(str(tmp_path))}/adapter_config\.json cannot be read \(.+\): train it again",
        str(caught.value),
    )

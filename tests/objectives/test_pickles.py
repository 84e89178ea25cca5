"""Nothing of ours reads a pickle: planted ones are refused before anything could run, and no code could load them."""

from __future__ import annotations

import ast
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from objectives import demo
from objectives.adapter import check_adapter
from objectives.backbone import load_adapter
from objectives.errors import ModelError
from objectives.model import check_weights, load_model
from objectives.tokenizer import load_tokenizer
from tests.commands import call

ROOT = Path(__file__).resolve().parents[2]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return (Path.touch, (self.mark,))


def plant(folder: Path, name: str, kind: str) -> Path:
    mark = folder.parent / "sprung"
    if kind == "torch":
        torch.save(Trap(mark), folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    return mark


def refusal(folder: Path, name: str) -> str:
    return (
        f"{folder} holds {name}, which may be a pickle, and reading one runs whatever it says: remove it, and keep "
        "weights as safetensors and everything else as JSON."
    )


def test_the_trap_works(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mark = plant(tmp_path / "a", "x.bin", "pickle")
    pickle.loads((tmp_path / "a" / "x.bin").read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("kind", ["torch", "pickle"])
@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "adapter_model.bin", "tokenizer.pkl", "optimizer.pt", "rng_state.pth", "A.PICKLE"]
)
def test_a_model_folder_with_a_pickle_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    folder = Path(shutil.copytree(demo.model_dir(), tmp_path / "model"))
    mark = plant(folder, name, kind)
    for read in (check_weights, load_tokenizer, lambda folder: load_model(folder, "causal", torch.float32, "cpu")):
        with pytest.raises(ModelError) as caught:
            read(folder)
        assert str(caught.value) == refusal(folder, name)
    assert not mark.exists()


def test_the_command_line_refuses_it_too(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo.model_dir(), tmp_path / "model"))
    mark = plant(folder, "optimizer.pt", "torch")
    done = call("run", "--model", str(folder), "--home", str(tmp_path / "home"), code=2)
    assert done.stderr.splitlines()[-1] == f"error: {refusal(folder, 'optimizer.pt')}"
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_an_adapter_that_is_a_pickle_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["o_proj"]}')
    mark = plant(folder, "adapter_model.bin", kind)
    with pytest.raises(ValueError, match=r"has no adapter_model.safetensors: it was moved or deleted"):
        load_adapter(torch.nn.Linear(2, 2), str(folder))
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    for read in (lambda: check_adapter(folder, None), lambda: load_adapter(torch.nn.Linear(2, 2), str(folder))):
        with pytest.raises(ModelError) as caught:
            read()
        assert str(caught.value) == refusal(folder, "adapter_model.bin")
    assert not mark.exists()


def test_no_code_of_ours_can_load_one() -> None:
    unpicklers = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    files = [file for name in ("search", "objectives", "cluster", "dashboards") for file in (ROOT / name).rglob("*.py")]
    assert len(files) > 100
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not unpicklers & {alias.name.partition(".")[0] for alias in node.names}, file
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in unpicklers, file
                assert not {"PickleType"} & {alias.name for alias in node.names}, file
            elif isinstance(node, ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else None
                assert (owner, node.attr) not in {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load")}, file
                assert node.attr not in {"PickleType", "read_pickle"}, file
            elif isinstance(node, ast.keyword):
                assert node.arg not in {"allow_pickle", "weights_only"}, file

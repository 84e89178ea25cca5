"""Pages that are programs run as they are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from objectives.data import load_data
from tests.commands import environment, serving
from tests.test_docs import ROOT, blocks, in_order

#: Serves until Ctrl-C.
UI = "python -m search ui"


def environment_of_a_reader() -> dict[str, str]:
    """`python` is this one, and modules come from the checkout, wherever the page runs; Ray's workers inherit it."""
    reader = environment() | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    reader["PATH"] = f"{Path(sys.executable).parent}:{reader['PATH']}"
    return {name: value for name, value in reader.items() if not name.startswith("SEARCH_")}


def run(program: list[str], folder: Path) -> str:
    done = subprocess.run(
        program, cwd=folder, capture_output=True, text=True, env=environment_of_a_reader(), timeout=300
    )
    assert done.returncode == 0, f"{program[-1]}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """The folder of someone who followed the tutorial, and (block, what it printed) in the order of the page."""
    folder, printed = tmp_path_factory.mktemp("tutorial"), []
    for language, block in in_order(ROOT / "docs" / "tutorial.md"):
        if language == "sh" and not block.startswith(UI):
            printed.append((block, run(["bash", "-euo", "pipefail", "-c", block], folder)))
        elif language == "python":
            printed.append((block, run([sys.executable, "-c", block], folder)))
    yield folder, printed


@pytest.mark.slow
def test_the_tutorial_runs(followed: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, printed = followed

    def said(start: str) -> str:
        (output,) = (output for block, output in printed if block.startswith(start))
        return output

    assert said("python -m objectives.demo") == blocks(ROOT / "docs" / "tutorial.md", "text")[0]
    assert "down_proj" in said("python -m search modules")
    assert "Recommended: " in said("python -m search run")
    assert said("python -m search show") == said("python -m search run")
    assert (folder / "shop.html").stat().st_size > 100_000
    (figures,) = re.findall(r"recorded ([\d.]+), measured again ([\d.]+)", said("python -m search export"))
    assert figures[0] == figures[1]
    labels = json.loads((folder / "adapter" / "manifest.json").read_text())["labels"]
    assert said("import json").strip() in labels
    assert "SFTTrainer" in said("python -m search recipe") and "lora_target: " in said("python -m search recipe")


def test_the_tutorial_ends_at_the_page_of_its_search(followed: tuple[Path, list[tuple[str, str]]]) -> None:
    """The address; tests/browser opens what `ui` serves there."""
    (block,) = (body for body in blocks(ROOT / "docs" / "tutorial.md", "sh") if body.startswith(UI))
    document = json.loads(run(["python", "-m", "search", "show", "shop", "--json"], followed[0]))
    with serving(block.split(), followed[0], "(Ctrl-C ends it)\n", environment_of_a_reader()) as (_, address):
        assert f"/runs/{document['mlflow_run_id']}" in address


@pytest.mark.slow
def test_the_python_page_runs(tmp_path: Path) -> None:
    program = "\n".join(blocks(ROOT / "docs" / "python.md", "python"))
    assert "times the base model's TPOT" in run([sys.executable, "-c", program], tmp_path)
    assert (tmp_path / "from-python.html").stat().st_size > 100_000
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_what_the_page_on_data_writes_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.chdir(tmp_path)
    ten = [f"Wo bleibt die Tür Nr. {index}?" for index in range(10)]
    mails = ["Id;Body;Team", *(f"{i};{text};{'ab'[i % 2]}" for i, text in enumerate(ten)), "10;;a", "11;Leer;"]
    Path("mails.csv").write_text("\r\n".join(mails), encoding="cp1252")
    pairs = ["premise\thypothesis\tlabel", *(f'"{text}\tNone\t{i % 2}' for i, text in enumerate(ten))]
    Path("pairs.tsv").write_text("\n".join(pairs), encoding="utf-8")
    rows = datasets.Dataset.from_list([{"sentence": text, "intent": "ab"[i % 2]} for i, text in enumerate(ten)])
    datasets.DatasetDict(train=rows, eval=rows.select(range(2))).save_to_disk("saved")
    user, answer = ({"role": role, "content": "Hm."} for role in ("user", "assistant"))
    chats = [[user | {"content": text}, answer] for text in ten]
    chats += [
        [{"role": "system", "content": "Be brief."}, *chats[0]],
        [*chats[0], user],
        [user, answer | {"content": ""}],
        [user, {"role": "assistant", "content": None, "tool_calls": []}],
        [user, {"role": "assistant", "tool_calls": []}, {"role": "tool", "content": "3"}, answer],
    ]
    lines = [json.dumps({"messages": chat}) for chat in [*chats, [answer]]]
    Path("chats.jsonl").write_text("\n".join(lines) + "\n\n")
    tasks = [{"instruction": text, "input": "Hier." * (i % 2), "output": "Ja."} for i, text in enumerate(ten)]
    Path("alpaca.json").write_text(json.dumps(tasks))
    for block in blocks(ROOT / "docs" / "data.md", "python"):
        exec(compile(block, "data.md", "exec"), {})

    written = ("mails.jsonl", "pairs.jsonl", "intents", "answers.jsonl", "instructions.jsonl")
    found = {name: load_data(name) for name in written}
    assert [sum(map(len, data.splits.values())) for data in found.values()] == [10, 10, 10, 12, 10]
    assert found["mails.jsonl"].labels == found["intents"].labels == ("a", "b")
    prompts = {row.text for data in found.values() for rows in data.splits.values() for row in rows}
    assert {ten[0], f'"{ten[0]}\n\nNone', f"{ten[1]}\n\nHier.", f"system: Be brief.\n\nuser: {ten[0]}"} <= prompts
    assert "user: Hm.\n\ntool: 3" in prompts

"""The main job end to end, as a user does it, on the model and task that ship with the package."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html import unescape
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from objectives import demo
from tests import forked
from tests.commands import QUICK, assert_whole, call, call_json, environment
from tests.json_reference import undescribed, unseen
from tests.search.pseudo_terminal import terminal, without_codes

BUDGET = 5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """Where Ray writes what it has to say of the search; short, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def searched(home: Path, ray_folder: Path) -> tuple[dict[str, Any], str]:
    """What the search printed, and what a terminal on standard error showed meanwhile."""
    args = ["--budget", str(BUDGET), *QUICK, "--workers", "2", "--alpha", "9", "--baseline", "q_proj,k_proj"]
    args += ["--home", str(home), "--name", "whole"]
    wide = environment() | {"COLUMNS": "100", "LINES": "40", "TERM": "xterm-256color", "RAY_TMPDIR": str(ray_folder)}
    with TemporaryFile("w+") as output, terminal() as tty:
        files = {"stdout": output, "stderr": tty.stream}
        with forked.started(forked.search, "run", *args, "--json", environment=wide, **files) as search:
            search.join(300)
            code = search.exitcode
        seen = without_codes(tty.seen)
        assert code == 0, seen
        output.seek(0)
        return json.load(output), seen


@pytest.fixture(scope="module")
def document(searched: tuple[dict[str, Any], str]) -> dict[str, Any]:
    return searched[0]


@pytest.mark.slow
def test_result_is_the_contract(document: dict[str, Any]) -> None:
    assert undescribed("run", document) == []
    assert document["status"] == "complete"
    assert document["trials"] == {"complete": BUDGET, "stopped": 0, "failed": 0, "infeasible": 0}
    assert document["steps"] == {"spent": 4 * BUDGET, "full": 4 * BUDGET}
    assert len({(tuple(p["targets"]), p["rank"]) for p in document["points"]}) == BUDGET
    assert [point["reference"] for point in document["points"][:2]] == ["baseline", "o_proj only"]
    baseline = document["baseline"]
    assert (baseline["label"], baseline["trial"]) == ("k_proj+q_proj r4", 0)
    assert 0 <= baseline["accuracy"] <= 1, "read on test"
    members = document["front"]
    assert members
    assert {"trial", "targets", "rank", "accuracy", "accuracy_ci", "tpot_p95_ms", "tpot_ratio", "parameters", "adapter",
            "mlflow_run_id"} <= members[0].keys()  # fmt: skip
    for cheaper, dearer in pairwise(members):
        assert cheaper["tpot_ratio"] < dearer["tpot_ratio"]
        assert cheaper["validation_accuracy"] < dearer["validation_accuracy"]
    assert document["recommended"]["trial"] in {m["trial"] for m in members}
    assert document["knee"]["trial"] in {m["trial"] for m in members}
    assert 0 < document["hypervolume"] < 1
    assert (document["latency_engine"], document["latency_mode"]) == ("transformers", "unmerged")
    assert all(member["latency_source"] == "measured" for member in members)
    assert {"accuracy", "tpot_p95_ms", "ttft_p95_ms"} <= document["base"].keys()


def test_a_terminal_shows_the_front_while_the_search_runs(searched: tuple[dict[str, Any], str]) -> None:
    document, seen = searched
    *_, last = seen.split(f"{BUDGET}/{BUDGET} ")
    assert "elapsed" in last
    assert "accuracy against TPOT ratio" in last
    assert "· dominated  ◆ base  ● front" in last
    assert sum(f"{member['tpot_ratio']:.3f}" in last for member in document["front"]) == len(document["front"])


def test_a_worker_starts_once(ray_folder: Path, searched: tuple[dict[str, Any], str]) -> None:
    """Also where all but one wait for the last trial before the test split is read: a start takes seconds."""
    outputs = list(ray_folder.glob("ray/session_*_*/logs/worker-*.out"))
    assert len(outputs) == 2, outputs


def test_the_catalog_is_one_file(home: Path, document: dict[str, Any]) -> None:
    """Whoever copies it has everything: nothing is left in SQLite's log."""
    assert [file.name for file in home.glob("search.db-*")] == []


def test_every_store_agrees(home: Path, document: dict[str, Any]) -> None:
    state = assert_whole(home, "whole", BUDGET)
    on_front = {run.info.run_id for run in state["children"] if run.data.tags["front"] == "true"}
    assert on_front == {member["mlflow_run_id"] for member in document["front"]}
    assert {run.data.params["alpha"] for run in state["children"]} == {"9"}


def test_show_gives_the_same_later(home: Path, document: dict[str, Any]) -> None:
    assert call_json("show", "whole", "--home", str(home)) == document
    shown = call("show", "whole", "--home", str(home)).stdout
    assert "Recommended" in shown
    assert "validation accuracy against" not in shown
    wide = environment() | {"COLUMNS": "100"}
    with terminal() as tty:
        show = ["show", "whole", "--home", str(home)]
        with forked.started(forked.search, *show, environment=wide, stdout=tty.stream) as shown_there:
            shown_there.join(60)
        assert shown_there.exitcode == 0
        assert "validation accuracy against TPOT ratio" in tty.seen
    assert "whole" in call("list", "--home", str(home)).stdout
    (row,) = rows = call_json("list", "--home", str(home))
    assert undescribed("list", rows) == []
    assert (row["search"], row["status"], row["trials"]["complete"]) == ("whole", "complete", BUDGET)


def test_export_is_what_was_measured(home: Path, document: dict[str, Any], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    member, out = document["front"][-1], tmp_path / "out"
    call("export", "whole", "--pick", f"trial={member['trial']}", "--out", str(out), "--home", str(home))
    again = call_json("verify", str(out))
    assert again["measured"] == again["recorded"] == member["accuracy"]
    assert undescribed("verify", again) == unseen("verify", again) == []
    manifest = json.loads((out / "manifest.json").read_text())
    assert undescribed("export", manifest) == unseen("export", manifest) == []
    assert manifest["provenance"]["data_hash"] == document["provenance"]["data_hash"]
    assert manifest["test"]["accuracy"] == member["accuracy"]
    adapter = json.loads((out / "adapter_config.json").read_text())
    assert (manifest["alpha"], manifest["provenance"]["alpha"], adapter["lora_alpha"]) == (9, "9", 9)
    serving = manifest["serving"]
    assert (serving["loads"], serving["why_not"]) == (True, [])
    assert serving["command"] in (out / "serve.sh").read_text()
    assert all(target in serving["command"].split() for target in member["targets"])
    assert "vLLM serves it unmerged with `sh serve.sh`" in (out / "README.md").read_text()
    base = AutoModelForCausalLM.from_pretrained(demo.model_dir())
    adapted = PeftModel.from_pretrained(base, out)
    trained = {name.split(".")[-4] for name, p in adapted.named_parameters() if "lora_A" in name and p.any()}
    assert trained == set(member["targets"])


def test_the_model_card_is_enough_to_score(home: Path, document: dict[str, Any], tmp_path: Path) -> None:
    """Its code, with rows as its notes describe them, and nothing of this package: the same test accuracy."""
    import random

    member, out = document["front"][-1], tmp_path / "out"
    call("export", "whole", "--pick", f"trial={member['trial']}", "--out", str(out), "--home", str(home))
    card = (out / "README.md").read_text(encoding="utf-8")
    load, score = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    used, of = map(int, re.search(r"- test: (\d+) of (\d+) rows used", card).groups())  # type: ignore[union-attr]
    (seed,) = re.findall(r'random\.Random\("(\d+) test"\)', card)
    lines = (demo.data_dir() / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == of
    picked = sorted(random.Random(f"{seed} test").sample(range(of), used))
    rows = [json.loads(lines[index]) for index in picked]
    program = f"{load}{score}\nrows = {rows!r}\nprint(sum(classify(row['text']) == row['label'] for row in rows))\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=out, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / used == member["accuracy"]


def test_mlflow_holds_the_same_adapter(home: Path, document: dict[str, Any], tmp_path: Path) -> None:
    state = assert_whole(home, "whole", BUDGET)
    member = document["front"][0]
    call("export", "whole", "--pick", f"trial={member['trial']}", "--out", str(tmp_path / "out"), "--home", str(home))
    folder = Path(state["client"].download_artifacts(member["mlflow_run_id"], "adapter", str(tmp_path)))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    (parent,) = state["parents"]
    artifacts = {artifact.path for artifact in state["client"].list_artifacts(parent.info.run_id)}
    assert {"front.html", "front.json"} <= artifacts
    note = parent.data.tags["mlflow.note.content"]
    assert "Recommended" in note and f" --out DIR --home {home}\n" in note


def test_peft_loads_what_the_registry_calls_champion(
    home: Path, document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    assert document["registry_uri"] == "models:/whole@champion"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    folder = mlflow.artifacts.download_artifacts(document["registry_uri"], dst_path=str(tmp_path))
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(demo.model_dir()), folder)
    chosen = next(member for member in document["front"] if member["trial"] == document["recommended"]["trial"])
    expected = load_file(Path(chosen["adapter"]) / "adapter_model.safetensors")
    loaded = {name.replace(".default", ""): value for name, value in adapted.named_parameters() if "lora_" in name}
    assert loaded.keys() == expected.keys()
    assert all(loaded[name].equal(value) for name, value in expected.items())


def test_report_is_one_page(home: Path, document: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    call("report", "whole", "--out", str(page), "--home", str(home))
    text = page.read_text(encoding="utf-8")
    assert document["front"][0]["label"] in text
    assert 'src="http' not in text
    commands, loading, *_ = re.findall(r"<pre>(.*?)</pre>", text, re.DOTALL)
    follow_the_instructions(unescape(commands), unescape(loading), document, tmp_path)


def follow_the_instructions(commands: str, loading: str, document: dict[str, Any], folder: Path) -> None:
    """What the page says, as a reader types it: an adapter that PEFT loads, with the accuracy that the page states."""
    out, trial = folder / "adapter", document["recommended"]["trial"]
    export, verify = ([*line.replace("DIR", str(out)).split()[3:]] for line in commands.splitlines())
    call(*export)
    (member,) = (each for each in document["front"] if each["trial"] == trial)
    again = call_json(*verify)
    assert again["measured"] == again["recorded"] == member["accuracy"]
    names: dict[str, Any] = {}
    exec(loading.replace("DIR", str(out)), names)
    config = names["model"].peft_config["default"]
    assert (sorted(config.target_modules), config.r) == (sorted(member["targets"]), member["rank"])


def test_a_home_may_be_moved(home: Path, document: dict[str, Any], tmp_path: Path) -> None:
    moved, member = tmp_path / "a moved home", document["front"][-1]
    shutil.copytree(home, moved)
    home.rename(away := home.with_name("away"))
    try:
        call(
            "export",
            "whole",
            "--pick",
            f"trial={member['trial']}",
            "--out",
            str(tmp_path / "out"),
            "--home",
            str(moved),
        )
        shown = call_json("show", "whole", "--home", str(moved))
    finally:
        away.rename(home)
    adapter = Path(shown["front"][-1]["adapter"])
    assert adapter == moved / "adapters" / adapter.parent.name / adapter.name
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == (
        Path(member["adapter"]) / "adapter_model.safetensors"
    ).read_bytes()


def test_a_taken_name_is_refused(home: Path, document: dict[str, Any]) -> None:
    done = call("run", "--name", "whole", "--home", str(home), code=2)
    assert done.stderr.strip() == (
        f"error: a search named 'whole' exists already (complete, {BUDGET} trials): choose another --name, or continue "
        f"it with `python -m search resume whole --home {home}`"
    )
    assert done.stdout == ""


def test_a_search_that_is_complete_is_not_begun_again(home: Path, document: dict[str, Any]) -> None:
    done = call("resume", "whole", "--home", str(home), "--json")
    assert done.stderr == f"note: search whole is complete, with {BUDGET} trials: give a --budget for more\n"
    assert json.loads(done.stdout) == call_json("show", "whole", "--home", str(home))


def test_a_larger_budget_goes_on(home: Path, document: dict[str, Any], tmp_path: Path) -> None:
    copy = shutil.copytree(home, tmp_path / "home")
    larger = ("resume", "whole", "--budget", str(BUDGET + 1), "--home", str(copy), "--max-hours")
    assert "--max-hours 0.0 must be a number above 0" in call(*larger, "0", code=2).stderr
    more = call_json(*larger, "1")
    assert more["trials"]["complete"] == BUDGET + 1
    assert more["reason"] is None
    assert more["points"][:BUDGET][0]["validation_accuracy"] == document["points"][0]["validation_accuracy"]
    assert_whole(copy, "whole", BUDGET + 1)


def test_a_budget_below_what_was_done_is_refused(home: Path, document: dict[str, Any]) -> None:
    done = call("resume", "whole", "--budget", "2", "--home", str(home), code=2)
    assert done.stderr.strip() == f"error: --budget 2 is below the {BUDGET} trials that search whole has: give more"


@pytest.mark.slow
def test_infeasible_placements_are_not_trained(tmp_path: Path, migrated_mlflow: Path) -> None:
    shutil.copyfile(migrated_mlflow, tmp_path / "mlflow.db")
    limits = ["--max-tpot-ratio", "1.02", "--max-adapter-mb", "0.02"]
    done = call("run", "--budget", "2", *QUICK, *limits, "--home", str(tmp_path), "--name", "capped", code=3)
    assert "none of 2 trials of search capped succeeded" in done.stderr
    document = call_json("show", "capped", "--home", str(tmp_path))
    assert document["trials"]["infeasible"] == 2
    assert document["steps"]["spent"] == 0

"""A search whose adapters run on a server: its latency comes from there, one measurement a class."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dashboards.words import latency_meaning
from objectives import demo
from objectives.errors import RequestError
from objectives.latency.settings import LatencySettings
from objectives.model import load_base
from objectives.placement import BASE, Placement
from search import served
from search.catalog import Catalog
from search.cli import cli
from search.inspection import structure_of
from search.latency import _fits, latency_document, open_engine
from search.served import ServedProfiles
from search.spec import SearchSpec
from tests.commands import QUICK, call, call_json
from tests.json_reference import undescribed, unseen
from tests.objectives.latency.scripted import Script, serving
from tests.objectives.tiny import Zoo
from tests.search.pseudo_terminal import terminal, without_codes

FAST = {"first": [0.001], "each": [0.0005], "tokens": 17, "owner": "vllm"}


def test_placements_of_one_class_share_one_measurement(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(LatencySettings(), max_seconds=0.0)
    monkeypatch.setattr(served, "SETTINGS", settings)
    catalog = Catalog(sqlite)
    with serving(Script(**FAST)) as server:
        spec = SearchSpec(engine="openai", endpoint=server.url)
        model, space = structure_of(spec)
        engine = open_engine(spec, model, space, settings)
        profiles = ServedProfiles(engine, space, catalog, seed=0)
        one = profiles.of(Placement.of(["q_proj"], 8))
        assert profiles.of(Placement.of(["k_proj", "v_proj"], 4)) == one
        assert (one["class"], one["source"], one["engine"]) == ("qkv r8", "measured", "vllm")
        assert profiles.of(Placement.of(["o_proj"], 8)) != one
        assert profiles.of(BASE)["class"] == "base"
        assert sum(path == "/v1/load_lora_adapter" for path in server.calls) == 2
        engine.close()
    catalog.close()


@pytest.mark.slow
def test_a_search_on_a_server(tmp_path: Path, migrated_mlflow: Path) -> None:
    shutil.copyfile(migrated_mlflow, tmp_path / "mlflow.db")
    with serving(Script(**FAST, slower=1.2)) as server:
        flags = ["--engine", "openai", "--endpoint", server.url, "--home", str(tmp_path), "--name", "served"]
        document = call_json("run", "--budget", "2", *QUICK, *flags)
        assert document["trials"]["complete"] == 2
        assert (document["latency_engine"], document["latency_mode"]) == ("vllm", "unmerged")
        assert all(point["latency_source"] == "measured" for point in document["points"])
        assert server.loaded == {}
        assert all(point["tpot_ratio"] > 1.05 for point in document["points"])
    assert "served unmerged by vllm" in latency_meaning(document)


_OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_model_that_is_trusted_makes_its_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers adds to it
    folder = tmp_path / "own"
    shutil.copytree(demo.model_dir(), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-llama", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own_code.py").write_text(_OWN_CODE)
    with serving(Script(**FAST)) as server:
        spec = SearchSpec(model=str(folder), engine="openai", endpoint=server.url, trust_remote_code=True)
        model, space = structure_of(spec)
        assert space.model_type == "own-llama"
        engine = open_engine(spec, model, space, LatencySettings())
        engine.open(Placement.of(["o_proj"], 4), seed=0).request()
        assert len(server.loaded) == 1
        engine.close()


def test_an_endpoint_without_its_engine_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        SearchSpec(endpoint="http://127.0.0.1:1")
    assert str(caught.value) == (
        "--endpoint http://127.0.0.1:1 is for --engine openai alone: add that, or leave it out"
    )
    with pytest.raises(RequestError) as caught:
        SearchSpec(engine="openai")
    assert str(caught.value) == ("--engine openai needs the address of a server: give --endpoint http://127.0.0.1:8000")


def test_an_unknown_engine_in_a_settings_file_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        SearchSpec(engine="vllm")
    assert str(caught.value) == "--engine vllm is unknown: choose transformers or openai"


def test_graphs_need_a_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    model, space = structure_of(SearchSpec())
    with pytest.raises(RequestError) as caught:
        open_engine(SearchSpec(), model, space, LatencySettings(graphs=True))
    assert str(caught.value) == "--graphs needs a CUDA device, and this machine has none: leave the flag out"


def test_graphs_of_what_does_not_decode_here_are_refused() -> None:
    """They were passed over without a word, and the profiles kept as those of graphs."""
    model, space = structure_of(SearchSpec())
    spec = SearchSpec(engine="openai", endpoint="http://127.0.0.1:1")
    for asked, of, why in (
        (spec, space, "a server decides that itself"),
        (SearchSpec(), replace(space, kind="encoder"), f"model {model} is an encoder"),
    ):
        with pytest.raises(RequestError) as refusal:
            open_engine(asked, model, of, LatencySettings(graphs=True))
        assert str(refusal.value) == f"--graphs is for decoding in this process, and {why}: leave the flag out"


def test_latency_prints_and_keeps_its_table(tmp_path: Path) -> None:
    flags = ["latency", "--home", str(tmp_path)]
    flags += ["--max-seconds", "0.1", "--output-tokens", "5", "--prompt-tokens", "4"]

    def printed(*more: str) -> str:
        done = CliRunner().invoke(cli, [*flags, *more], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    document = json.loads(printed("--json"))
    assert document["model"] == str(demo.model_dir())
    assert document["mode"] == "unmerged"
    assert {row["source"] for row in document["profiles"]} == {"measured", "predicted"}
    assert len(document["profiles"]) == 127
    assert document["facts"].keys() == {"engine", "device", "threads", "dtype", "versions"}
    assert document["predictions"]["median_error"] is not None
    again = json.loads(printed("--json"))
    assert undescribed("latency", document) == undescribed("latency", again) == unseen("latency", again) == []
    assert [row["ratio"] for row in again["profiles"]] == [row["ratio"] for row in document["profiles"]]
    assert all(row["cached"] for row in again["profiles"] if row["source"] == "measured")
    shown = printed()
    assert "kept from before" in shown
    assert "The base model against itself" in shown
    assert [mode["mode"] for mode in document["modes"]] == ["merged", "unmerged"]
    fresh = json.loads(printed("--json", "--fresh"))
    assert not any("cached" in row for row in fresh["profiles"])


@pytest.mark.usefixtures("plain_environment")
def test_modes_stand_side_by_side_where_requests_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LatencySettings(prompt_tokens=4, output_tokens=5, max_seconds=0.0)
    with terminal() as tty:
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", tty.stream)
            document = latency_document(SearchSpec(ranks=(4,)), settings, [2])
        seen = without_codes(tty.seen)
    assert re.search(r"100% ━+ elapsed .*\nround 2: ", seen), "the bar is full when all time is used up"
    merged, unmerged, mixed = document["modes"]
    assert [mode["mode"] for mode in document["modes"]] == ["merged", "unmerged", "mixed"]
    assert (merged["adapters"], unmerged["adapters"], mixed["adapters"]) == (1, 1, 2)
    assert merged["ratio"] == document["drift"]["ratio"]
    assert mixed["ratio"] > merged["ratio"]
    assert all(mode["concurrency"] == 2 and mode["rank"] == 4 for mode in document["modes"])


def test_several_numbers_of_requests_stand_in_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of OPT no adapters can be mixed, since its MLP puts the tokens of all rows together, which is said once."""
    loaded: list[object] = []

    def counted(*given: Any, **named: Any) -> Any:
        loaded.append(load_base(*given, **named))
        return loaded[-1]

    monkeypatch.setattr("objectives.model.load_base", counted)
    flags = ["--prompt-tokens", "4", "--output-tokens", "5", "--max-seconds", "0.01", "--concurrency", "1,2,3"]
    arguments = [
        "latency",
        "--model",
        str(Zoo(tmp_path).folder("opt")),
        *flags,
        "--ranks",
        "4",
        "--home",
        str(tmp_path),
        "--json",
    ]
    document = json.loads(CliRunner().invoke(cli, arguments, catch_exceptions=False).stdout)
    assert len(loaded) == 1, "one model in memory serves all"
    assert [mode["mode"] for mode in document["modes"]] == ["merged", "unmerged"] * 3
    assert [base["concurrency"] for base in document["bases"]] == [1, 2, 3]
    assert document["bases"][0] == document["base"] | {"concurrency": 1}
    assert [check["concurrency"] for check in document["predictions"]["checks"]] == [1, 2, 3]
    assert {(mode["rank"], *mode["targets"]) for mode in document["modes"]} == {
        (4, "fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj")
    }
    (note,) = document["notes"]
    assert "cannot be served in mixed batches: PEFT mixes no adapters of model type 'opt'" in note
    assert undescribed("latency", document) == []


def test_what_latency_is_asked_for_reaches_the_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measured(*given: Any, fresh: bool) -> None:
        asked.extend([*given, fresh])
        raise RequestError("that is all")

    monkeypatch.setattr("search.latency.latency_command", measured)
    flags = (
        "--model m --bands 2 --trust-remote-code --ranks 16,4 --seed 3 --engine openai --endpoint http://localhost:1 "
    )
    flags += "--prompt-tokens 8 --output-tokens 9 --half-width 0.5 --max-seconds 7 --graphs --concurrency 4,2 --fresh"
    CliRunner().invoke(cli, ["latency", *flags.split(), "--home", str(tmp_path)])
    server = {"engine": "openai", "endpoint": "http://localhost:1"}
    assert asked == [
        SearchSpec(model="m", bands=2, trust_remote_code=True, ranks=(4, 16), seed=3, **server),  # type: ignore[arg-type]
        LatencySettings(prompt_tokens=8, output_tokens=9, half_width=0.5, max_seconds=7, graphs=True),
        (2, 4),
        f"sqlite:///{tmp_path}/search.db",
        True,
    ]


def test_a_server_that_cannot_be_asked_costs_no_name(tmp_path: Path) -> None:
    """The search has no row then, and the next try can have its name."""
    flags = ["--name", "mine", "--engine", "openai", "--endpoint", "foo", *QUICK, "--home", str(tmp_path)]
    refused = call("run", "--budget", "1", *flags, code=2).stderr.splitlines()[-1]
    assert (
        refused
        == "error: --endpoint foo is no address of a server: give one like http://127.0.0.1:8000, without a path"
    )
    assert call_json("list", "--home", str(tmp_path)) == []


def test_more_tokens_than_the_model_has_positions_are_refused() -> None:
    spec = SearchSpec()
    model, space = structure_of(spec)
    with pytest.raises(RequestError) as refusal:
        open_engine(spec, model, space, replace(LatencySettings(), prompt_tokens=240))
    assert str(refusal.value) == (
        f"--prompt-tokens 240 with --output-tokens 17 are more than the 256 positions of model {model}: give fewer"
    )
    assert open_engine(spec, model, space, replace(LatencySettings(), prompt_tokens=239)).name == "transformers"


def test_requests_that_do_not_fit_into_memory_are_told_by_their_flags() -> None:
    with pytest.raises(RequestError) as refusal:
        latency_document(SearchSpec(ranks=(4,)), LatencySettings(), [10**12])
    assert str(refusal.value) == (
        "--concurrency 1000000000000 with --prompt-tokens 32 and --output-tokens 17 does not fit into memory: give "
        "less of them"
    )
    with pytest.raises(RuntimeError, match="another fault"), _fits(LatencySettings()):
        raise RuntimeError("another fault")

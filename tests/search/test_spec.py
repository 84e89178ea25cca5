"""What a request may say, and the sentence for everything else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from objectives.errors import RequestError
from search.cli import cli
from search.config import read_config
from search.spec import SearchSpec, with_absolute_paths

HOLDS_A_KEY = (
    "--adapters holds credentials or options: give s3://BUCKET/PREFIX alone, keys as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY in the environment, and a server other than AWS as AWS_ENDPOINT_URL"
)

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"data": ""}, "--data is empty: give a value, or leave the option out"),
    ({"model": " "}, "--model is empty: give a value, or leave the option out"),
    ({"endpoint": "", "engine": "openai"}, "--endpoint is empty: give a value, or leave the option out"),
    ({"ray_address": ""}, "--ray-address is empty: give a value, or leave the option out"),
    ({"adapters": " "}, "--adapters is empty: give a value, or leave the option out"),
    *(
        ({"adapters": f"{scheme}://{rest}"}, HOLDS_A_KEY)
        for scheme in ("s3", "S3", "https")
        for rest in ("KEY:hidden@bucket", "KEY@bucket/x", "bucket/x?secret_key=hidden", "bucket?x", "a/b@c")
    ),
    *(
        ({"adapters": where}, f"--adapters {where!r} is neither a folder nor s3://BUCKET/PREFIX: give one of them")
        for where in ("gs://bucket/x", "file:///x", "s3://", "s3:///x", "s3://b/x/../y", "s3://bucket/..", "s3://UP/x")
    ),
    ({"budget": -1}, "--budget -1 is too small: give 1 or more"),
    ({"budget": "10"}, "--budget is '10': give a whole number"),
    ({"budget": None}, "--budget is None: give a whole number"),
    ({"steps": 10.0}, "--steps is 10.0: give a whole number"),
    ({"workers": True}, "--workers is True: give a whole number"),
    ({"learning_rate": "1e-3"}, "--learning-rate is '1e-3': give a number"),
    ({"trust_remote_code": "no"}, "--trust-remote-code is 'no': give true or false"),
    ({"data": ["a", "b"]}, "--data is ['a', 'b']: give text"),
    (
        {"ranks": (4.5,)},
        "--ranks (4.5,) must be whole numbers separated by commas, for example 4,8,16",
    ),
    ({"bands": 0}, "--bands 0 is too small: give 1 or more"),
    ({"budget": 2**63}, "--budget 9223372036854775808 is too large: give 1000000 or less"),
    ({"steps": 10**6 + 1}, "--steps 1000001 is too large: give 1000000 or less"),
    ({"seed": 2**32}, "--seed 4294967296 is too large: give 4294967295 or less"),
    ({"learning_rate": math.nan}, "--learning-rate nan must be a number above 0"),
    ({"max_hours": math.inf}, "--max-hours inf must be a number above 0"),
    (
        {"gpus_per_trial": math.nan},
        "--gpus-per-trial nan must be a number from 0: give 0 for CPU, or for example 0.5",
    ),
    ({"gpus_per_trial": -1}, "--gpus-per-trial -1 must be a number from 0: give 0 for CPU, or for example 0.5"),
    *(
        (
            {"gpus_per_trial": gpus},
            f"--gpus-per-trial {gpus:g} is neither a share of one GPU nor a number of whole ones: give for example "
            "0.5, 1 or 2",
        )
        for gpus in (1.5, 1e-5)
    ),
    ({"task": "translation"}, "--task translation is unknown: choose classification or generation"),
    ({"strategy": ""}, "--strategy  is unknown: choose one of auto, additive, tpe, nsga2, gp, random, grid"),
    *(
        (
            {"alpha": alpha},
            f"--alpha {alpha} is no LoRA alpha: give a whole number from 1, the same for every rank, or for example "
            "2r, twice the rank",
        )
        for alpha in ("0", "", "1.5", "two")
    ),
    *(
        (
            {"label_weight": weight},
            f"--label-weight {weight:g} must be a number from 0: give 0 to train on the labels' likelihood alone, "
            "or for example 4",
        )
        for weight in (-0.5, math.nan, math.inf)
    ),
    *(
        ({"groups": groups}, f"--groups {shown} must be names separated by commas, for example q_proj,v_proj")
        for groups, shown in (
            ("q_proj,,v_proj", "q_proj,,v_proj"),
            ("", ""),
            ([], ""),
            (["q_proj", 8], "q_proj,8"),
            (8, 8),
        )
    ),
    ({"baseline": " "}, "--baseline is empty: give a value, or leave the option out"),
    ({"baseline": ["q_proj"]}, "--baseline is ['q_proj']: give text"),
    ({"ranks": (0,)}, "--ranks 0 must be whole numbers from 1, for example 4,8,16"),
    ({"groups": ["a\0"]}, "--groups 'a\\x00' holds a NUL character: leave it out"),
    ({"template": "a\0{text}"}, "--template 'a\\x00{text}' holds a NUL character: leave it out"),
    *(
        ({field: "caf\udce9"}, f"--{field} 'caf\\udce9' is no text in UTF-8: rename it, or give another")
        for field in ("model", "data", "adapters")
    ),
]


@pytest.mark.parametrize("ranks", [8, "8", [8, 8], (8,)])
def test_from_python_ranks_and_alpha_are_as_on_the_command_line(ranks: Any) -> None:
    assert SearchSpec(ranks=ranks, alpha=16) == SearchSpec(ranks=(8,), alpha="16")  # type: ignore[arg-type]
    assert SearchSpec(ranks=(16, 4, 8)).ranks == (4, 8, 16), "of several, references have the middle one"


@pytest.mark.parametrize("groups", ["q_proj,v_proj", "q_proj + v_proj", ["q_proj", "v_proj"], ("q_proj+v_proj",)])
def test_groups_are_a_list_or_a_text(groups: Any) -> None:
    spec = SearchSpec(groups=groups)
    assert spec.groups == ("q_proj", "v_proj")
    assert SearchSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(("values", "sentence"), REFUSED)
def test_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError) as refusal:
        SearchSpec(**values)
    assert str(refusal.value) == sentence


CONFIGS = [
    ("budget: many", "budget is 'many': give a whole number"),
    ("budget: true", "budget is true: give a whole number"),
    ("max-hours: soon", "max_hours is 'soon': give a number"),
    ("ranks: {a: 1}", "ranks is {'a': 1}: give one rank, or a list of ranks"),
    ("alpha: 1.5", "alpha is 1.5: give a whole number, or for example 2r"),
    ("trust-remote-code: 'yes'", "trust_remote_code is 'yes': give true or false"),
    ("budget: 3\nsteps: 20\nbudget: 4", "budget is given twice: give it once"),
    ("max-tpot-ratio: 1.2\nmax_tpot_ratio: 1.3", "max_tpot_ratio is given twice: give it once"),
    ("name: 123", "name is 123: give text (in quotes where YAML reads something else)"),
]


def refusal_of(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(RequestError) as refusal:
        read_config(file)
    return str(refusal.value)


@pytest.mark.parametrize(("text", "sentence"), CONFIGS)
def test_a_config_of_wrong_types(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "search.yaml"
    assert refusal_of(file, text) == f"--config {file}: {sentence}"


def test_where_adapters_may_go() -> None:
    for where in ("/x", "x", "~", "..", "s3://bucket", "s3://bucket/", "s3://my.bucket-1/a b/ü+%2f/...", "C:/x"):
        assert SearchSpec(adapters=where).adapters == where


def test_a_config_that_is_not_there() -> None:
    with pytest.raises(RequestError) as refusal:
        read_config(Path("absent.yaml"))
    assert str(refusal.value) == (
        "--config absent.yaml cannot be read (No such file or directory): give a YAML file of settings"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model: x\nbudget: 3\n  steps: 4\n", "line 3: mapping values are not allowed here"),
        ("model: x\nalpha: 3\n\tdata: a\n", "line 3: found character '\\t' that cannot start any token"),
        ("name: 2026-11-31\n", "day is out of range for month"),
    ],
)
def test_broken_yaml_is_told(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "search.yaml"
    sentence = f"--config {file} cannot be read ({reason}): give a YAML file of settings"
    assert refusal_of(file, text) == sentence


def test_a_number_may_be_written_as_people_write_it(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("learning-rate: 1e-3\nmax-hours: 2\n")  # YAML 1.1 takes the first for text
    assert read_config(file) == {"learning_rate": 1e-3, "max_hours": 2}


@pytest.mark.parametrize("flag", ["--home", "--storage", "--tracking-uri"])
def test_an_empty_place_is_refused(flag: str) -> None:
    result = CliRunner().invoke(cli, ["list", flag, ""])
    assert str(result.exception) == f"{flag} is empty: give a value, or leave the option out"


@pytest.mark.parametrize(
    "asked",
    [
        "run --config",
        "ablate --config",
        "export n --out",
        "report n --out",
        "report n --figures",
        "compare n m --out",
        "serve --allow",
        "serve --endpoint",
    ],
)
def test_a_variable_that_is_not_set_is_no_path(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the file the demonstration was searched; the folder that one stands in was written to, and offered."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, [*asked.split(), ""])
    remedy = "" if asked.startswith("export") else ", or leave the option out"
    assert str(result.exception) == f"{asked.split()[-1]} is empty: give a value{remedy}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "asked",
    ["run --config=", "report n --out=", "report n --figures=", "compare n m --out=", "verify ", "serve --allow="],
)
def test_a_users_folder_is_known_where_shells_leave_it_alone(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--figures=~/x`` wrote into a folder here whose name was ``~``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    *words, last = asked.split(" ")
    parsed: list[Any] = []
    command = cli.commands[words[0]]
    monkeypatch.setattr(command, "callback", lambda **given: parsed.extend(given.values()))
    CliRunner().invoke(cli, [*words, f"{last}~/x"], catch_exceptions=False)
    assert {str(tmp_path / "x"), (str(tmp_path / "x"),)} & {each for each in parsed if isinstance(each, str | tuple)}


def test_a_variable_that_is_not_set_is_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the one in the folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    result = CliRunner().invoke(cli, ["verify", ""])
    assert str(result.exception) == "folder is empty: give a value"


@pytest.mark.parametrize("command", ["modules", "latency"])
def test_looks_at_a_model_are_checked_as_a_search_is(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--bands", "0"])
    assert str(result.exception) == "--bands 0 is too small: give 1 or more"


def test_local_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert with_absolute_paths({"model": "../model", "data": "owner/data", "seed": 1}) == {
        "model": str(tmp_path / "model"),
        "data": "owner/data",
        "seed": 1,
    }
    assert with_absolute_paths({"data": "../model"}) == {"data": str(tmp_path / "model")}
    assert with_absolute_paths({"adapters": "new/x"}) == {"adapters": str(Path.cwd() / "new" / "x")}
    assert with_absolute_paths({"adapters": "~/x"}) == {"adapters": str(Path.home() / "x")}, "as of --adapters=~/x"
    assert with_absolute_paths({"adapters": "s3://bucket/x"}) == {"adapters": "s3://bucket/x"}
    assert with_absolute_paths({"model": "~nobody-of-this-name/x"}) == {"model": "~nobody-of-this-name/x"}


def test_values_are_taken_as_programs_have_them() -> None:
    counted = SearchSpec(seed=np.int64(3), ranks=np.array([8, 4]).tolist(), learning_rate=np.float32(0.5))  # type: ignore[arg-type]
    assert json.loads(json.dumps(counted.to_json())) == SearchSpec(seed=3, ranks=(4, 8), learning_rate=0.5).to_json()
    spec = SearchSpec(model=Path("llama"), data=Path("rows.csv"), ranks=[16, 8, 8], alpha=16, max_hours=2)  # type: ignore[arg-type]
    assert spec == SearchSpec(model="llama", data="rows.csv", ranks=(8, 16), alpha="16", max_hours=2.0)
    assert hash(spec) == hash(SearchSpec(model="llama", data="rows.csv", ranks=(8, 16), alpha="16", max_hours=2.0))

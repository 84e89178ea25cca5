"""The schema that editors read says of a file of settings what the command says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from objectives.errors import RequestError
from search.cli import cli
from search.options import asked_for
from search.spec import SearchSpec
from tests.test_docs import ROOT, blocks

VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 2, 7, 8, 2**32 - 1, 2**32, -0.5, 0.5, 1.5, 1e-5),
    *("", " ", "x", "auto", "grid", "classification", "transformers", "rouge_l", "settled", "../x", "a b"),
    *("4,8", "0,4", "4, 08 ", "4,,8", "2r", "0r", 999_999, 1_000_000, [], [8, 4], [0], [8, "x"], {"a": 1}),
    *("x,y", "x,,y", "x+ y", "+", "x,", ["x,y"], ["x+"]),
    *(["x"], ["x", "./y z"], ["x", " "], ["x", None], ["x", ["y"]]),
]


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    printed = CliRunner().invoke(cli, ["schema"], catch_exceptions=False).stdout
    document = json.loads(printed)
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def refused(settings: dict[str, Any], folder: Path) -> bool:
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump(settings))
    try:
        asked_for(str(file), (), {})
    except RequestError:
        return True
    return False


@pytest.mark.parametrize("name", [field.name for field in fields(SearchSpec)])
def test_schema_and_command_agree_on_every_setting(schema: Draft202012Validator, name: str, tmp_path: Path) -> None:
    for value in VALUES:
        for key in {name, name.replace("_", "-")}:
            assert schema.is_valid({key: value}) is not refused({key: value}, tmp_path), (key, value)


def test_several_data_sets_of_a_file_are_those_of_several_flags(schema: Draft202012Validator, tmp_path: Path) -> None:
    file, written = tmp_path / "search.yaml", {"data": ["./a", "owner/b"], "steps": 7}
    file.write_text(yaml.safe_dump(written))
    assert schema.is_valid(written) and not schema.is_valid({"data": ["./a", "./a"]})
    assert asked_for(str(file), (), {}) == asked_for(None, ("./a", "owner/b"), {"steps": 7})
    assert asked_for(str(file), ("./c",), {"steps": 8}) == [SearchSpec(data="./c", steps=8)], "flags replace the list"
    file.write_text("data: [./a]")
    assert asked_for(str(file), (), {}) == [SearchSpec(data="./a")]


@pytest.mark.parametrize("value", ["[]", "[./a, 8]", "[./a, null]", "5", "{a: b}"])
def test_data_that_is_no_text_is_told_what_it_may_be(value: str, tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(f"data: {value}\n")
    with pytest.raises(RequestError) as refusal:
        asked_for(str(file), (), {})
    kind = "text (in quotes where YAML reads something else), or a list of texts"
    assert str(refusal.value) == f"--config {file}: data is {yaml.safe_load(value)!r}: give {kind}"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("max-hours: 1:30", "max_hours is 1:30, which YAML reads as 90: {decimal}"),
        ("checkpoint_seconds: 1:30.5", "checkpoint_seconds is 1:30.5, which YAML reads as 90.5: {decimal}"),
        ("budget: 010", "budget is 010, which YAML reads as 8: {decimal}"),
        ("name: 2026-11-30", "name is 2026-11-30: give {text}"),
        ("model: no", "model is no: give {text}"),
        ("budget: '3'", "budget is '3': give a whole number"),
        ("ranks: [4, 010]", "ranks is 010, which YAML reads as 8: {decimal}"),
        ("<<: {budget: 010}", "budget is 010, which YAML reads as 8: {decimal}"),
        ("--budget: 3", "unknown setting '--budget'; known are {known}"),
    ],
)
def test_what_yaml_reads_otherwise_than_people_is_refused_as_it_was_written(
    setting: str, sentence: str, tmp_path: Path
) -> None:
    """An hour and a half is 90 hours to YAML 1.1."""
    file = tmp_path / "search.yaml"
    file.write_text(f"{setting}\n")
    with pytest.raises(RequestError) as refusal:
        asked_for(str(file), (), {})
    words = {
        "decimal": "write a decimal number, without colons or leading zeros",
        "text": "text (in quotes where YAML reads something else)",
        "known": ", ".join(sorted(field.name for field in fields(SearchSpec))),
    }
    assert str(refusal.value) == f"--config {file}: {sentence.format(**words)}"


@pytest.mark.parametrize("number", ["0", "-0", "0.5", "+2", "1e-3", "1_0", "0x10", "'0.5'"])
def test_decimal_numbers_of_a_file_are_what_they_say(number: str, tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(f"label-weight: {number}\n")
    (spec,) = asked_for(str(file), (), {})
    assert spec.label_weight == (16 if number == "0x10" else float(number.strip("'")))


@pytest.mark.parametrize("content", ["", "- budget", "budget"])
def test_what_holds_no_settings_is_refused_in_one_sentence(content: str, tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(content)
    with pytest.raises(RequestError) as refusal:
        asked_for(str(file), (), {})
    assert str(refusal.value) == f"--config {file} must hold settings, one 'name: value' a line"


@pytest.mark.parametrize("command", ["run", "ablate"])
def test_a_command_takes_several_data_sets_of_a_file(command: str, tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("data:\n- owner/a\n- owner/b\n- owner/a\n")
    with pytest.raises(RequestError) as refusal:
        cli.main([command, "--config", str(file), "--home", str(tmp_path / "home")], standalone_mode=False)
    assert str(refusal.value) == "data set owner/a is given twice: give each data set once"


def test_a_schedule_takes_one_data_set_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text("data: [owner/a, owner/b, owner/c]\n")
    night = ["schedule", "add", "x", "--cron", "0 2 * * *", "--home", str(tmp_path), "--", "--config", str(file)]
    with pytest.raises(RequestError) as refusal:
        cli.main(night, standalone_mode=False)
    assert str(refusal.value) == "3 data sets are given: add a schedule for each"


@pytest.mark.parametrize("in_file", [False, True])
def test_a_schedule_takes_no_training_seed(in_file: bool, tmp_path: Path) -> None:
    """Each night trains the champion again, under a seed that no night before had."""
    file = tmp_path / "search.yaml"
    file.write_text("training_seed: 0\n")
    flags = ["--config", str(file)] if in_file else ["--training-seed", "0"]
    night = ["schedule", "add", "x", "--cron", "0 2 * * *", "--home", str(tmp_path), "--", *flags]
    with pytest.raises(RequestError) as refusal:
        cli.main(night, standalone_mode=False)
    assert str(refusal.value) == (
        "--training-seed 0 would be that of every night, and each is to train under a new one: leave it out"
    )


def test_both_want_an_endpoint_for_a_server_alone(schema: Draft202012Validator, tmp_path: Path) -> None:
    address = {"endpoint": "http://127.0.0.1:8000"}
    for settings, fine in (
        ({"engine": "openai"} | address, True),
        ({"engine": "openai"}, False),
        ({"engine": "transformers"} | address, False),
        (address, False),
    ):
        assert schema.is_valid(settings) is fine
        assert refused(settings, tmp_path) is not fine


def test_an_unknown_key_is_refused_by_both(schema: Draft202012Validator, tmp_path: Path) -> None:
    (error,) = schema.iter_errors({"bugdet": 4})
    assert "'bugdet'" in error.message
    file = tmp_path / "search.yaml"
    file.write_text("bugdet: 4\n")
    with pytest.raises(RequestError, match="unknown setting 'bugdet'; known are accumulate, "):
        cli.main(["run", "--config", str(file)], standalone_mode=False)


def test_the_example_of_the_page_is_fine(schema: Draft202012Validator, tmp_path: Path) -> None:
    (example,) = blocks(ROOT / "docs" / "configuration.md", "yaml")
    settings = yaml.safe_load(example)
    assert schema.is_valid(settings)
    assert not refused(settings, tmp_path)


def test_every_setting_has_its_meaning(schema: Draft202012Validator) -> None:
    assert all(setting["description"] for setting in schema.schema["properties"].values())


@pytest.mark.parametrize(
    ("typed", "proposed"), [("re", ["report", "resume", "recipe", "remove"]), ("run --ta", ["--task"])]
)
def test_bash_completes(typed: str, proposed: list[str], tmp_path: Path) -> None:
    scripts = Path(sys.executable).parent
    if not (scripts / "target-search").exists():
        pytest.skip("the package is not installed, so there is no target-search")
    (line,) = (block for block in blocks(ROOT / "docs" / "configuration.md", "sh") if block.startswith("eval"))
    words = ["target-search", *typed.split()]
    program = (
        f"{line}COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _target_search_completion target-search"
    )
    done = subprocess.run(
        ["bash", "-c", f'{program}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    )
    assert sorted(done.stdout.split()) == sorted(proposed), done.stderr

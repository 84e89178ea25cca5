"""What a program is asked that cannot be: a sentence and exit code 2, before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import (
    alpha,
    architectures,
    architectures_live,
    budgeted,
    durability,
    labels,
    latency_checks,
    reachable,
    record_table,
    vllm_answers,
)
from benchmarks.arguments import absolute
from benchmarks.databases import database

REFUSED: list[tuple[Callable[[list[str]], object], list[str], str]] = [
    (architectures.main, ["--chek"], "unrecognized arguments: --chek"),
    (architectures.main, ["lama"], "transformers has no model type lama that is adapted here"),
    (architectures.main, ["--check", "llama"], "--check is of the whole page: leave out the types"),
    (architectures_live.main, ["lama", "bert"], "transformers has no model type lama that is adapted here"),
    (budgeted.main, ["missing.parquet", "--strategies", "tpe,foo"], "foo is unknown: choose from auto, additive, tpe"),
    (budgeted.main, ["missing.parquet"], "missing.parquet is no table of recorded trials"),
    (budgeted.main, ["missing.parquet", "--runs", "0"], "'0' is no whole number of 1 or more"),
    (latency_checks.main, ["rank"], "rank needs MODEL"),
    (latency_checks.main, ["cost", "owner/model"], "cost needs MODEL and DATA"),
    (reachable.main, ["missing.parquet"], "missing.parquet is no table of recorded trials"),
    (alpha.main, ["--alphas", "2r,x"], "'x' is no alpha: write it like 16, or 2r for twice the rank"),
    (alpha.main, ["--seeds", "one"], "'one' is not whole numbers with commas between"),
    (labels.main, ["--weights", "0,much"], "'0,much' is not numbers with commas between"),
    (labels.main, ["--seeds", "0,"], "'0,' is not whole numbers with commas between"),
    (record_table.main, ["--out", "t.parquet", "--seeds", "0;1"], "'0;1' is not whole numbers with commas between"),
    (durability.main, ["--trials", "0"], "'0' is no whole number of 1 or more"),
    (vllm_answers.main, ["adapter"], "the following arguments are required: ENDPOINT"),
    (vllm_answers.main, ["adapter", "here"], "--endpoint here is no address of a server: give one like http://127."),
    (durability.main, ["--backends", "sqlite,oracle"], "oracle is unknown: choose from sqlite, postgresql"),
]


@pytest.mark.parametrize(("main", "arguments", "sentence"), REFUSED)
def test_a_wrong_request_is_a_sentence(
    main: Callable[[list[str]], object],
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "critical")  # which some of them set
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_an_unknown_database_is_refused() -> None:
    with pytest.raises(ValueError, match="'oracle' is no database to measure on: choose from sqlite, postgresql"):
        database("oracle").__enter__()


def test_a_folder_becomes_absolute_and_a_hub_id_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert absolute("model") == str(tmp_path / "model")
    assert absolute("owner/model") == "owner/model"

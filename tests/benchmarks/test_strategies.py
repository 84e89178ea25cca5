"""The program: a row for each strategy, in the section of a README that is its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import BEGIN, END, markdown, write_section
from benchmarks.runs import references
from benchmarks.scoring import Score
from benchmarks.strategies import README, main
from objectives.tabular import Table
from tests.benchmarks.made import write_table

ROOT = Path(__file__).resolve().parents[2]


def score(**changes: object) -> Score:
    known = {"curve": ((400, 0.5), (900, 0.97)), "steps_to_95": 900, "steps_to_99": None, "early_share": 0.97}
    known |= {"early_members": 0.5, "members": 0.75, "regret": 0.012, "extra_ratio": 0.2, "within": True}
    return Score(**{**known, **changes})  # type: ignore[arg-type]  # the values are those of a score


def test_a_row_has_medians_with_quartiles_and_says_what_was_never_reached(table: Table) -> None:
    found = [score(), score(steps_to_95=1100), score(steps_to_95=None, within=False, regret=0.02), score()]
    text = markdown({"made": table}, {("made", "tpe"): found, ("other", "tpe"): []}, runs=4, budget=60, workers=1)
    *_, row = text.splitlines()
    assert row == ("| tpe | 900 (900 to 1,100) | > 12,000 | 0.970 | 50% | 75% | 0.012 | 0.20 | 3 of 4 |")
    assert "127 placements, 2 recorded seeds, 200 steps a training" in text
    assert "4 runs of 12,000 steps, one worker" in text


def test_what_is_rounded_to_nothing_has_no_sign(table: Table) -> None:
    found = [score(regret=-0.0004, extra_ratio=-0.001), score(regret=0.0004, extra_ratio=-0.001)]
    text = markdown({"made": table}, {("made", "tpe"): found}, runs=2, budget=60, workers=1)
    assert text.endswith("| 0.000 | 0.00 | 2 of 2 |")


def test_only_its_section_of_a_readme_is_written(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_section(readme, "new", tmp_path / "figures" / "curves.svg")
    shown = "![share of the hypervolume by training steps](figures/curves.svg)"
    assert readme.read_text() == f"before\n{BEGIN}\nnew\n\n{shown}\n{END}\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="has no section between"):
        write_section(readme, "new", None)
    assert readme.read_text() == "no marks"


def test_the_readme_has_the_section() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1


def test_the_program_prints_a_row_for_each_strategy_and_draws_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    file = write_table(tmp_path / "made.parquet", seeds=1)
    command = [sys.executable, "-m", "benchmarks.strategies", str(file), "--runs", "2", "--budget", "8"]
    command += ["--strategies", "random,ray-optuna", "--plot", "curves.svg"]
    there = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split(" | ")[0] for line in done.stdout.splitlines()[-2:]] == ["| random", "| ray-optuna"]
    assert "4/4 made" in done.stderr
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


def test_what_is_kept_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_table(tmp_path / "made.parquet", seeds=1)
    options = [str(file), "--runs", "2", "--budget", "8", "--strategies", "random", "--keep", "kept.jsonl"]
    main(options)
    first = capsys.readouterr()
    main(options)
    again = capsys.readouterr()
    assert first.out == again.out
    assert "2/2 made" in first.err
    assert "made" not in again.err
    assert len((tmp_path / "kept.jsonl").read_text().splitlines()) == 2


def test_an_unknown_strategy_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        main(["made.parquet", "--strategies", "tpe,none"])
    assert refusal.value.code == 2
    assert "no strategy none: choose from random, tpe, nsga2, gp, additive" in capsys.readouterr().err


def test_references_are_those_that_the_model_has(table: Table) -> None:
    assert len(references(table)) == 6
    assert references(table)[0].label == "o_proj r8"

"""What stands in the section of the README is not lost by a run of less."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import strategies
from benchmarks.report import BEGIN, END, left_out, markdown
from benchmarks.strategies import README
from objectives.tabular import Table
from tests.benchmarks.made import write_table
from tests.benchmarks.test_strategies import score


def test_tables_and_strategies_that_would_be_lost_are_named(table: Table, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    scores = {("made", name): [score()] for name in ("random", "ray-optuna")}
    text = markdown({"made": table}, scores, runs=1, budget=60, workers=1)
    readme.write_text(f"| before | 1 of 1 |\n{BEGIN}\n{text}\n{END}\n**after**: 3\n")
    assert left_out(readme, ["made", "new"], ["ray-optuna", "random", "tpe"]) == []
    assert left_out(readme, ["new"], ["random"]) == ["made", "ray-optuna"]


def test_the_command_in_the_readme_gives_its_section() -> None:
    text = README.read_text(encoding="utf-8")
    (line,) = [line for line in text.replace("\\\n", " ").splitlines() if "benchmarks.strategies " in line]
    words = line.split()
    tables = [file.stem for file in README.parent.glob("tables/*.parquet")]
    assert words[3] == "benchmarks/tables/*.parquet"
    assert left_out(README, tables, words[words.index("--strategies") + 1].split(",")) == []


def test_a_table_that_was_recorded_anew_is_run_anew(tmp_path: Path) -> None:
    file = write_table(tmp_path / "made.parquet", groups=("o_proj", "q_proj"))
    before = strategies._digest(file)
    kept = tmp_path / "kept.jsonl"
    kept.write_text(json.dumps([[before, "random", 0, 60, 1], strategies.asdict(score())]) + "\n")
    assert list(strategies._kept(kept)) == [(before, "random", 0, 60, 1)]
    write_table(file, groups=("o_proj", "q_proj"), noise=0.02)
    assert strategies._digest(file) != before

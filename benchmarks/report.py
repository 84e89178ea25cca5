"""What strategies gave, as Markdown, and where it stands in a README."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from benchmarks.scoring import EARLY, Score, Yardstick, quartiles
from objectives.tabular import Table

BEGIN, END = "<!-- strategies, written by benchmarks/strategies.py -->", "<!-- end of strategies -->"

_COLUMNS = (
    "strategy",
    "steps to 95%",
    "steps to 99%",
    f"hypervolume at {EARLY}",
    f"members at {EARLY}",
    "members at the end",
    "regret",
    "extra latency",
    "within one error",
)


def markdown(
    tables: Mapping[str, Table],
    scores: Mapping[tuple[str, str], Sequence[Score]],
    *,
    runs: int,
    budget: int,
    workers: int,
) -> str:
    """A table for each of ``tables`` (by name), a row for each strategy of ``scores``: (table, strategy) -> runs."""
    parts = []
    for name, table in tables.items():
        yardstick = Yardstick.of(table)
        limit = budget * table.steps
        about = (
            f"**{name}**: {len(table.placements)} placements{_diverged(table)}, {len(table.seeds)} recorded seeds, "
            f"{table.steps:,} steps a training, {len(yardstick.front)} true front members; best to recommend: "
            f"{yardstick.best.label}, within {yardstick.standard_error(yardstick.best):.3f}. {runs} runs of {limit:,} "
            f"steps, {_count(workers)}."
        )
        lines = [f"| {' | '.join(_COLUMNS)} |", "|" + " --- |" * len(_COLUMNS)]
        lines += [_row(strategy, found, limit) for (of, strategy), found in scores.items() if of == name]
        parts.append(about + "\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _count(workers: int) -> str:
    return "one worker" if workers == 1 else f"{workers} workers"


def _diverged(table: Table) -> str:
    count = len({(*trial["groups"], trial["rank"]) for trial in table.about.get("diverged", ())})
    return f" ({count} left out, of which a training diverged)" if count else ""


def _row(strategy: str, found: Sequence[Score], limit: int) -> str:
    def steps(values: Sequence[int | None]) -> str:
        return _spread([math.inf if value is None else value for value in values], "{:,.0f}", f"> {limit:,}")

    cells = [
        strategy,
        steps([score.steps_to_95 for score in found]),
        steps([score.steps_to_99 for score in found]),
        _spread([score.early_share for score in found], "{:.3f}"),
        _spread([score.early_members for score in found], "{:.0%}"),
        _spread([score.members for score in found], "{:.0%}"),
        _spread([score.regret for score in found], "{:z.3f}"),
        _spread([score.extra_ratio for score in found], "{:z.2f}"),
        f"{sum(score.within for score in found)} of {len(found)}",
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], form: str, never: str = "") -> str:
    low, middle, high = (never if math.isinf(value) else form.format(value) for value in quartiles(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def left_out(readme: Path, tables: Collection[str], strategies: Collection[str]) -> list[str]:
    """Tables and strategies of the section as it is, of which a run of these would leave no rows."""
    section = readme.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    named = dict.fromkeys(re.findall(r"^\*\*(\S+)\*\*: ", section, re.MULTILINE))
    rows = dict.fromkeys(re.findall(r"^\| ([\w-]+) \| .* of \d+ \|$", section, re.MULTILINE))
    return [name for name in named if name not in tables] + [name for name in rows if name not in strategies]


def write_section(readme: Path, text: str, figure: Path | None) -> None:
    """Replace what stands between the section's two marks, and nothing else. Raises ValueError if they are missing."""
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has no section between {BEGIN} and {END}: add the two lines")
    if figure:
        link = Path(os.path.relpath(figure.resolve(), readme.parent.resolve())).as_posix()
        text += f"\n\n![share of the hypervolume by training steps]({link})"
    whole = readme.with_name(readme.name + ".tmp")
    whole.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
    whole.replace(readme)

"""Rich, set up once: names shown as they are, tables that fit a terminal, nothing cut in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from dashboards.format import wrapped

#: A pipe or a file has no width of its own.
PIPE_WIDTH = 140
#: Leaves room for six figures on 80 columns.
NAME_WIDTH = 16


def open_console(stream: TextIO) -> Console:
    """Neither markup nor emoji codes are read in what is printed. Rich itself honours NO_COLOR."""
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=None if terminal else False,
        force_jupyter=False,
        width=None if terminal else PIPE_WIDTH,
        markup=False,
        emoji=False,
        highlight=False,
    )


def show(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], left: int, styles: Sequence[str] = ()
) -> None:
    """Print a table in the layout that fits; what is still too wide is folded in a terminal, and kept in a pipe."""
    wide = layout(header, rows, left, styles)
    natural = Measurement.get(console, console.options.update_width(10_000), wide).maximum
    if console.is_terminal and natural > console.width:
        console.print(layout(header, rows, left, styles, narrow=True))
    else:
        console.width = max(console.width, natural)
        console.print(wide)


def layout(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: int,
    styles: Sequence[str] = (),
    *,
    narrow: bool = False,
) -> Table:
    """A table whose first `left` columns hold text and the others figures; a column without a name holds remarks.

    Narrow: titles are broken at spaces and placements after plus signs; intervals stand under their figures, remarks
    under the last column of text.
    """
    if narrow:
        rows = [_narrow(row, left, remarks=not header[-1]) for row in rows]
        header = [name.replace(" ", "\n") for name in header if name]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0 if narrow else 1))
    for position, name in enumerate(header):
        justify: Literal["left", "right"] = "left" if position < left or not name else "right"
        table.add_column(name, justify=justify, overflow="fold")
    for position, row in enumerate(rows):
        table.add_row(*row, style=styles[position] if styles else None)
    return table


def say(console: Console, text: str, style: str | None = None) -> None:
    """One paragraph, broken between words in a terminal; one line in a pipe."""
    if text:
        console.print(text, style=style, soft_wrap=not console.is_terminal)


def _narrow(row: Sequence[str], left: int, *, remarks: bool) -> list[str]:
    names, figures = row[:left], row[left : len(row) - remarks]
    cells = ["\n".join(wrapped(name, NAME_WIDTH)) for name in names]
    cells += [figure.replace(" [", "\n[") for figure in figures]
    if remarks and row[-1]:
        cells[left - 1] += "\n" + row[-1].replace(", ", "\n")
    return cells

"""A front as a few lines of text: accuracy against the latency ratio, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

#: Narrower terminals show the table alone.
PLOTTED_FROM = 80
#: The legend of a search that runs needs 28 columns.
NARROWEST = 30
WIDEST = 64
#: Header, axis, ticks and legend.
BESIDE_ROWS = 4
#: An axis spans at least this: smaller differences are noise, and would look like a trade.
_SPAN = 0.02


@dataclass(frozen=True)
class Layer:
    """Points (accuracy, latency ratio), all finite, that are marked alike; ``ascii`` is for terminals without UTF-8.

    The style holds no colour that a light or a dark terminal could swallow, and marks differ without colours.
    """

    name: str
    mark: str
    ascii: str
    style: str
    points: Sequence[tuple[float, float]]


def front_layers(
    dominated: Sequence[tuple[float, float]],
    base: float | None,
    front: Sequence[tuple[float, float]],
    recommended: Sequence[tuple[float, float]] = (),
) -> list[Layer]:
    """What is drawn of a search, the last on top; ``base`` is the base model's accuracy."""
    return [
        Layer("dominated", "·", ".", "dim", dominated),
        Layer("base", "◆", "B", "cyan", [] if base is None else [(base, 1.0)]),
        Layer("front", "●", "o", "green", front),
        Layer("recommended", "★", "R", "bold green", recommended),
    ]


@dataclass(frozen=True)
class Plot:
    """Takes the width that it is given up to WIDEST, and ``rows`` + BESIDE_ROWS lines; nothing without a point."""

    layers: Sequence[Layer]
    title: str
    rows: int = 10

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = self.lines(min(WIDEST, options.max_width), ascii_only=options.ascii_only)
        yield Text("\n").join(lines)

    def lines(self, width: int, *, ascii_only: bool = False) -> list[Text]:
        """None of more than ``width`` characters."""
        layers = [layer for layer in self.layers if layer.points]
        if not layers:
            return []
        accuracy = _Axis.of([point[0] for layer in layers for point in layer.points], self.rows)
        margin = max(map(len, accuracy.ticks.values())) + 2
        columns = max(1, width - margin)
        ratio = _Axis.of([point[1] for layer in layers for point in layer.points], columns)
        glyphs = {layer.name: Text(layer.ascii if ascii_only else layer.mark, layer.style) for layer in layers}
        marks: dict[tuple[int, int], Text] = {}
        for layer in layers:
            marks |= {(accuracy.cell(up), ratio.cell(right)): glyphs[layer.name] for up, right in layer.points}
        side, corner, bottom = "|+-" if ascii_only else "│└─"
        lines = [Text(self.title)]
        for row in reversed(range(self.rows)):
            cells = Text().join(marks.get((row, column), Text(" ")) for column in range(columns))
            lines.append(Text(f"{accuracy.ticks.get(row, ''):>{margin - 2}} {side}") + cells)
        lines.append(Text(" " * (margin - 1) + corner + bottom * columns))
        lines.append(Text(" " * margin + _ruler(ratio.ticks, columns)))
        lines.append(Text("  ").join(glyph + f" {name}" for name, glyph in glyphs.items()))
        for line in lines:
            line.rstrip()
            line.truncate(width)
        return lines


@dataclass(frozen=True)
class _Axis:
    """From its lowest value in cell 0 to its highest in the last cell."""

    low: float
    high: float
    cells: int

    @classmethod
    def of(cls, values: Sequence[float], cells: int) -> _Axis:
        low, high = min(values), max(values)
        wider = max(0.0, _SPAN - (high - low)) / 2
        return cls(low - wider, high + wider, cells)

    def cell(self, value: float) -> int:
        # By halves, since the difference of two floats may not be one.
        span = (self.high / 2 - self.low / 2) or 1.0
        return round((value / 2 - self.low / 2) / span * (self.cells - 1))

    @property
    def ticks(self) -> dict[int, str]:
        """Labels of the first, the middle and the last cell."""
        values = (self.low, self.low / 2 + self.high / 2, self.high)
        return {self.cell(value): f"{value:.3f}" if abs(value) < 1e4 else f"{value:.2g}" for value in values}


def _ruler(ticks: dict[int, str], columns: int) -> str:
    """The labels under their cells, the first and the last within the axis; those that would touch another are left
    out."""
    line = " " * columns
    for at, label in ticks.items():
        start = max(0, min(at - len(label) // 2, columns - len(label)))
        if not line[max(0, start - 1) : start + len(label) + 1].strip():
            line = line[:start] + label + line[start + len(label) :]
    return line

"""One run of a strategy on a recorded table: what it leaves, whoever ran it, and the simulated time that it takes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from objectives.errors import RequestError
from objectives.latency.paired import Ratio
from objectives.placement import Placement
from objectives.tabular import Table
from search.recommend import Candidate, recommend
from search.strategy.space import PlacementSpace

#: The reference placements of a block with these seven linear layers, as `modules` names them.
REFERENCES = (
    ("o_proj",),
    ("down_proj", "o_proj"),
    ("q_proj", "v_proj"),
    ("k_proj", "o_proj", "q_proj", "v_proj"),
    ("down_proj", "gate_proj", "up_proj"),
    ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
)

Work = TypeVar("Work")


@dataclass(frozen=True)
class Run:
    """``trained`` has each placement that got all its steps, once, in order, with what the whole strategy had spent.

    Spent are training steps, those of placements that were stopped early included. ``recommended`` is one of the
    trained: what the user of this strategy would have taken. ``spent`` is that of the whole run.
    """

    trained: tuple[tuple[int, Placement], ...]
    recommended: Placement
    spent: int

    @classmethod
    def of(cls, table: Table, recorded: int, trained: Sequence[tuple[int, Placement]], spent: int | None = None) -> Run:
        """Recommends by this program's rule on the validation figures of the seed ``recorded``, for every strategy.

        Raises ValueError if nothing was trained.
        """
        candidates = []
        for number, (_, placement) in enumerate(trained):
            validation = table.outcome(placement, recorded)["measurement"]["validation"]
            accuracy, error, loss = (validation[key] for key in ("accuracy", "standard_error", "loss"))
            ratio = Ratio.exact(table.ratio(placement))
            candidates.append(Candidate(number, placement, accuracy, error, ratio, loss))
        chosen = recommend(candidates, 0.0, "accuracy", "tpot")
        if chosen is None:
            raise ValueError("no placement got all its steps: raise the budget")
        return cls(tuple(trained), trained[chosen.trial][1], trained[-1][0] if spent is None else spent)


def read_tables(files: Iterable[Path]) -> dict[str, Table]:
    """By the names of the files. Raises RequestError for what is no table, and for two of one name."""
    tables: dict[str, Table] = {}
    for file in files:
        if file.stem in tables:
            raise RequestError(f"two tables are called {file.stem}: rename one, since their figures go by name")
        tables[file.stem] = Table(file)
    return tables


def references(table: Table) -> list[Placement]:
    """What every strategy is given to try first, at the middle one of the table's ranks."""
    middle = table.ranks[len(table.ranks) // 2]
    return [placement for groups in REFERENCES if (placement := Placement.of(groups, middle)) in table.placements]


def space_of(table: Table) -> PlacementSpace:
    """What was recorded, which is all but placements of which a training diverged."""
    return PlacementSpace(table.groups, table.ranks, frozenset(table.placements).__contains__)


class Workers(Generic[Work]):
    """Workers side by side in simulated time: each trains one step in one unit of time, whatever it trains."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._ends: list[tuple[int, int, Work, int]] = []
        self._started = 0
        self._clock = 0
        self.spent = 0  # training steps of all workers, those of unfinished work included

    @property
    def running(self) -> int:
        return len(self._ends)

    @property
    def free(self) -> bool:
        return self.running < self._count

    def start(self, work: Work, steps: int, together: int = 1) -> None:
        """``together`` trainings are made in one pass, so many steps of each."""
        heapq.heappush(self._ends, (self._clock + steps, self._started, work, together))
        self._started += 1

    def wait(self) -> Work:
        """The work that ends next; of two that end together, what was started first. Raises IndexError if none runs."""
        end, _, work, _ = self._ends[0]
        self.spent += (end - self._clock) * sum(together for *_, together in self._ends)
        self._clock = end
        heapq.heappop(self._ends)
        return work

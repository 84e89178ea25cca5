"""Who is told how a search goes while it runs; never part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Standing:
    """What a search has by now, of this process and of those before it."""

    base: float | None = None  # the base model's accuracy on validation
    front: Sequence[tuple[str, float, float]] = ()  # label, accuracy, latency ratio
    dominated: Sequence[tuple[float, float]] = ()  # accuracy, latency ratio
    ended: Mapping[str, int] = field(default_factory=dict)  # trials by status
    begun: int = 0  # trials
    stopped: int = 0  # of them on the way, which may go on
    stops_early: bool = False  # whether trials may stop on the way
    steps: int = 0  # of training, spent
    steps_left: int = 0  # at most, if no trial stops for good before its end; 0 when none begins or goes on any more

    @property
    def done(self) -> int:
        """Trials that will not go on."""
        return sum(self.ended.values())


class Watcher(Protocol):
    def stands(self, standing: Standing) -> None:
        """Told first of all, and then before each event on a trial."""

    def trial_started(self, number: int, label: str) -> None:
        """A trial begins, or goes on after it stopped on the way."""

    def trial_stopped(self, number: int, label: str, reason: str) -> None:
        """On the way: it may go on."""

    def trial_finished(
        self, number: int, label: str, status: str, accuracy: float | None, ratio: float | None, reason: str | None
    ) -> None: ...

    def phase(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

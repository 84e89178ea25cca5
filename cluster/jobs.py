"""What goes to a worker and comes back, and who decides what goes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from objectives.placement import Placement


@dataclass(frozen=True)
class Job:
    """One piece of work for one worker.

    ``base`` measures the base model, ``trial`` trains a placement to ``until`` steps and measures it,
    ``test`` reads the test split with a stored adapter (the base model for ``adapter=None``). A ``pack`` is trials that
    are trained in one pass of the base model, all from the same step to the same.
    """

    kind: Literal["base", "trial", "test", "pack"]
    number: int | None = None  # of the trial; None is the base model
    placement: Placement | None = None
    adapter: str | None = None
    profile: Mapping[str, Any] | None = None  # latency known from before
    until: int | None = None  # steps, of which some may have been made before; None is all of them
    trials: tuple[Job, ...] = ()  # of a pack

    @property
    def parts(self) -> tuple[Job, ...]:
        """What comes back one by one: the trials of a pack, or the job itself."""
        return self.trials or (self,)


class Plan(Protocol):
    """Decides what is done next and keeps what comes back. Called from one thread, one call at a time.

    It may give out packs; what comes back is told of each trial by itself, but for a pack that raised.
    """

    def next(self) -> Job | None:
        """The next job; ``None`` while nothing can be given out before a job that runs is back."""

    def done(self) -> bool:
        """Whether no job will ever come again. Asked after ``next`` gave ``None`` and nothing runs."""

    def finished(self, job: Job, outcome: Mapping[str, Any]) -> None:
        """What the worker returned for ``job``, durable when this returns."""

    def failed(self, job: Job, reason: str) -> None:
        """The job of a trial raised, as it would again; or a pack did, by whichever of its trials."""

    def lost(self, job: Job, reason: str) -> None:
        """The worker died, which says nothing of the job yet."""

"""How fast a search goes, and how long what is left will take at that pace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Pace:
    """Work done from one end of a piece to another, the last so far.

    In between nothing is known of what the workers do, so neither pace nor estimate waver there. Times are seconds on
    one clock.
    """

    _since: float = 0.0
    _before: float = 0.0
    _at: float = 0.0
    _done: float = 0.0
    _left: float = 0.0

    def begin(self, now: float, done: float) -> None:
        """The clock counts from here; so much work was done before."""
        self._since, self._before = now, done
        self._at, self._done = now, done

    def mark(self, now: float, done: float, left: float) -> None:
        """So much work is done by now, and so much is left."""
        self._at, self._done, self._left = now, done, left

    @property
    def rate(self) -> float | None:
        """Work a second; None before any was done."""
        if self._done <= self._before or self._at <= self._since:
            return None
        return (self._done - self._before) / (self._at - self._since)

    def left(self, now: float) -> float | None:
        """Seconds; None where that is not known: before work was done, and when it takes longer than it should."""
        if self.rate is None:
            return None
        left = self._left / self.rate - (now - self._at)
        return left if left > 0 else None


def per_time(rate: float, what: str) -> str:
    """Of a rate a second, in a unit of time that makes it at least 1: ``12 trials/min``."""
    unit, times = ("min", 60.0) if rate * 60 >= 1 else ("hour", 3600.0)
    return f"{rate * times:,.{0 if rate * times >= 10 else 1}f} {what}/{unit}"

"""Fire times in named zones."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from objectives.errors import RequestError
from search.cron import due, next_tick


def test_a_night_that_spring_leaves_out_comes_right_after() -> None:
    first = next_tick("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert first == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert next_tick("30 2 * * *", "Europe/Berlin", first) == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)


def test_a_night_that_autumn_repeats_comes_once() -> None:
    first = next_tick("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC))
    ticks = due("30 2 * * *", "Europe/Berlin", first, datetime(2026, 10, 26, 12, tzinfo=UTC))
    assert ticks == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 26, 1, 30, tzinfo=UTC)]


@pytest.mark.parametrize("minute", range(0, 60, 13))
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/20 * * * *", "0 3 * * 0"])
def test_asked_in_the_hour_that_autumn_repeats_the_next_tick_is_later(cron: str, minute: int) -> None:
    """Where a daemon is back from sleep in it; what it answers is what it answered the hour before, but for what is
    over."""
    asked = datetime(2026, 10, 25, 1, minute, tzinfo=UTC)
    first = next_tick(cron, "Europe/Berlin", asked)
    assert first > asked
    ahead = due(cron, "Europe/Berlin", next_tick(cron, "Europe/Berlin", datetime(2026, 10, 24, tzinfo=UTC)), first)
    assert (ahead[-1], [tick for tick in ahead if tick > asked]) == (first, [first])


def test_one_is_monday_as_in_cron() -> None:
    assert next_tick("0 2 * * 1", "UTC", datetime(2026, 11, 25, tzinfo=UTC)) == datetime(2026, 11, 30, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "timezone"),
    [("0 25 * * *", "UTC"), ("x", "UTC"), ("0 2 * * * *", "UTC"), ("0 2 31 2 *", "UTC"), ("0 2 * * *", "Mars/Olympus")],
)
def test_what_is_no_schedule_is_refused(cron: str, timezone: str) -> None:
    with pytest.raises(RequestError):
        next_tick(cron, timezone, datetime(2026, 11, 25, tzinfo=UTC))

"""Fire times in named zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

import search.cron
from objectives.errors import RequestError
from search.cron import LONGEST, due, next_tick


def test_a_night_that_spring_leaves_out_comes_right_after() -> None:
    first = next_tick("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert first == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert next_tick("30 2 * * *", "Europe/Berlin", first) == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)


def test_a_night_that_autumn_repeats_comes_once() -> None:
    first = next_tick("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC))
    ticks = due("30 2 * * *", "Europe/Berlin", first, datetime(2026, 10, 26, 12, tzinfo=UTC), 9)
    assert ticks == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 26, 1, 30, tzinfo=UTC)]


@pytest.mark.parametrize("minute", range(0, 60, 13))
@pytest.mark.parametrize("cron", ["30 2 * * *", "*/20 * * * *", "0 3 * * 0"])
def test_asked_in_the_hour_that_autumn_repeats_the_next_tick_is_later(cron: str, minute: int) -> None:
    """Where a daemon is back from sleep in it; what it answers is what it answered the hour before, but for what is
    over."""
    asked = datetime(2026, 10, 25, 1, minute, tzinfo=UTC)
    first = next_tick(cron, "Europe/Berlin", asked)
    assert first > asked
    ahead = due(cron, "Europe/Berlin", next_tick(cron, "Europe/Berlin", datetime(2026, 10, 24, tzinfo=UTC)), first, 200)
    assert (ahead[-1], [tick for tick in ahead if tick > asked]) == (first, [first])


FIRST = datetime(2026, 2, 10, tzinfo=UTC)


@cache
def ticks_of_months(cron: str) -> list[datetime]:
    ticks = [next_tick(cron, "Europe/Berlin", FIRST)]
    while ticks[-1] < FIRST + timedelta(days=120):
        ticks.append(next_tick(cron, "Europe/Berlin", ticks[-1]))
    return ticks


@given(
    cron=st.sampled_from(["*/20 * * * *", "30 2 * * *", "0 3 * * 0", "15 1 1 * *"]),
    minutes=st.integers(0, 60 * 24 * 90),
    most=st.integers(1, 150),
)
def test_the_last_ticks_of_an_outage_are_those_of_all(cron: str, minutes: int, most: int) -> None:
    first = ticks_of_months(cron)[0]
    now = first + timedelta(minutes=minutes)
    all_of_them = [tick for tick in ticks_of_months(cron) if tick <= now]
    assert due(cron, "Europe/Berlin", first, now, most) == all_of_them[-most:]


def test_the_last_ticks_of_years_are_found_from_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[datetime] = []

    def counted(cron: str, timezone: str, after: datetime) -> datetime:
        asked.append(after)
        return next_tick(cron, timezone, after)

    monkeypatch.setattr(search.cron, "next_tick", counted)
    now = FIRST + timedelta(days=1000)
    assert due("* * * * *", "UTC", FIRST, now, 100) == [now - timedelta(minutes=99 - i) for i in range(100)]
    assert len(asked) < 200


def test_one_is_monday_as_in_cron() -> None:
    assert next_tick("0 2 * * 1", "UTC", datetime(2026, 11, 25, tzinfo=UTC)) == datetime(2026, 11, 30, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("0 25 * * *", "Bad hour"),
        (f"{'0,' * 123}00 2 * * *", "it is longer than 255 characters"),
        ("0 2 * *", "it has 4 fields instead of five"),
        ("0 2 * * * *", "it has 6 fields instead of five"),
        ("0 2 31 4,6 *", "Bad day-of-month"),
    ],
)
def test_what_is_no_schedule_is_refused(cron: str, reason: str) -> None:
    with pytest.raises(RequestError) as refused:
        next_tick(cron, "UTC", datetime(2026, 11, 25, tzinfo=UTC))
    assert str(refused.value) == (
        f"--cron {cron!r} is no cron expression ({reason}): give minute, hour, day, month and weekday, such as "
        "'0 2 * * *' for two at night"
    )


def test_what_the_catalog_can_keep_is_taken() -> None:
    longest = f"{'0,' * 123}0 2 * * *"
    assert len(longest) == LONGEST
    assert next_tick(longest, "UTC", datetime(2026, 11, 25, tzinfo=UTC)) == datetime(2026, 11, 25, 2, tzinfo=UTC)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(RequestError) as refused:
        next_tick("0 2 * * *", name, datetime(2026, 11, 25, tzinfo=UTC))
    assert str(refused.value) == (
        f"--timezone {name!r} is no known time zone: name one of the IANA list, such as Europe/Berlin or UTC"
    )

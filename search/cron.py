"""When a schedule is due: cron expressions in a named time zone, with daylight saving as Debian's cron has it."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from objectives.errors import RequestError, counted

#: As the catalog keeps it.
LONGEST = 255


def zone(name: str) -> ZoneInfo:
    """Raises RequestError for an unknown name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise RequestError(
            f"--timezone {name!r} is no known time zone: name one of the IANA list, such as Europe/Berlin or UTC"
        ) from error


def next_tick(cron: str, timezone: str, after: datetime) -> datetime:
    """The first tick later than `after`, in UTC.

    A tick in the hour that spring leaves out comes right after it, and one in the hour that autumn repeats comes once.
    Raises RequestError for what is no cron expression, which one that never comes is not either.
    """
    try:
        if len(cron) > LONGEST:
            raise CronSimError(f"it is longer than {LONGEST} characters")
        if len(cron.split()) != 5:  # the library takes seconds in front
            raise CronSimError(f"it has {counted(len(cron.split()), 'field')} instead of five")
        # From within the hour that autumn repeats, the library begins with a tick that is over.
        ticks = (tick.astimezone(UTC) for tick in CronSim(cron, after.astimezone(zone(timezone))))
        return next(tick for tick in ticks if tick > after)
    except CronSimError as error:
        raise RequestError(
            f"--cron {cron!r} is no cron expression ({error}): give minute, hour, day, month and weekday, "
            "such as '0 2 * * *' for two at night"
        ) from error


def due(cron: str, timezone: str, first: datetime, now: datetime, most: int) -> list[datetime]:
    """The last `most` ticks from `first`, which is one, to `now`, in UTC.

    What it costs does not grow with the time between: it looks back twice as far until that is enough.
    """
    back = timedelta(hours=1)
    while True:
        begin = max(first, now - back)
        tick = first if begin == first else next_tick(cron, timezone, begin)
        ticks: deque[datetime] = deque(maxlen=most)
        while tick <= now:
            ticks.append(tick)
            tick = next_tick(cron, timezone, tick)
        if len(ticks) == most or begin == first:
            return list(ticks)
        back *= 2

"""Claims and heartbeats of nights, on both databases."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from search.catalog.schedules import (
    RECORDED,
    add_schedule,
    adopt,
    all_schedules,
    claim,
    end_night,
    give_back,
    heartbeat,
    nights,
    pause,
    remove_schedule,
)
from search.catalog.store import Catalog
from search.lease import Lease

BEGIN = datetime(2026, 11, 1, 1, 30, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'search.db'}"
    url: str = request.getfixturevalue("postgres")
    return url


def test_a_tick_has_one_owner_and_a_silent_owner_loses_it(url: str, tmp_path: Path) -> None:
    with closing(Catalog(url)) as catalog:
        add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", ["--budget", "3"], str(tmp_path), BEGIN)
        now = BEGIN + timedelta(hours=1)
        with ThreadPoolExecutor(8) as pool:
            claims = list(pool.map(lambda owner: claim(catalog, "s", str(owner), now), range(8)))
        (night,) = [claim for claim in claims if claim is not None]
        assert heartbeat(catalog, night)
        assert adopt(catalog, "heir", 60) is None
        time.sleep(0.1)
        second = adopt(catalog, "second", 0.05)
        assert second is not None
        assert not heartbeat(catalog, night)
        assert not end_night(catalog, night, "complete", now, None, None)
        assert claim(catalog, "s", "third", now + timedelta(days=1)) is None
        give_back(catalog, second)
        with ThreadPoolExecutor(8) as pool:
            heirs = list(pool.map(lambda heir: adopt(catalog, f"heir {heir}", 60), range(8)))
        (heir,) = [each for each in heirs if each is not None]
        assert heir.attempts == 3
        assert end_night(catalog, heir, "complete", now, 1.5, 12)
        skipped, ended = nights(catalog, "s")
        assert (skipped.result, ended.result, ended.steps) == ("skipped: overrun", "complete", 12)
        add_schedule(catalog, "t", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
        kept = claim(catalog, "t", "me", now)
        remove_schedule(catalog, "s")
        assert [schedule.name for schedule in all_schedules(catalog)] == ["t"]
        assert nights(catalog, "t") == [kept], "with its history"


def test_a_clock_that_is_behind_brings_no_tick_again(url: str, tmp_path: Path) -> None:
    """Of the machine where a schedule is paused and unpaused, a moment after its night began on another one."""
    tick = BEGIN + timedelta(minutes=30)
    with closing(Catalog(url)) as catalog:
        add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
        assert claim(catalog, "s", "me", tick) is not None
        for paused in (True, False):
            pause(catalog, "s", paused, tick - timedelta(seconds=2))
        assert claim(catalog, "s", "me", tick + timedelta(seconds=1)) is None
        pause(catalog, "s", True, tick)
        assert claim(catalog, "s", "me", tick + timedelta(days=1)) is None, "of a daemon that read it before"
        assert len(nights(catalog, "s")) == 1, "while it is paused its nights do not count"
        pause(catalog, "s", False, tick + timedelta(days=1, minutes=1))
        assert claim(catalog, "s", "me", tick + timedelta(days=1, minutes=2)) is None, "it was due while it was paused"
        (schedule,) = all_schedules(catalog)
        assert schedule.next_at == tick + timedelta(days=2)


def test_a_night_whose_search_is_being_run_is_nobody_elses(url: str, tmp_path: Path) -> None:
    """Its daemon was only stopped for a while, or a person has resumed it: a second `resume` would be refused."""
    now = BEGIN + timedelta(hours=1)
    with closing(Catalog(url)) as catalog, closing(Catalog(url)) as person:
        add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
        night = claim(catalog, "s", "me", now)
        assert night is not None
        search = catalog.create_search(night.search, {}, {})
        with Lease(person, search.id, search.name):
            time.sleep(0.1)
            assert adopt(catalog, "heir", 0.05) is None
            assert heartbeat(catalog, night)
            give_back(catalog, night)
            assert adopt(catalog, "heir", 60) is None
        assert adopt(catalog, "heir", 60) is not None


def test_an_outage_of_years_is_recorded_in_short(url: str, tmp_path: Path) -> None:
    with closing(Catalog(url)) as catalog:
        add_schedule(catalog, "s", "* * * * *", "UTC", "once", [], str(tmp_path), BEGIN)
        now = BEGIN + timedelta(days=1000)
        night = claim(catalog, "s", "me", now)
        assert night is not None
        assert night.tick == now
        _, *skipped = nights(catalog, "s")
        assert [each.tick for each in skipped] == [now - timedelta(minutes=i + 1) for i in range(RECORDED)]
        assert {each.result for each in skipped[:-1]} == {"skipped: missed"}
        assert skipped[-1].result == "skipped: missed, as all since 2026-11-01 01:31 UTC"
        assert nights(catalog, "s", 2) == [night, skipped[0]]


def test_a_schedule_that_is_added_again_finds_a_free_name_for_its_night(url: str, tmp_path: Path) -> None:
    """Searches stay when their schedule goes, and a day has one name."""
    with closing(Catalog(url)) as catalog:
        for name in ("s-2026-11-01", "s-2026-11-01-2"):
            add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
            night = claim(catalog, "s", "me", BEGIN + timedelta(hours=1))
            assert night is not None
            assert night.search == name
            catalog.create_search(name, {}, {})
            remove_schedule(catalog, "s")


@pytest.mark.parametrize(
    ("cron", "name"),
    [("30 0 * * *", "s-2026-11-01"), ("0 */12 * * *", "s-2026-11-01-1100")],
)
def test_names_are_by_the_day_there(url: str, tmp_path: Path, cron: str, name: str) -> None:
    with closing(Catalog(url)) as catalog:
        add_schedule(catalog, "s", cron, "Europe/Berlin", "once", [], str(tmp_path), BEGIN - timedelta(hours=3))
        now = BEGIN + timedelta(hours=11)
        night = claim(catalog, "s", "me", now)
        assert night is not None
        assert night.search == name


@pytest.mark.parametrize(("late", "begun"), [(timedelta(minutes=5), True), (timedelta(minutes=5, seconds=1), False)])
def test_a_night_that_is_not_made_up_for_may_begin_five_minutes_late(
    tmp_path: Path, late: timedelta, begun: bool
) -> None:
    with closing(Catalog(f"sqlite:///{tmp_path / 'search.db'}")) as catalog:
        add_schedule(catalog, "s", "0 2 * * *", "UTC", "skip", [], str(tmp_path), BEGIN)
        night = claim(catalog, "s", "me", BEGIN + timedelta(minutes=30) + late)
        assert (night is not None) == begun
        assert [each.result for each in nights(catalog, "s")] == [None if begun else "skipped: missed"]


def test_no_night_begins_while_one_waits_for_a_daemon_to_go_on_with_it(tmp_path: Path) -> None:
    with closing(Catalog(f"sqlite:///{tmp_path / 'search.db'}")) as catalog:
        add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
        night = claim(catalog, "s", "me", BEGIN + timedelta(hours=1))
        assert night is not None
        give_back(catalog, night)
        assert claim(catalog, "s", "other", BEGIN + timedelta(days=1, hours=1)) is None
        assert [each.result for each in nights(catalog, "s")] == ["skipped: overrun", None]

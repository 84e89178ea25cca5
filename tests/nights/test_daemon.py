"""Two daemons, killed and started again: every tick is run, none twice, and history says what happened."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from search.catalog.models import Schedule
from search.catalog.schedules import add_schedule, adopt, all_schedules, claim, nights, remove_schedule
from search.catalog.store import Catalog
from search.lease import Lease
from search.notify import notify
from search.schedule import Daemon
from tests.waiting import wait_for

BEGIN = datetime(2026, 11, 1, 1, 30, tzinfo=UTC)
TICKS = 50


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with closing(Catalog(f"sqlite:///{tmp_path / 'search.db'}")) as opened:
        yield opened


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[float], subprocess.Popen[bytes]]]:
    started = []

    def start(seconds: float) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.nights.daemon", str(tmp_path), str(seconds)]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def set_clock(home: Path, moment: datetime) -> None:
    (home / "clock.new").write_text(moment.isoformat())
    (home / "clock.new").replace(home / "clock")


@pytest.mark.slow
def test_fifty_ticks_under_two_daemons_that_are_killed(
    tmp_path: Path, catalog: Catalog, start: Callable[[float], subprocess.Popen[bytes]]
) -> None:
    set_clock(tmp_path, BEGIN)
    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
    daemons = [start(0.05), start(0.05)]
    for tick in range(TICKS):
        set_clock(tmp_path, BEGIN + timedelta(days=tick, minutes=30))
        if tick % 10 == 4:
            victim = (tick // 10) % 2
            wait_for(lambda: len(nights(catalog, "s")) > tick)  # noqa: B023
            daemons[victim].kill()
            daemons[victim].wait()
            daemons[victim] = start(0.05)
        wait_for(lambda: [n.status for n in nights(catalog, "s")].count("ended") == tick + 1)  # noqa: B023
    found = nights(catalog, "s")
    assert [night.result for night in found] == ["complete"] * TICKS
    assert {night.tick for night in found} == {BEGIN + timedelta(days=d, minutes=30) for d in range(TICKS)}
    assert len(list(tmp_path.glob("*.done"))) == TICKS
    for daemon in daemons:
        wait_for((tmp_path / f"{daemon.pid}.up").exists)  # one was started a moment ago
        daemon.terminate()
        assert daemon.wait(20) == 0


def test_a_killed_daemons_night_is_gone_on_with_and_an_overrun_is_not_started(
    tmp_path: Path, catalog: Catalog, start: Callable[[float], subprocess.Popen[bytes]], server: tuple[str, list[str]]
) -> None:
    set_clock(tmp_path, BEGIN)
    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN, server[0])
    first = start(60)
    set_clock(tmp_path, BEGIN + timedelta(minutes=30))
    wait_for(lambda: bool(list(tmp_path.glob("*.begun"))))
    set_clock(tmp_path, BEGIN + timedelta(days=1, minutes=30))
    wait_for(lambda: len(nights(catalog, "s")) == 2)
    assert nights(catalog, "s")[0].result == "skipped: overrun"
    first.send_signal(signal.SIGKILL)
    first.wait()
    start(0)
    wait_for(lambda: nights(catalog, "s")[1].status == "ended")
    night = nights(catalog, "s")[1]
    assert (night.result, night.attempts, night.search) == ("complete", 2, "s-2026-11-01")
    wait_for(lambda: server[1][:1] == ["s-2026-11-01: complete"])


def test_a_folder_of_logs_that_is_gone_is_made_again_and_one_that_cannot_be_is_the_nights_failure(
    tmp_path: Path, catalog: Catalog, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.schedule.notify", partial(notify, pauses_s=(0.01, 0.01)))

    def daemon() -> Daemon:
        moment = BEGIN + timedelta(minutes=30)
        return Daemon(catalog, tmp_path / "nights", lambda *_: [sys.executable, "-c", ""], now=lambda: moment)

    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
    add_schedule(catalog, "t", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN, server[0])
    schedule = {each.name: each for each in all_schedules(catalog)}
    night = claim(catalog, "s", "me", BEGIN + timedelta(minutes=30))
    assert night is not None
    first = daemon()
    first._start(schedule["s"], night, again=False)
    assert (tmp_path / "nights" / f"{night.search}.log").exists()
    assert [child.process.wait(20) for child in first._children] == [0]
    shutil.rmtree(tmp_path / "nights")
    (tmp_path / "nights").write_text("not a folder")
    other = claim(catalog, "t", "me", BEGIN + timedelta(minutes=30))
    assert other is not None
    daemon()._start(schedule["t"], other, again=False)
    (ended,) = nights(catalog, "t")
    assert (ended.status, ended.result) == ("ended", f"failed: cannot be started (File exists: {tmp_path}/nights)")
    wait_for(lambda: server[1] == [f"{other.search}: {ended.result}"] * 3)


def test_what_a_webhook_has_not_taken_when_the_daemon_ends_is_named(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.schedule.LAST_WORDS_S", 0.01)
    with socket.socket() as silent:  # takes connections, and answers none
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hook = f"http://127.0.0.1:{silent.getsockname()[1]}/secret"
        add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN, hook)
        night = claim(catalog, "s", "me", BEGIN + timedelta(minutes=30))
        assert night is not None
        daemon = Daemon(catalog, tmp_path / "nights", lambda *_: [])
        daemon._end(night, "complete", None, None)
        daemon._end_children()
    assert capsys.readouterr().err == (
        f"a notification was not delivered: how {night.search} ended, since the webhook did not take it before the "
        "daemon ended: check --notify of the schedule; its history has the result\n"
    )


def test_a_schedule_that_cannot_be_read_here_keeps_no_other_from_its_nights(
    tmp_path: Path, catalog: Catalog, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("s", "t"):
        add_schedule(catalog, name, "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
    with catalog.writing() as session:
        session.execute(update(Schedule).where(Schedule.name == "s").values(timezone="Mars/Olympus"))
    moment = BEGIN + timedelta(minutes=30)
    daemon = Daemon(catalog, tmp_path / "nights", lambda *_: [sys.executable, "-c", ""], now=lambda: moment)
    for _ in range(2):
        daemon._start_what_is_due()
    assert [child.process.wait(20) for child in daemon._children] == [0]
    assert [len(nights(catalog, name)) for name in ("s", "t")] == [0, 1]
    assert capsys.readouterr().err == (
        "error: schedule s runs no night here: --timezone 'Mars/Olympus' is no known time zone: name one of the IANA "
        "list, such as Europe/Berlin or UTC\n"
    )


@pytest.mark.parametrize("misfire", ["once", "skip"])
def test_nights_of_an_outage(tmp_path: Path, catalog: Catalog, misfire: str) -> None:
    add_schedule(catalog, "s", "0 2 * * *", "UTC", misfire, [], str(tmp_path), BEGIN)
    night = claim(catalog, "s", "me", BEGIN + timedelta(days=3, hours=5))
    assert (night is not None) == (misfire == "once")
    last = "running" if misfire == "once" else "skipped"
    assert [n.status for n in nights(catalog, "s")] == [last, "skipped", "skipped", "skipped"]
    assert [n.result for n in nights(catalog, "s")[1:]] == ["skipped: missed"] * 3
    assert claim(catalog, "s", "other", BEGIN + timedelta(days=3, hours=5)) is None


def daemon_of(catalog: Catalog, folder: Path, program: str, **settings: Any) -> Daemon:
    """One on whose clock it is half an hour behind BEGIN, and which runs ``program`` as a night."""
    command = [sys.executable, "-S", "-c", program]
    moment = BEGIN + timedelta(minutes=30)
    return Daemon(catalog, folder / "nights", lambda *_: command, now=lambda: moment, **settings)


def end_of_all(daemon: Daemon) -> None:
    for child in daemon._children:
        child.process.wait(20)
    daemon._look_after_children()


def test_why_a_night_failed_is_told_to_its_own_webhook(
    tmp_path: Path, catalog: Catalog, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the data of its schedule are gone."""
    monkeypatch.setattr("search.schedule.notify", partial(notify, pauses_s=(0.01, 0.01)))
    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN, server[0])
    add_schedule(catalog, "t", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
    daemon = daemon_of(catalog, tmp_path, "import sys; sys.exit('error: data x is not there: give another')")
    daemon._start_what_is_due()
    end_of_all(daemon)
    for name in ("s", "t"):
        assert [night.result for night in nights(catalog, name)] == ["failed: data x is not there: give another"]
    daemon._end_children()
    assert server[1] == ["s-2026-11-01: failed: data x is not there: give another"] * 3, "it is refused twice"


def test_a_night_that_is_killed_did_not_end_as_the_attempt_before(tmp_path: Path, catalog: Catalog) -> None:
    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
    (tmp_path / "nights").mkdir()
    (tmp_path / "nights" / "s-2026-11-01.log").write_text("error: of the attempt before\n")
    daemon = daemon_of(catalog, tmp_path, "import sys; sys.exit(1)")
    daemon._start_what_is_due()
    end_of_all(daemon)
    assert [night.result for night in nights(catalog, "s")] == [
        "failed: it ended with exit code 1: see nights/s-2026-11-01.log in the home"
    ]


def test_a_night_runs_in_the_folder_of_its_schedule_on_the_stores_of_its_daemon(
    tmp_path: Path, catalog: Catalog
) -> None:
    (tmp_path / "here").mkdir()
    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path / "here"), BEGIN)
    program = "import os, sys; sys.exit(os.getcwd() + ' ' + os.environ['SEARCH_HOME'])"
    daemon = daemon_of(catalog, tmp_path, program, environment={"SEARCH_HOME": "mine"})
    daemon._start_what_is_due()
    end_of_all(daemon)
    assert (tmp_path / "nights" / "s-2026-11-01.log").read_text() == f"{tmp_path / 'here'} mine\n"


def test_a_night_that_somebody_else_runs_has_not_failed(tmp_path: Path, catalog: Catalog) -> None:
    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
    daemon = daemon_of(catalog, tmp_path, "import sys; sys.exit(2)")
    daemon._start_what_is_due()
    search = catalog.create_search("s-2026-11-01", {}, {})
    with closing(Catalog(f"sqlite:///{tmp_path / 'search.db'}")) as person, Lease(person, search.id, search.name):
        end_of_all(daemon)
        (night,) = nights(catalog, "s")
        assert (night.status, night.result, daemon._children) == ("interrupted", None, [])


def test_a_night_whose_schedule_was_removed_is_ended(tmp_path: Path, catalog: Catalog) -> None:
    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
    daemon = daemon_of(catalog, tmp_path, "import time; time.sleep(600)")
    daemon._start_what_is_due()
    remove_schedule(catalog, "s")
    daemon._look_after_children()
    (child,) = daemon._children
    assert child.process.wait(20) == -signal.SIGTERM
    daemon._look_after_children()
    assert daemon._children == []


def test_a_night_that_another_daemon_took_is_that_ones_to_end_and_to_tell(
    tmp_path: Path, catalog: Catalog, server: tuple[str, list[str]]
) -> None:
    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN, server[0])
    daemon = daemon_of(catalog, tmp_path, "")
    daemon._start_what_is_due()
    assert adopt(catalog, "other", -1) is not None
    end_of_all(daemon)
    daemon._end_children()
    (night,) = nights(catalog, "s")
    assert (night.status, night.owner, server[1]) == ("running", "other", [])


def test_a_daemon_that_ends_records_what_is_complete_and_leaves_the_rest(tmp_path: Path, catalog: Catalog) -> None:
    program = "import signal, sys, time; signal.signal({}, lambda *_: sys.exit({})); print('up', file=sys.stderr)"
    for name, code in (("s", 0), ("t", 130)):
        add_schedule(catalog, name, "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
        daemon = daemon_of(catalog, tmp_path, f"{program.format(int(signal.SIGTERM), code)}; time.sleep(600)")
        daemon._start_what_is_due()
        wait_for((log := tmp_path / "nights" / f"{name}-2026-11-01.log").exists)
        wait_for(lambda log=log: log.read_text() == "up\n")
        daemon._end_children()
    found = [(night.status, night.result) for name in ("s", "t") for night in nights(catalog, name)]
    assert found == [("ended", "complete"), ("interrupted", None)]


def test_a_home_that_is_moved_away_is_said_once_and_no_other_is_made(tmp_path: Path, catalog: Catalog) -> None:
    """The daemon's connection goes on with the moved file, and its nights would begin a home in the old place."""
    set_clock(tmp_path, BEGIN)
    add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), BEGIN)
    database, elsewhere, said = tmp_path / "search.db", tmp_path / "moved.db", tmp_path / "said"
    with said.open("wb") as stream:
        command = [sys.executable, "-m", "tests.nights.daemon", str(tmp_path), "0"]
        daemon = subprocess.Popen(command, stderr=stream)
    try:
        wait_for(lambda: bool(list(tmp_path.glob("*.up"))))
        database.rename(elsewhere)
        wait_for(lambda: bool(said.read_text()))
        set_clock(tmp_path, BEGIN + timedelta(minutes=30))
        time.sleep(0.3)  # many a turn
        assert said.read_text() == (
            f"error: database 'sqlite:///{database}' is not there any more: move it back, or begin this command again "
            "with the --home or --storage that it has. The daemon goes on when it is back.\n"
        )
        assert not database.exists()
        assert nights(catalog, "s") == []
        elsewhere.rename(database)
        wait_for(lambda: [night.result for night in nights(catalog, "s")] == ["complete"])
    finally:
        daemon.kill()
        daemon.wait()

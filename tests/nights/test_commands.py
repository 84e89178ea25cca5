"""The commands on schedules, and the real daemon when it is told to end."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from objectives.errors import RequestError
from search.catalog.schedules import add_schedule, claim, end_night, nights
from search.catalog.store import Catalog
from search.cli_schedule import schedule
from search.spec import SearchSpec
from tests.commands import QUICK, assert_whole, call, call_json, command, environment
from tests.json_reference import undescribed, unseen
from tests.waiting import wait_for


@contextmanager
def daemon_on(home: Path) -> Iterator[Callable[[], bool]]:
    """Whether it is at work. At the end of the block it is told to end, and does; where that fails it is killed."""
    daemon = subprocess.Popen(command("schedule", "run", "--home", str(home)), env=environment())
    try:
        yield lambda: daemon.poll() is None
        daemon.terminate()
        assert daemon.wait(60) == 0
    finally:
        daemon.kill()
        daemon.wait()


def test_stores_of_the_environment_are_no_flags_of_a_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where SEARCH_STORAGE names the database of all commands."""
    monkeypatch.setenv("SEARCH_STORAGE", f"sqlite:///{tmp_path}/elsewhere.db")
    add = ("schedule", "add", "s", "--cron", "0 2 * * *", "--home", str(tmp_path))
    refused = call(*add, "--", "--storage", "sqlite:///mine.db", code=2).stderr
    assert refused.startswith("error: --storage after -- is not a night's to choose")
    assert "No such option" in call(*add, "--", "--help", code=2).stderr, "a night that only prints help"
    call(*add, "--", "--budget", "3")
    assert [row["name"] for row in call_json("schedule", "list", "--home", str(tmp_path))] == ["s"]
    assert (tmp_path / "elsewhere.db").exists()


def test_nights_do_not_run_in_a_folder_whose_name_no_catalog_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was kept with a question mark in it, and every night failed there."""
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError) as refusal:
        schedule.main(["add", "s", "--cron", "0 2 * * *", "--home", str(tmp_path / "home")], standalone_mode=False)
    assert str(refusal.value) == (
        f"this folder, {str(folder)!r}, has a name that is no text, and nights would run in it: go to another"
    )


def test_an_mlflow_that_is_not_kept_with_the_schedule_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add = ["add", "s", "--cron", "0 2 * * *", "--home", str(tmp_path)]
    schedule.main([*add, "--tracking-uri", "http://mlflow:5000"], standalone_mode=False)
    assert capsys.readouterr().err == (
        "note: --tracking-uri is not kept with the schedule: give it to `python -m search schedule run`, whose MLflow "
        "the nights of all schedules write to\n"
    )


def test_the_daemon_that_is_named_is_one_that_finds_the_schedule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the flag it looks into another home, and no night ever runs."""
    home = ["--home", str(tmp_path)]
    daemon = f"python -m search schedule run --home {tmp_path}"
    schedule.main(["add", "s", "--cron", "0 2 * * *", *home], standalone_mode=False)
    assert capsys.readouterr().out.endswith(f"02:00 UTC, while `{daemon}` runs\n")
    schedule.main(["history", "s", *home], standalone_mode=False)
    assert capsys.readouterr().out == f"No night of s yet: {daemon} runs them.\n"


def test_a_schedule_is_added_shown_paused_and_removed(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path))
    add = ("schedule", "add", "s", "--cron", "0 2 * * *", *home)
    assert "--bogus" in call(*add, "--", "--bogus", "1", code=2).stderr
    long = call("schedule", "add", "s" * 81, "--cron", "0 2 * * *", *home, code=2).stderr
    assert "80 at most, since its nights add date and time" in long
    assert "--name" in call(*add, "--", "--name", "x", code=2).stderr
    assert call_json("schedule", "list", "--home", str(tmp_path / "none")) == []
    assert call_json("token", "list", "--home", str(tmp_path / "none")) == []
    for question in (("history", "s"), ("remove", "s"), ("pause", "s")):
        assert "nothing is recorded in" in call("schedule", *question, "--home", str(tmp_path / "none"), code=2).stderr
    assert not (tmp_path / "none").exists()
    call(*add, "--notify", "http://127.0.0.1:1/secret", "--", "--budget", "3", *QUICK, "--")
    assert call(*add, code=2).stderr == (
        "error: a schedule named 's' exists already: choose another name, or end it with "
        f"`python -m search schedule remove s --home {tmp_path}`\n"
    ), "of this home, not of the one that the next command finds"
    call("schedule", "pause", "s", *home)
    (row,) = call_json("schedule", "list", *home)
    assert (row["paused"], row["flags"]) == (True, ["--budget", "3", *QUICK, "--"]), "a -- at the end"
    assert row["notify"] == "***"
    header, _, line = call("schedule", "list", *home).stdout.splitlines()
    assert "next at (UTC)" in header
    assert re.fullmatch(r"s +0 2 \* \* \* +UTC +once +yes +\d{4}-\d\d-\d\d 02:00", line.strip())
    assert call_json("schedule", "history", "s", *home) == []
    (tmp_path / "nights").touch()
    assert "is no folder: move it away" in call("schedule", "run", *home, code=2).stderr
    (tmp_path / "nights").unlink()
    with daemon_on(tmp_path) as is_at_work:
        wait_for((tmp_path / "nights").is_dir, alive=is_at_work)
    call("schedule", "remove", "s", *home)
    assert "no schedule" in call("schedule", "history", "s", *home, code=2).stderr


def test_the_history_shows_the_newest_nights_or_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = datetime(2026, 3, 1, tzinfo=UTC)
    home = ["--home", str(tmp_path)]
    with closing(Catalog(f"sqlite:///{tmp_path}/search.db")) as catalog:
        add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", [], str(tmp_path), began)
        for day in (1, 2, 3):
            night = claim(catalog, "s", "me", began + timedelta(days=day))
            assert night is not None
            assert end_night(catalog, night, "complete", began, None, None)
    for last, days in (([], [3, 2, 1]), (["--last", "2"], [3, 2])):
        schedule.main(["history", "s", "--json", *last, *home], standalone_mode=False)
        shown = json.loads(capsys.readouterr().out)
        assert [each["search"] for each in shown] == [f"s-2026-03-0{day}" for day in days]


def test_a_night_is_resumed_once_it_has_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may have died before that."""
    begun: list[list[str]] = []

    def daemon(catalog: Catalog, _: Path, command: Any, environment: Any) -> Any:
        record, night = SimpleNamespace(name="s", flags=["--budget", "3"]), SimpleNamespace(search="s-1")
        begun.append(command(record, night, True)[3:])
        catalog.create_search("s-1", {}, {})
        begun.extend(command(record, night, again)[3:] for again in (True, False))
        return SimpleNamespace(run=lambda: None)

    monkeypatch.setattr("search.schedule.Daemon", daemon)
    schedule.main(["run", "--home", str(tmp_path)], standalone_mode=False)
    home = ["--home", str(tmp_path)]
    run = ["run", "--name", "s-1", "--series", "s", *home, "--budget", "3"]
    assert begun == [run, ["resume", "s-1", *home], run]


@pytest.mark.slow
def test_a_night_that_its_daemon_was_told_to_leave_is_gone_on_with_by_the_next(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    hook, heard = server
    with closing(Catalog(f"sqlite:///{tmp_path / 'search.db'}")) as catalog:
        begin = datetime.now(UTC) - timedelta(days=1)
        catalog.create_search("s-of-old", SearchSpec(series="s").to_json(), {})
        flags = ["--budget", "3", *QUICK, "--keep", "1"]
        add_schedule(catalog, "s", "0 2 * * *", "UTC", "once", flags, str(tmp_path), begin, hook)
        with daemon_on(tmp_path) as is_at_work:
            wait_for(lambda: any(catalog.trials(each.id) for each in catalog.searches()), 120, alive=is_at_work)
        (night,) = nights(catalog, "s")
        assert night.status == "interrupted"
        with daemon_on(tmp_path) as is_at_work:
            wait_for(lambda: nights(catalog, "s")[0].status == "ended", 180, alive=is_at_work)
            (night,) = nights(catalog, "s")
            assert (night.result, night.attempts) == ("complete", 2)
        assert catalog.names() == {night.search}
        trials = catalog.trials(catalog.search(night.search).id)
        assert night.steps == sum(trial.steps for trial in trials) > 0
        assert_whole(tmp_path, night.search, 3)
    home = ("--home", str(tmp_path))
    (schedule,) = call_json("schedule", "list", *home)
    (told,) = call_json("schedule", "history", "s", *home)
    assert undescribed("schedule list", [schedule, told]) == unseen("schedule list", [schedule, told]) == []
    history = call("schedule", "history", "s", *home).stdout
    assert night.ended_at is not None and night.seconds is not None
    assert f" {night.ended_at:%Y-%m-%d %H:%M}  " in history and f" {night.seconds:.0f} " in history
    assert schedule["champion"]
    assert schedule["champion"].split(" r")[0] in told["champion"]
    wait_for(lambda: len(heard) >= 3, 60)  # the server refuses twice
    assert heard[0].startswith(f"{night.search}: complete; ")
    assert heard[0].endswith(told["champion"])

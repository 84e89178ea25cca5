"""Where a home's databases are, whatever folder a command runs in."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from objectives.errors import RequestError, StoreError
from search import outside
from search.catalog import Catalog
from search.home import Home, home_of, opened, place_of
from search.notebook import Search
from search.tracking import tracker_of
from tests.commands import call_json
from tests.disks import ReadOnly, read_only
from tests.search.recorded import FACTS, SPEC, end_trial

__all__ = ["read_only"]  # a fixture


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("sqlite:///s.db", "sqlite:///{here}/s.db"),
        ("sqlite+pysqlite:///a/s.db?timeout=5", "sqlite+pysqlite:///{here}/a/s.db?timeout=5"),
        ("sqlite:////srv/s.db", "sqlite:////srv/s.db"),
        ("sqlite:///~/s.db?timeout=5", "sqlite:///{here}/s.db?timeout=5"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite://", "sqlite://"),
        ("postgresql://me@host/d", "postgresql://me@host/d"),
    ],
)
def test_a_relative_database_is_that_of_the_folder_it_was_asked_for_in(
    given: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night runs in the folder of its schedule, and is to write to its daemon's catalog."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = seen.format(here=tmp_path)
    home = Home.at(tmp_path, given, given)
    assert (home.storage, home.tracking) == (expected, expected)
    assert home.environment()["SEARCH_STORAGE"] == home.environment()["SEARCH_TRACKING_URI"] == expected


@pytest.mark.parametrize("folder", ["who?", "100%41", "a b"])
def test_a_folders_name_is_no_part_of_the_url(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    Catalog(Home.at(tmp_path, "sqlite:///s.db", None).storage).close()
    assert (tmp_path / folder / "s.db").exists()


def test_the_variable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEARCH_STORAGE", "sqlite:///s.db")
    place = home_of(str(tmp_path / "home"), None, None)
    monkeypatch.chdir(tmp_path / "home")
    Catalog(place.storage).close()
    assert (tmp_path / "s.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@db/search?password=postgres",
        "postgresql://db/search?user=me&password=me",
        "postgresql://me:secret@db/search",
    ],
)
def test_a_default_password_is_seen_wherever_the_url_has_it(url: str) -> None:
    with pytest.raises(RequestError, match=r"^--storage has a default password"):
        outside.refuse_passwords_of_manuals(url, "--storage")
    outside.refuse_passwords_of_manuals("postgresql://me@db/search?password=aK3-unlikely", "--storage")
    outside.refuse_passwords_of_manuals("postgresql://me:secret@[::1/db", "--storage")  # refused where it is opened


@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ((None, None), ""),
        (("./.search", None), ""),
        (("a b", None), " --home '{here}/a b'"),
        ((None, "sqlite:///x.db"), " --storage sqlite:///{here}/x.db"),
        (("h", "postgresql://me:secret@host/d"), " --home {here}/h --storage 'postgresql://***@host/d'"),
    ],
)
def test_a_printed_command_finds_the_home_that_it_is_about(
    place: tuple[str | None, str | None], flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("SEARCH_HOME", "SEARCH_STORAGE", "SEARCH_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    home = place_of(*place, None)
    assert home.flags() == flags.format(here=tmp_path)
    for name, value in home.environment().items():
        monkeypatch.setenv(name, value)
    there = flags.partition(" --storage")[0].format(here=tmp_path)
    assert home.flags() == there, "in the log of a daemon, whose environment its readers lack"
    monkeypatch.setenv("SEARCH_HOME", str(home.folder))
    assert home.flags() == ""


@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ((None, None), " --home {here}/.search"),
        (("h", "sqlite:///x.db"), " --home {here}/h --storage sqlite:///{here}/x.db"),
        (("h", "postgresql://host/d"), " --home {here}/h --storage postgresql://host/d"),
        (("h", "postgresql://me:secret@host/d"), " --home {here}/h"),
    ],
)
def test_a_command_that_others_read_later_takes_nothing_from_a_daemons_environment(
    place: tuple[str | None, str | None], flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's descriptions of nights and of what the API was asked for named no home."""
    monkeypatch.chdir(tmp_path)
    home = place_of(*place, None)
    for name, value in {"SEARCH_HOME": str(home.folder), **home.environment()}.items():
        monkeypatch.setenv(name, value)
    assert place_of(None, None, None).flags(anywhere=True) == flags.format(here=tmp_path)


def test_mlflow_is_told_such_commands(sqlite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("search.tracking.Tracker", lambda *_, **named: given.update(named))
    home = Home.at(tmp_path, None, None)
    for name, value in {"SEARCH_HOME": str(home.folder), **home.environment()}.items():
        monkeypatch.setenv(name, value)
    with closing(Catalog(sqlite)) as catalog:
        tracker_of(catalog, home)
    assert given["flags"] == f" --home {tmp_path}"


def test_a_place_whose_name_is_of_another_encoding_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow, Ray and SQLite's driver would refuse it later, each by an error of its own."""
    latin = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    latin.mkdir()
    url = f"sqlite:///{latin}/x.db"
    for place, flag, value in (
        ((str(latin), None, None), "--home", str(latin)),
        ((None, url, None), "--storage", url),
        ((None, None, url), "--tracking-uri", url),
    ):
        with pytest.raises(RequestError) as refusal:
            place_of(*place)
        assert str(refusal.value) == f"{flag} {value!r} is no text in UTF-8: rename it, or give another"
    monkeypatch.chdir(latin)
    with pytest.raises(RequestError, match=r"^--home '.*/caf.udce9/\.search' is no text"):
        place_of(None, None, None)
    assert place_of(str(tmp_path), None, None).folder == tmp_path


def test_a_folder_that_was_deleted_holds_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of a full path does not need it: the end of a long search is printed."""
    monkeypatch.delenv("SEARCH_HOME", raising=False)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert place_of(f"{tmp_path}/h", None, None).flags() == f" --home {tmp_path}/h"
    with pytest.raises(
        RequestError, match=r"^home \.search would be in this folder, which was deleted: go to one that"
    ):
        place_of(None, None, None)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o750), (0o002, 0o770), (0o077, 0o700)])
def test_a_new_home_is_closed_to_other_users_and_one_that_is_there_stays_as_it_is(
    umask: int, mode: int, tmp_path: Path
) -> None:
    folder = tmp_path / "home"
    before = os.umask(umask)
    try:
        home_of(str(folder), None, None)
        assert folder.stat().st_mode & 0o777 == mode
        folder.chmod(0o755)
        home_of(str(folder), None, None)
        assert folder.stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_a_printed_command_leaves_the_variable_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL without it would win, and open nothing."""
    monkeypatch.delenv("SEARCH_HOME", raising=False)
    monkeypatch.setenv("SEARCH_STORAGE", "postgresql://me:secret@host/d")
    assert place_of(f"{tmp_path}/h", None, None).flags() == f" --home {tmp_path}/h"
    own = f"sqlite:///{tmp_path}/h/search.db"
    assert place_of(f"{tmp_path}/h", own, None).flags() == f" --home {tmp_path}/h --storage {own}"


@pytest.mark.parametrize("written", [False, True], ids=["at rest", "while its owner writes"])
def test_a_home_that_only_others_can_write_is_read(written: bool, tmp_path: Path, read_only: ReadOnly) -> None:
    """As that of a colleague, or a backup: `list`, `show` and `export` were refused with the advice to take another."""
    storage = f"sqlite:///{tmp_path}/search.db"
    owner = Catalog(storage)
    with closing(owner):
        begun = owner.create_search("demo", SPEC, FACTS | {"metric": "accuracy"})
        end_trial(owner, begun, 7, adapter="/elsewhere/7", adapter_sha256="0" * 64)
        if not written:
            owner.close()
        read_only(tmp_path)
        assert [row["search"] for row in call_json("list", "--home", str(tmp_path))] == ["demo"]
        with opened("demo", str(tmp_path), None, None) as (catalog, search):
            assert [trial.number for trial in catalog.trials(search.id)] == [7]
            with pytest.raises(StoreError, match="the file or its folder is read-only"):
                catalog.set_status(search.id, "failed")
        assert Search("demo", home=tmp_path).name == "demo"
        with pytest.raises(RequestError, match="cannot be written"):
            home_of(str(tmp_path), None, None)

"""Who owns the processes of the searches: through kills, restarts and whatever goes wrong on the way."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, make_url, text

from objectives.errors import RequestError
from search.api.supervisor import POLL_S, Supervisor, flags
from search.catalog import Catalog
from search.catalog.submissions import move, submission, submit
from search.children import spawn
from search.home import Home
from search.lease import Lease
from tests.api.conftest import Service, record_search
from tests.api.test_service import QUICK, Server
from tests.commands import call
from tests.search.conftest import postgres, postgres_server
from tests.waiting import wait_for

__all__ = ["postgres", "postgres_server"]  # fixtures of the catalog's tests


@pytest.fixture
def start(service: Service) -> Iterator[Callable[[], Supervisor]]:
    started = []

    def start() -> Supervisor:
        started.append(Supervisor(service.catalog, service.home, at_once=1))
        started[-1].start()
        return started[-1]

    yield start
    for supervisor in started:
        supervisor.stop()


def status(service: Service, name: str) -> str:
    found = submission(service.catalog, name)
    assert found is not None
    return found.status


def begin(service: Service, name: str) -> None:
    """As a server leaves it that is killed."""
    submit(service.catalog, name, "run", {"budget": 2}, "me")
    assert move(service.catalog, name, "queued", "running")


@pytest.mark.slow
def test_a_search_whose_server_is_killed_while_it_starts_up_is_run_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    server = Server(home, f"sqlite:///{home}/search.db")
    server.start()
    server.ask("POST", "/searches", QUICK | {"name": "first", "budget": 1})
    server.wait("first", "running")
    server.end(signal.SIGKILL)
    server.start()
    try:
        over = server.wait("first", "ended", "failed")
        assert (over["status"], over["error"]) == ("ended", None)
    finally:
        server.end(signal.SIGTERM)
    with closing(Catalog(server.environment["SEARCH_STORAGE"])) as catalog:
        (search,) = catalog.searches()
        assert (search.name, search.status) == ("first", "complete")
        assert [(trial.status, trial.attempts) for trial in catalog.trials(search.id)] == [("complete", 1)]


def test_a_process_of_an_earlier_server_is_waited_for(service: Service, start: Callable[[], Supervisor]) -> None:
    begin(service, "left")
    log = service.home.folder / "logs" / "left.log"
    ending = spawn([sys.executable, "-S", "-c", "import time; time.sleep(600)"], log, os.environ)
    start()
    time.sleep(3 * POLL_S)
    assert status(service, "left") == "queued"
    ending.kill()
    wait_for(lambda: status(service, "left") == "running")


@pytest.mark.slow
def test_a_run_again_that_meets_its_search_goes_on_with_it(service: Service, start: Callable[[], Supervisor]) -> None:
    begin(service, "left")
    supervisor = start()
    wait_for(lambda: "left" in supervisor._children)
    record_search(service.catalog, service.home, "left")  # long before the command has made its imports
    wait_for(lambda: status(service, "left") not in ("queued", "running"), seconds=120)
    assert submission(service.catalog, "left").error is None  # type: ignore[union-attr]  # it is there
    assert status(service, "left") == "ended"
    log = (service.home.folder / "logs" / "left.log").read_text()
    assert "a search named 'left' exists already" in log
    assert "search left is complete, with 2 trials" in log


def test_a_fault_is_said_once_and_does_not_end_the_supervisor(
    service: Service, start: Callable[[], Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    (service.home.folder / "logs").write_text("not a folder")  # so that nothing is started
    submit(service.catalog, "waits", "run", {"budget": 2}, "me")
    engine = create_engine(service.catalog.url)
    with engine.begin() as connection:
        at = connection.scalar(text("SELECT submitted_at FROM catalog_submissions"))
        connection.execute(text("UPDATE catalog_submissions SET submitted_at = 'never'"))
    start()
    wait_for(lambda: "Traceback" in caplog.text)
    time.sleep(3 * POLL_S)
    assert caplog.text.count("Traceback") == 1
    with engine.begin() as connection:
        connection.execute(text("UPDATE catalog_submissions SET submitted_at = :at"), {"at": at})
    engine.dispose()
    wait_for(lambda: status(service, "waits") == "failed")


def test_of_two_requests_for_a_name_at_one_moment_none_is_lost(postgres: str) -> None:
    """The second looks, the first is queued, and only then the second writes."""
    with closing(Catalog(postgres)) as first, closing(Catalog(postgres)) as second:

        def between(*_: object) -> None:
            submit(first, "same", "run", {"budget": 1}, "first")

        event.listen(second._engine, "after_cursor_execute", between, once=True)
        with pytest.raises(RequestError, match=r"^search same is queued already: wait for it, or choose another name$"):
            submit(second, "same", "run", {"budget": 2}, "second")
        queued = submission(first, "same")
        assert queued is not None
        assert (queued.token, queued.settings) == ("first", {"budget": 1})


def test_canceling_does_not_wait_for_a_database_that_the_supervisor_waits_for(postgres: str, tmp_path: Path) -> None:
    engine = create_engine(postgres)
    # By this name the database tells the supervisor from the search that it has begun, which waits as well.
    own = make_url(postgres).update_query_dict({"application_name": "supervisor"})
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'supervisor' AND wait_event = 'relation'"
    )
    with closing(Catalog(own.render_as_string(hide_password=False))) as catalog:
        supervisor = Supervisor(catalog, Home.at(tmp_path, postgres, None), at_once=2)
        supervisor.start()
        submit(catalog, "runs", "run", {"budget": 2}, "me")
        wait_for(lambda: "runs" in supervisor._children)
        with engine.begin() as holding, engine.connect() as watching:
            holding.execute(text("LOCK TABLE catalog_searches IN ACCESS EXCLUSIVE MODE"))
            watching.execution_options(isolation_level="AUTOCOMMIT")  # activity is a snapshot of the transaction's
            submit(catalog, "waits", "run", {"budget": 2}, "me")
            wait_for(lambda: watching.scalar(waiting) == 1)
            canceling = threading.Thread(target=supervisor.cancel, args=("runs",))
            canceling.start()
            canceling.join(10)
            waited = canceling.is_alive()
        supervisor.stop()
        assert not waited
        runs = submission(catalog, "runs")
        assert runs is not None and runs.status == "canceled"
    engine.dispose()


def test_a_server_whose_port_is_taken_begins_nothing(service: Service) -> None:
    submit(service.catalog, "waits", "run", {"budget": 2}, "me")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = call("serve", "--port", port, "--home", str(service.home.folder), code=2)
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1 port {port} (Address already in use): give another --host or --port\n"
    )
    waits = submission(service.catalog, "waits")
    assert waits is not None
    assert (waits.status, waits.started_at) == ("queued", None)


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """What the next searches do, as a program; and the arguments of those that were begun."""

    def replace(program: str) -> list[list[str]]:
        begun: list[list[str]] = []

        def instead(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
            begun.append(command[3:])
            return spawn([sys.executable, "-S", "-c", program, *begun[-1]], log, environment)

        monkeypatch.setattr("search.api.supervisor.spawn", instead)
        return begun

    return replace


def test_a_value_is_never_taken_for_a_flag() -> None:
    given = {
        "ranks": [4, 8],
        "groups": ["q_proj@first", "o_proj"],
        "template": "--home=/x {text}",
        "gradient_checkpointing": True,
        "pack": None,
    }
    assert flags(given | {"other": False, "max_hours": 0.5}) == [
        "--ranks=4,8",
        "--groups=q_proj@first,o_proj",
        "--template=--home=/x {text}",
        "--gradient-checkpointing",
        "--max-hours=0.5",
    ]


def test_a_search_is_begun_with_its_settings_and_resumed_with_what_a_resume_may_change(
    service: Service, start: Callable[[], Supervisor], searching: Callable[[str], list[list[str]]]
) -> None:
    settings = {"data": "/data", "budget": 5, "workers": 2, "max_hours": 0.5}
    begun = searching("import os, sys; sys.exit(os.environ['HF_HUB_OFFLINE'] + os.environ['SEARCH_STORAGE'])")
    submit(service.catalog, "new", "run", settings, "me")
    submit(service.catalog, "demo", "run", settings, "me")
    assert move(service.catalog, "demo", "queued", "running"), "as an earlier server did"
    start()
    wait_for(lambda: {status(service, name) for name in ("new", "demo")} == {"failed"})
    changed = ["--budget=5", "--workers=2", "--max-hours=0.5", "--home", str(service.home.folder)]
    assert sorted(map(sorted, begun)) == sorted(
        map(sorted, (["run", "--data=/data", *changed, "--name=new", "--json"], ["resume", "demo", *changed, "--json"]))
    )
    assert (service.home.folder / "logs" / "new.log").read_text() == f"1{service.home.storage}\n"


@pytest.mark.parametrize(
    ("program", "over", "error"),
    [
        ("", "ended", None),
        ("sys.exit(130)", "canceled", None),  # somebody sent it a signal
        ("sys.exit('error: data x is not there: give another')", "failed", "data x is not there: give another"),
        ("os.kill(os.getpid(), 9)", "failed", "it ended with exit code -9: see logs/s.log in the home"),
    ],
)
def test_how_a_search_ended_is_told(
    service: Service,
    start: Callable[[], Supervisor],
    searching: Callable[[str], list[list[str]]],
    program: str,
    over: str,
    error: str | None,
) -> None:
    searching(f"import os, sys; {program}")
    (service.home.folder / "logs").mkdir()
    (service.home.folder / "logs" / "s.log").write_text("error: of an earlier search of that name\n")
    submit(service.catalog, "s", "run", {}, "me")
    start()
    wait_for(lambda: status(service, "s") not in ("queued", "running"))
    found = submission(service.catalog, "s")
    assert found is not None
    assert (found.status, found.error) == (over, error)


def test_what_was_canceled_has_not_failed_and_the_next_one_begins(
    service: Service, start: Callable[[], Supervisor], searching: Callable[[str], list[list[str]]]
) -> None:
    searching("import time; time.sleep(600)")  # ends by the signal, before it could catch one
    for name in ("first", "second"):
        submit(service.catalog, name, "run", {}, "me")
    supervisor = start()
    wait_for(lambda: status(service, "first") == "running")
    time.sleep(3 * POLL_S)
    assert status(service, "second") == "queued", "one at once"
    assert supervisor.cancel("first")
    wait_for(lambda: status(service, "second") == "running")
    assert status(service, "first") == "canceled"


def test_searches_that_do_not_end_are_waited_for_all_together(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    searching: Callable[[str], list[list[str]]],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("search.api.supervisor.PATIENCE_S", 2.0)
    deaf = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    searching(f"import os, signal, time; {deaf}; open(f'{tmp_path}/deaf-{{os.getpid()}}', 'w'); time.sleep(600)")
    for name in ("first", "second", "third"):
        submit(service.catalog, name, "run", {}, "me")
    supervisor = Supervisor(service.catalog, service.home, at_once=3)
    supervisor.start()
    wait_for(lambda: len(list(tmp_path.glob("deaf-*"))) == 3)
    began = time.monotonic()
    supervisor.stop()
    assert 2.0 <= time.monotonic() - began < 4.0
    assert [child.process.poll() for child in supervisor._children.values()] == [-signal.SIGKILL] * 3


def test_what_is_canceled_while_it_is_about_to_begin_does_not(
    service: Service, monkeypatch: pytest.MonkeyPatch, searching: Callable[[str], list[list[str]]]
) -> None:
    begun = searching("")
    queued = submit(service.catalog, "s", "run", {}, "me")
    supervisor = Supervisor(service.catalog, service.home, at_once=1)
    assert supervisor.cancel("s")
    monkeypatch.setattr("search.api.supervisor.submissions", lambda *_: [queued])  # as it was read before
    supervisor._launch()
    assert (begun, status(service, "s")) == ([], "canceled")


def test_a_search_that_the_command_line_runs_is_resumed_when_that_has_ended(
    service: Service, start: Callable[[], Supervisor], searching: Callable[[str], list[list[str]]]
) -> None:
    begun = searching("")
    submit(service.catalog, "demo", "resume", {}, "me")
    with closing(Catalog(service.home.storage)) as other, Lease(other, service.catalog.search("demo").id, "demo"):
        start()
        time.sleep(3 * POLL_S)
        assert (begun, status(service, "demo")) == ([], "queued")
    wait_for(lambda: status(service, "demo") == "ended")
    assert begun == [["resume", "demo", "--home", str(service.home.folder), "--json"]]


def test_a_resume_that_waits_for_the_command_line_can_be_canceled(service: Service) -> None:
    submit(service.catalog, "demo", "resume", {}, "me")
    supervisor = Supervisor(service.catalog, service.home, at_once=1)
    with closing(Catalog(service.home.storage)) as other, Lease(other, service.catalog.search("demo").id, "demo"):
        assert supervisor.cancel("demo")
    assert status(service, "demo") == "canceled"


def test_a_home_that_is_moved_away_is_said_once_and_no_other_is_made(
    service: Service,
    start: Callable[[], Supervisor],
    searching: Callable[[str], list[list[str]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun = searching("")
    submit(service.catalog, "s", "run", {}, "me")
    elsewhere = service.home.folder.with_name("elsewhere")
    service.home.folder.rename(elsewhere)
    start()
    wait_for(lambda: caplog.messages)
    time.sleep(3 * POLL_S)
    assert caplog.messages == [
        f"database 'sqlite:///{service.home.folder}/search.db' is not there any more: move it back, or begin this "
        "command again with the --home or --storage that it has."
    ]
    assert (begun, service.home.folder.exists(), status(service, "s")) == ([], False, "queued")
    elsewhere.rename(service.home.folder)
    wait_for(lambda: status(service, "s") == "ended")

"""The service as it is deployed: a server process, searches as its children, PostgreSQL with a password."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from search.catalog import Catalog
from search.prepare import prepare
from search.spec import SearchSpec
from tests import forked
from tests.api.test_events import read_events
from tests.commands import call, command, environment, free_port
from tests.search.conftest import postgres, postgres_server
from tests.waiting import answers, wait_for

__all__ = ["postgres", "postgres_server"]  # fixtures of the catalog's tests

PASSWORD = "qU1et-Harbour-77"
QUICK = {"steps": 4, "ranks": [4], "validation_rows": 40, "test_rows": 40, "workers": 1}


class Server:
    def __init__(self, home: Path, storage: str) -> None:
        self.port = free_port()
        self.log = home.parent / "server.log"
        self.environment = environment() | {"SEARCH_HOME": str(home), "SEARCH_STORAGE": storage}
        self.token = self.say("token", "add", "me", "--scope", "write").strip()
        self.allow = home.parent / "allowed"
        self.allow.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def say(self, *args: str) -> str:
        done = forked.run(args, self.environment, 60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        args = command("serve", "--port", str(self.port), "--allow", str(self.allow))
        with self.log.open("ab") as stream:
            process = self.process = subprocess.Popen(args, env=self.environment, stdout=stream, stderr=stream)
        wait_for(
            lambda: answers(f"http://127.0.0.1:{self.port}/health"),
            alive=lambda: process.poll() is None,
            told=self.log.read_text,
        )
        assert self.ask("GET", "/health") == {"status": "ok"}

    def end(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(90)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        with urllib.request.urlopen(request, timeout=240) as answer:
            text = answer.read().decode()
            return json.loads(text) if answer.headers["Content-Type"] == "application/json" else text

    def wait(self, name: str, *status: str) -> Any:
        submission: Any = None

        def is_there() -> bool:
            nonlocal submission
            submission = self.ask("GET", f"/submissions/{name}")
            return submission["status"] in status

        wait_for(is_there, 180, told=lambda: f"{submission}\n{self.log.read_text()}", pause=0.2)
        return submission

    def trials(self, name: str) -> int:
        """How many are complete, of a search that may have no row yet."""
        try:
            return int(self.ask("GET", f"/searches/{name}")["trials"]["complete"])
        except urllib.error.HTTPError as error:
            assert error.code == 404
            return 0


@pytest.fixture
def server(tmp_path: Path, postgres: str) -> Iterator[Server]:
    # The server of the tests trusts whoever is on this machine: any password is right.
    storage = make_url(postgres).set(password=PASSWORD).render_as_string(hide_password=False)
    server = Server(tmp_path / "home", storage)
    yield server
    if server.process is not None and server.process.poll() is None:
        server.end(signal.SIGTERM)


@pytest.mark.slow
def test_what_was_submitted_survives_the_server_and_no_secret_is_written(server: Server, tmp_path: Path) -> None:
    server.start()
    assert server.ask("POST", "/searches", QUICK | {"name": "first", "budget": 2})["status"] == "queued"
    broken = server.allow / "broken.jsonl"
    broken.write_text("{}\n")
    server.ask("POST", "/searches", QUICK | {"name": "bad", "data": str(broken)})
    server.ask("POST", "/searches", QUICK | {"name": "never"})
    wait_for(lambda: server.trials("first") >= 1, 180, told=server.log.read_text, pause=0.1)
    assert [each["status"] for each in server.ask("GET", "/submissions")] == ["queued", "queued", "running"]
    assert server.ask("POST", "/searches/never/cancel")["status"] == "canceled"

    server.end(signal.SIGTERM)
    catalog = Catalog(server.environment["SEARCH_STORAGE"])
    assert catalog.search("first").status == "interrupted"
    kept = {trial.number for trial in catalog.trials(catalog.search("first").id) if trial.status == "complete"}
    server.start()
    events = read_events(server.ask("GET", "/searches/first/events"))
    assert [kind for kind, _, _ in events][-1] == "end"
    assert [kind for kind, _, _ in events][:-1] == ["progress"] * (len(events) - 1)
    assert events[-1][2]["status"] == "complete"
    trials = catalog.trials(catalog.search("first").id)
    assert [(trial.status, trial.attempts) for trial in trials if trial.number in kept] == [("complete", 1)] * len(kept)
    assert [trial.status for trial in trials] == ["complete"] * 2
    catalog.close()

    failed = server.wait("bad", "failed")
    assert failed["error"].startswith(f"{broken}")
    assert server.ask("GET", "/submissions/never")["status"] == "canceled"

    server.ask("POST", "/searches/first/resume", {"budget": 5})
    wait_for(lambda: server.trials("first") >= 3, 180, told=server.log.read_text, pause=0.1)
    server.ask("POST", "/searches/first/cancel")
    assert server.wait("first", "canceled")["error"] is None
    assert server.ask("GET", "/searches/first")["status"] == "interrupted"
    second = forked.run(["serve"], server.environment, 60)
    assert (second.returncode, second.stderr) == (
        2,
        "error: another server works on this catalog already: stop it first, or choose another --home\n",
    )
    server.end(signal.SIGINT)

    shown = server.say("show", "first", "--json") + server.say("list") + server.say("token", "list")
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert (server.log in written) and any(file.parent.name == "logs" for file in written)
    for secret in (PASSWORD, server.token):
        assert secret not in shown
        for file in written:
            assert secret.encode() not in file.read_bytes(), file


def test_a_search_keeps_its_command_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.argv", ["/x/search/__main__.py", "run", "--storage", f"postgresql://me:{PASSWORD}@db/search"]
    )
    facts = prepare(SearchSpec(validation_rows=4, test_rows=4, workers=1)).facts
    assert facts["command"] == "python -m search run --storage postgresql://***@db/search"


@pytest.mark.parametrize(
    "storage",
    [
        f"postgresql://me:{PASSWORD}@127.0.0.1:1/search",
        f"postgresql://me@127.0.0.1:1/search?password={PASSWORD}",
        f"mysql://me:{PASSWORD}@db/search",
        f"nonsense//me:{PASSWORD}@db",
    ],
)
def test_an_error_names_no_password(storage: str, tmp_path: Path) -> None:
    done = call("list", "--storage", storage, "--home", str(tmp_path), code=2)
    assert PASSWORD not in done.stderr + done.stdout


def test_nor_does_one_about_mlflow(tmp_path: Path) -> None:
    uri = f"ftp://me:{PASSWORD}@host"
    done = call("run", "--budget", "1", "--workers", "1", "--tracking-uri", uri, "--home", str(tmp_path), code=2)
    assert PASSWORD not in done.stderr + done.stdout


def test_a_server_with_a_default_password_does_not_start(tmp_path: Path) -> None:
    storage = "postgresql://postgres:postgres@127.0.0.1:1/search"
    done = call("serve", "--storage", storage, "--home", str(tmp_path), code=2)
    assert done.stderr == (
        "error: --storage has a default password: set another, such as `python -m search env` makes\n"
    )
    done = call("serve", "--allow", str(tmp_path / "gone"), "--home", str(tmp_path), code=2)
    assert done.stderr == f"error: --allow {tmp_path / 'gone'} is no folder: give one that models or data lie in\n"

"""Runs what was submitted: each search a process of its own, so many at once, the others wait in the catalog."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from objectives.errors import RequestError, SearchError
from objectives.secrets import redacted
from search.catalog.store import Catalog
from search.catalog.submissions import SubmissionRecord, move, submission, submissions
from search.home import Home
from search.spec import CHANGEABLE

POLL_S = 0.5
#: For a search to end in order; what takes longer is killed, and resumed like anything that was killed.
PATIENCE_S = 50.0

_log = logging.getLogger(__name__)


class Supervisor:
    """Owns the processes of the searches. One at a time on a catalog; may be called from any thread."""

    def __init__(self, catalog: Catalog, home: Home, at_once: int) -> None:
        self._catalog = catalog
        self._home = home
        self._at_once = at_once
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._canceled: set[str] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begins with what an earlier server left: the searches that it had been running go on first."""
        for left in submissions(self._catalog, "running"):
            move(self._catalog, left.name, "running", "queued")
        self._thread.start()

    def notify(self) -> None:
        """Something was submitted: look at once."""
        self._wake.set()

    def cancel(self, name: str) -> bool:
        """Whether a submission of that name was queued or running; it ends as Ctrl-C would end it.

        Raises RequestError where a process that an earlier server left is still at it.
        """
        with self._lock:
            if child := self._children.get(name):
                self._canceled.add(name)
                child.send_signal(signal.SIGINT)
                return True
            left = submission(self._catalog, name)
            begun = left is not None and left.status == "queued" and left.started_at is not None
            if begun and (holder := self._holder(name)):
                raise RequestError(
                    f"search {name} is being run by {holder}, which an earlier server began: end that process"
                )
            return move(self._catalog, name, "queued", "canceled")

    def _holder(self, name: str) -> str | None:
        known = self._ids()
        return self._catalog.holder(known[name]) if name in known else None

    def _ids(self) -> dict[str, str]:
        return {search.name: search.id for search in self._catalog.searches()}

    def stop(self) -> None:
        """Interrupts what runs. The catalog keeps it as running, so the next server resumes it."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        with self._lock:
            for child in self._children.values():
                child.send_signal(signal.SIGINT)
            for child in self._children.values():
                try:
                    child.wait(PATIENCE_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
            for name in self._canceled & self._children.keys():
                move(self._catalog, name, "running", "canceled")

    def _work(self) -> None:
        while not self._stopping:
            try:
                with self._lock:
                    self._reap()
                    self._launch()
            except SearchError as error:  # the database is away: children go on, and so does the loop
                _log.warning("%s", error)
            self._wake.wait(POLL_S)
            self._wake.clear()

    def _reap(self) -> None:
        for name, child in list(self._children.items()):
            code = child.poll()
            if code is None:
                continue
            if code == 0:
                move(self._catalog, name, "running", "ended")
            elif code == 130 or name in self._canceled:
                move(self._catalog, name, "running", "canceled")
            else:
                move(self._catalog, name, "running", "failed", _last_words(self._log_of(name), code))
            # Only now: where the catalog refused, the next turn says it again.
            del self._children[name]
            self._canceled.discard(name)
            _log.info("search %s: exit code %d", name, code)

    def _launch(self) -> None:
        for waiting in submissions(self._catalog, "queued"):
            if len(self._children) >= self._at_once:
                return
            known = self._ids()
            # Begun before a restart of the server, it is a search by now, and is resumed.
            goes_on = waiting.name in known and (waiting.kind == "resume" or waiting.started_at is not None)
            if goes_on and self._catalog.holder(known[waiting.name]):
                continue  # a process of an earlier server, or of the command line, is still at it
            if move(self._catalog, waiting.name, "queued", "running"):
                try:
                    self._children[waiting.name] = self._run(waiting, goes_on)
                except OSError as error:
                    reason = f"cannot be started ({error.strerror}: {error.filename})"
                    move(self._catalog, waiting.name, "running", "failed", reason)
                    _log.warning("search %s: %s", waiting.name, reason)

    def _run(self, asked: SubmissionRecord, goes_on: bool) -> subprocess.Popen[bytes]:
        settings = dict(asked.settings)
        if goes_on:
            kept = {key: settings[key] for key in CHANGEABLE if settings.get(key) is not None}
            arguments = ["resume", asked.name, *flags(kept)]
        else:
            arguments = ["run", *flags(settings | {"name": asked.name})]
        environment = os.environ | self._home.environment() | {"HF_HUB_OFFLINE": "1"}
        log = self._log_of(asked.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        _log.info("search %s: %s, asked for by %s", asked.name, arguments[0], asked.token)
        with log.open("ab") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "search", *arguments, "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env=environment,
                start_new_session=True,  # Ctrl-C at the server's terminal is the server's to pass on
            )

    def _log_of(self, name: str) -> Path:
        return self._home.folder / "logs" / f"{name}.log"


def flags(settings: Mapping[str, Any]) -> list[str]:
    """As ``run`` takes them; a value can never be taken for a flag of its own."""
    given = []
    for key, value in settings.items():
        flag = "--" + key.replace("_", "-")
        if value is True:
            given.append(flag)
        elif value is not None and value is not False:
            given.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}")
    return given


def _last_words(log: Path, code: int) -> str:
    """The sentence with which a command of ours ended, without what a URL may carry."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - 8192))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"it ended with exit code {code}, and {log.name} on the server cannot be read ({error.strerror})"
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return redacted(said[-1]) if said and code > 0 else f"it ended with exit code {code}: see {log.name} on the server"

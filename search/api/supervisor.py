"""Runs what was submitted: each search a process of its own, so many at once, the others wait in the catalog."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.errors import Interrupted, LeaseLost, RequestError, SearchError, StoreError
from search.catalog.connect import refuse_if_gone
from search.catalog.store import Catalog
from search.catalog.submissions import SubmissionRecord, move, submission, submissions
from search.children import is_at_work, last_words, size_of, spawn
from search.home import Home
from search.spec import CHANGEABLE

POLL_S = 0.5
#: For all searches together to end in order, since who ends this process waits for no longer (docker-compose.yml); what
#: takes longer is killed, and resumed like anything that was killed.
PATIENCE_S = 50.0

_log = logging.getLogger(__name__)


@dataclass
class _Child:
    """`again`: the ``run`` of a submission that an earlier server had begun; `heard`: the log's size before it."""

    process: subprocess.Popen[bytes]
    again: bool
    heard: int
    canceled: bool = False


class Supervisor:
    """Owns the processes of the searches. One at a time on a catalog; may be called from any thread."""

    def __init__(
        self,
        catalog: Catalog,
        home: Home,
        at_once: int,
        *,
        check: Callable[[], None] = lambda: None,
        at_loss: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called before anything is begun, by the thread that begins it. If it raises LeaseLost, there is
        another one on this catalog: this one interrupts its searches, keeps the error as `lost` and calls `at_loss`.
        """
        self.lost: LeaseLost | None = None
        self._check, self._at_loss = check, at_loss
        self._catalog = catalog
        self._home = home
        self._at_once = at_once
        self._children: dict[str, _Child] = {}
        #: Around the children and the submissions' statuses, so that none is begun unseen.
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
        if self._interrupt(name):
            return True
        left = submission(self._catalog, name)
        begun = left is not None and left.status == "queued" and left.started_at is not None
        if begun and (holder := self._catalog.holder_of(name)):
            raise RequestError(
                f"search {name} is being run by {holder}, which an earlier server began: end that process"
            )
        # Or it was begun a moment ago.
        return move(self._catalog, name, "queued", "canceled") or self._interrupt(name)

    def _interrupt(self, name: str) -> bool:
        with self._lock:
            if child := self._children.get(name):
                child.canceled = True
                child.process.send_signal(signal.SIGINT)
            return child is not None

    def stop(self) -> None:
        """Interrupts what runs. The catalog keeps it as running, so the next server resumes it."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        said: str | None = None
        try:
            while not self._stopping:
                try:
                    self._check()
                    self._reap()
                    refuse_if_gone(self._home.storage)
                    self._launch()
                    said = None
                except LeaseLost as error:
                    self.lost = error
                    self._at_loss()
                    return
                except Exception as error:  # the database is away, or a fault of ours: children go on, and so does this
                    if repr(error) != said:  # once, not with every turn
                        _log.warning("%s", error, exc_info=None if isinstance(error, SearchError) else error)
                    said = repr(error)
                self._wake.wait(POLL_S)
                self._wake.clear()
        finally:
            self._end_children()  # by the thread that began them, see children.py

    def _end_children(self) -> None:
        with self._lock:
            for child in self._children.values():
                child.process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + PATIENCE_S
            for child in self._children.values():
                try:
                    child.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()
            for name, child in self._children.items():
                if child.canceled:
                    with contextlib.suppress(StoreError):  # the next server resumes it
                        move(self._catalog, name, "running", "canceled")

    def _reap(self) -> None:
        for name, child in list(self._children.items()):
            code = child.process.poll()
            if code is None:
                continue
            # As the process of an earlier server made the search while this one was starting up.
            met = child.again and code == RequestError.exit_code and self._catalog.find(name) is not None
            with self._lock:
                if code == 0:
                    move(self._catalog, name, "running", "ended")
                elif code == Interrupted.exit_code or child.canceled:
                    move(self._catalog, name, "running", "canceled")
                elif met:
                    move(self._catalog, name, "running", "queued")
                else:
                    move(self._catalog, name, "running", "failed", last_words(self._log_of(name), child.heard, code))
                # Only now: where the catalog refused, the next turn says it again.
                del self._children[name]
            _log.info("search %s: exit code %d", name, code)

    def _launch(self) -> None:
        for waiting in submissions(self._catalog, "queued"):
            if self._stopping or len(self._children) >= self._at_once:
                return
            begun = waiting.started_at is not None
            if begun and is_at_work(self._log_of(waiting.name)):
                continue  # a process of an earlier server is coming to its end
            search = self._catalog.find(waiting.name)
            # Begun before a restart of the server, it is a search by now, and is resumed.
            goes_on = search is not None and (waiting.kind == "resume" or begun)
            if search is not None and goes_on and self._catalog.holder(search.id):
                continue  # a process of an earlier server, or of the command line, is still at it
            with self._lock:
                self._check()  # the catalog may have been away since the last time
                if not move(self._catalog, waiting.name, "queued", "running"):
                    continue
                try:
                    self._children[waiting.name] = self._begin(waiting, goes_on)
                except Exception as error:
                    why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else repr(error)
                    reason = f"cannot be started ({why})"
                    move(self._catalog, waiting.name, "running", "failed", reason)
                    _log.warning("search %s: %s", waiting.name, reason, exc_info=not isinstance(error, OSError))

    def _begin(self, asked: SubmissionRecord, goes_on: bool) -> _Child:
        settings = dict(asked.settings)
        if goes_on:
            kept = {key: settings[key] for key in CHANGEABLE if settings.get(key) is not None}
            arguments = ["resume", asked.name, *flags(kept)]
        else:
            arguments = ["run", *flags(settings | {"name": asked.name})]
        environment = os.environ | self._home.environment() | {"HF_HUB_OFFLINE": "1"}
        log = self._log_of(asked.name)
        _log.info("search %s: %s, asked for by %s", asked.name, arguments[0], asked.token)
        heard = size_of(log)
        place = ["--home", str(self._home.folder)]
        process = spawn([sys.executable, "-m", "search", *arguments, *place, "--json"], log, environment)
        return _Child(process, again=asked.started_at is not None and not goes_on, heard=heard)

    def _log_of(self, name: str) -> Path:
        return self._home.api_logs / f"{name}.log"


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

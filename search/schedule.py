"""The daemon: a child for every night that is due, or that a dead daemon left, and the history of all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from objectives.errors import RequestError, StoreError
from search.catalog import schedules
from search.catalog.champions import decided_in
from search.catalog.connect import refuse_if_gone
from search.catalog.records import NightRecord, ScheduleRecord
from search.catalog.store import Catalog
from search.children import last_words, size_of, spawn
from search.notify import notify

#: A daemon that has not been heard of for so many seconds is dead.
LEASE_S = 60.0
#: For webhooks to take what they are told when the daemon ends.
LAST_WORDS_S = 10.0

#: The command of a night; of one to go on with, if the last argument is true.
Command = Callable[[ScheduleRecord, NightRecord, bool], list[str]]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class _Child:
    """`heard`: the size of its log before it."""

    night: NightRecord
    heard: int
    process: subprocess.Popen[bytes]
    told_to_end: bool = False


class Daemon:
    """Any number may run on one catalog, on one machine or several that share the home."""

    def __init__(
        self,
        catalog: Catalog,
        logs: Path,
        command: Command,
        *,
        environment: Mapping[str, str] = MappingProxyType({}),
        now: Callable[[], datetime] = utc_now,
        poll_s: float = 5.0,
        lease_s: float = LEASE_S,
    ) -> None:
        """Nights have `environment` beside the daemon's own. `now` says when ticks are due; whether a daemon lives is
        measured on the database's clock.
        """
        self._catalog, self._logs, self._command, self._now = catalog, logs, command, now
        self._environment = {**os.environ, **environment}
        self._poll_s, self._lease_s = poll_s, lease_s
        self._owner = uuid.uuid4().hex
        self._children: list[_Child] = []
        self._telling: list[threading.Thread] = []  # webhooks
        self._complaints: set[str] = set()  # of schedules, which are said once
        self._stop = threading.Event()

    def run(self) -> None:
        """Until SIGTERM or SIGINT, which are passed on to the nights; another daemon goes on with those.

        A database that is away is waited for: it is said once, and nights go on meanwhile.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        try:
            self._logs.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise RequestError(
                f"{self._logs}, for what nights say, is no folder: move it away, or choose another --home"
            ) from error
        except OSError as error:
            raise RequestError(
                f"{self._logs}, for what nights say, cannot be made ({error.strerror}): choose another --home"
            ) from error
        try:
            away = False
            while not self._stop.is_set():
                try:
                    self._look_after_children()
                    self._start_what_is_due()
                    away = False
                except StoreError as error:
                    if not away:
                        print(f"error: {error} The daemon goes on when it is back.", file=sys.stderr, flush=True)
                    away = True
                self._stop.wait(self._poll_s)
        finally:
            self._end_children()

    def _start_what_is_due(self) -> None:
        refuse_if_gone(self._catalog.url)
        known = {schedule.name: schedule for schedule in schedules.all_schedules(self._catalog)}
        while (night := schedules.adopt(self._catalog, self._owner, self._lease_s)) is not None:
            if night.schedule in known:
                self._start(known[night.schedule], night, again=True)
        for schedule in known.values():
            now = self._now()
            if schedule.paused or schedule.next_at > now:
                continue  # a claim writes, and of hundreds of schedules few are due
            try:
                night = schedules.claim(self._catalog, schedule.name, self._owner, now)
            except StoreError:
                raise
            except RequestError as error:  # as where this machine's time zones are older; other schedules go on
                self._complain(f"schedule {schedule.name} runs no night here: {error}")
                continue
            if night is not None:
                self._start(schedule, night, again=False)

    def _complain(self, sentence: str) -> None:
        if sentence not in self._complaints:
            print(f"error: {sentence}", file=sys.stderr, flush=True)
        self._complaints.add(sentence)

    def _start(self, schedule: ScheduleRecord, night: NightRecord, *, again: bool) -> None:
        command = self._command(schedule, night, again)
        log = self._log_of(night)
        try:
            heard = size_of(log)
            process = spawn(command, log, self._environment, schedule.folder)
        except OSError as error:
            reason = f"failed: cannot be started ({error.strerror}: {error.filename})"
            self._end(night, reason, None, None)
            return
        self._children.append(_Child(night, heard, process))

    def _look_after_children(self) -> None:
        for child in list(self._children):
            code = child.process.poll()
            if code is not None:
                if code != 0 and self._catalog.holder_of(child.night.search):
                    # Somebody else is at it, who began while this one started.
                    schedules.give_back(self._catalog, child.night)
                else:
                    self._record(child, code)
                self._children.remove(child)  # only now: where the database is away, the next turn records it
            elif not schedules.heartbeat(self._catalog, child.night) and not child.told_to_end:
                child.process.terminate()
                child.told_to_end = True

    def _log_of(self, night: NightRecord) -> Path:
        return self._logs / f"{night.search}.log"

    def _record(self, child: _Child, code: int) -> None:
        night = child.night
        search = self._catalog.find(night.search)
        steps = None if search is None else sum(trial.steps for trial in self._catalog.trials(search.id))
        seconds = None if search is None else search.elapsed_s
        result = "complete" if code == 0 else f"failed: {last_words(self._log_of(night), child.heard, code)}"
        decided = None if search is None else decided_in(self._catalog, search.id)
        self._end(night, result, seconds, steps, "" if decided is None else f"; {decided.why}")

    def _end(self, night: NightRecord, result: str, seconds: float | None, steps: int | None, more: str = "") -> None:
        """Records it and tells the schedule's webhook, unless another daemon has taken the night over."""
        if not schedules.end_night(self._catalog, night, result, self._now(), seconds, steps):
            return
        text = f"{night.search}: {result}"
        text += "" if seconds is None else f"; {seconds:.0f} s, {steps} steps"
        text += more
        for schedule in schedules.all_schedules(self._catalog):
            if schedule.name == night.schedule and schedule.notify is not None:
                # Beside the loop: a server that is down must not cost heartbeats, nor the daemon's end.
                telling = threading.Thread(target=notify, args=(schedule.notify, text), name=night.search, daemon=True)
                telling.start()
                self._telling = [*(each for each in self._telling if each.is_alive()), telling]

    def _end_children(self) -> None:
        for child in self._children:
            child.process.terminate()
        while self._children:
            for child in list(self._children):
                with contextlib.suppress(StoreError):  # its heartbeat ends then, and another daemon goes on with it
                    if (code := child.process.poll()) is None:
                        schedules.heartbeat(self._catalog, child.night)
                    elif code == 0:
                        self._record(child, 0)
                    else:
                        schedules.give_back(self._catalog, child.night)
            self._children = [child for child in self._children if child.process.returncode is None]
            if self._children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._children[0].process.wait(self._lease_s / 4)
        end = time.monotonic() + LAST_WORDS_S
        for telling in self._telling:
            telling.join(max(0.0, end - time.monotonic()))
            if telling.is_alive():
                print(
                    f"a notification was not delivered: how {telling.name} ended, since the webhook did not take it "
                    "before the daemon ended: check --notify of the schedule; its history has the result",
                    file=sys.stderr,
                    flush=True,
                )

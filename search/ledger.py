"""The trials of one search, kept alike in the catalog, in the study and in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from objectives.errors import counted
from objectives.placement import Placement
from search.catalog.store import Catalog
from search.study import Study
from search.trials import Trial, Trials


class Ledger:
    """What begins, stops, goes on or ends is written here in all three: in the catalog first (one transaction), then in
    the study. A process that dies in between is mended by :meth:`reconcile` of the next one.
    """

    def __init__(self, catalog: Catalog, study: Study, search_id: str, references: Mapping[Placement, str]) -> None:
        self._catalog = catalog
        self._study = study
        self._id = search_id
        self._references = references
        self.trials = Trials()

    def reconcile(self, retries: int) -> list[int]:
        """Bring catalog and study into agreement after any interruption; numbers of the trials that are to run again.

        One has failed whose processes have died more than ``retries`` times.
        """
        again = []
        open_trials = dict(self._study.unfinished())
        for record in self._catalog.trials(self._id):
            number, measurement = record.number, record.measurement or {}
            trial = self.trials[number] = Trial(record.placement, record.steps, measurement.get("latency"))
            if record.status == "running":
                # An owner that ended in order has put its trials back, without a lease.
                died = record.lease is not None
                if (deaths := record.attempts - 1 + died) > retries:
                    times = counted(deaths, "time")
                    self.fail(number, f"interrupted {times}: the process that ran the search died each time")
                else:
                    self.restart(number, died=died)
                    again.append(number)
            elif record.status == "stopped" and number in open_trials:
                self._catalog.take_up(self._id, number)
                self._may_go_on(number, measurement)
            else:
                if record.status == "complete" and measurement and record.adapter:
                    trial.complete(measurement, record.adapter)
                trial.ended = record.status
                if number in open_trials:  # measured, not told
                    self._study.tell(number, record.status, measurement)
        for number, placement in open_trials.items():  # asked, not in the catalog
            if number not in self.trials:
                self._add(number, placement)
                again.append(number)
        return again

    def begin(self) -> int | None:
        """A new trial; None if every placement that is allowed has been tried."""
        if (asked := self._study.ask()) is not None:
            self._add(*asked)
        return asked and asked[0]

    def _add(self, number: int, placement: Placement) -> None:
        self._catalog.add_trial(self._id, number, placement, self._references.get(placement))
        self.trials[number] = Trial(placement)

    def stop(self, number: int, measurement: dict[str, Any], steps: int) -> bool:
        """On the way, after so many steps; False if the trial had ended before."""
        self._is_back(number, steps)
        if stopped := self._catalog.stop(self._id, number, measurement, steps):
            self._may_go_on(number, measurement)
        return stopped

    def _may_go_on(self, number: int, measurement: dict[str, Any]) -> None:
        trial = self.trials[number]
        trial.stopped, trial.latency = measurement, measurement["latency"]
        self._study.stopped(number, measurement)

    def go_on(self, number: int) -> None:
        """A trial that stopped runs again."""
        self._catalog.go_on(self._id, number)
        self.trials[number].stopped = None

    def give_up(self, number: int, reason: str, *, for_good: bool) -> None:
        """A trial that stopped stays as it is. Unless ``for_good`` the study keeps it open: a resumed search may go on
        with it."""
        measurement = self.trials[number].stopped or {}
        self._catalog.give_up(self._id, number, reason)
        if for_good:
            self._study.tell(number, "stopped", measurement)
        self.trials[number].stopped, self.trials[number].ended = None, "stopped"

    def end(self, number: int, outcome: Mapping[str, Any]) -> bool:
        """By the ``outcome`` that a worker returned; False if the trial had ended before."""
        status, measurement, steps = outcome["status"], outcome["measurement"], outcome["steps"]
        self._is_back(number, steps)
        recorded = self._catalog.record(
            self._id,
            number,
            status,
            reason=outcome["reason"],
            measurement=measurement,
            steps=steps,
            adapter=outcome.get("adapter"),
            adapter_sha256=outcome.get("adapter_sha256"),
        )
        if recorded:
            self._study.tell(number, status, measurement)
            if status == "complete":
                self.trials[number].complete(measurement, outcome["adapter"])
            self.trials[number].ended = status
        return recorded

    def fail(self, number: int, reason: str) -> bool:
        """After the steps that it had made; False if the trial had ended before."""
        spent = self.trials[number].steps
        self._is_back(number, spent)
        if recorded := self._catalog.record(self._id, number, "failed", reason=reason, measurement=None, steps=spent):
            self._study.tell(number, "failed", {})
            self.trials[number].ended = "failed"
        return recorded

    def restart(self, number: int, *, died: bool) -> None:
        """A trial is to be run again from where it was; ``died``: one process more has died of it."""
        self._catalog.restart(self._id, number, died=died)

    def _is_back(self, number: int, steps: int) -> None:
        self.trials[number].is_running, self.trials[number].steps = False, steps

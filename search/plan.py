"""What one search does next, and what it keeps: base model, trials up to the budget, then the test split."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from cluster.jobs import Job
from objectives.errors import SearchError, counted
from objectives.latency.context import profile_key
from objectives.placement import BASE, Placement
from search.catalog.profiles import good_profile, store_profile
from search.catalog.store import Catalog
from search.ledger import Ledger
from search.served import ServedProfiles
from search.strategy.additive_sampler import NOTABLE
from search.study import Study
from search.trials import Trial
from search.watcher import Standing, Watcher


class SearchPlan:
    """The state of one search between its jobs; everything that matters is in the catalog when a method returns."""

    def __init__(
        self,
        catalog: Catalog,
        study: Study,
        search_id: str,
        *,
        budget: int,
        references: Mapping[Placement, str],
        watcher: Watcher,
        steps: int = 1,
        pack: int = 1,
        settle: bool = True,
        retries: int = 2,
        deadline: float | None = None,
        check: Callable[[], None] = lambda: None,
        served: ServedProfiles | None = None,
        champion: Placement | None = None,
        baseline: Placement | None = None,
    ) -> None:
        """``steps`` is what a whole training takes, ``pack`` how many trials one job has at most.

        ``settle``: end before the budget is used up if that is settled.

        What a process died of is done again at most ``retries`` times; then a trial has failed, and all else ends the
        search.

        ``deadline`` is on :func:`time.monotonic`; after it no trial is chosen any more, to begin or to go on, but for
        one where none has come to its end. Of packs, those that were chosen and wait for a worker are still trained.

        ``check`` is asked before each job, and what it raises ends the search. ``served`` gives the latency of adapters
        that will run on a server; without it workers measure it themselves.

        The ``champion`` of earlier searches, if it is tried, is measured anew: on the test split, and its latency where
        workers measure that; a server's profile of its class is kept as all others are. The ``baseline`` is read on the
        test split as well.
        """
        self._catalog = catalog
        self._study = study
        self._id = search_id
        self._budget = budget
        self._watcher = watcher
        self._steps = steps
        self._pack = pack
        self._settle = settle
        self._retries = retries
        self._deadline = deadline
        self._check = check
        self._served = served
        self._champion, self._baseline = champion, baseline
        self._ledger = Ledger(catalog, study, search_id, references)
        self._trials = self._ledger.trials
        self._again: list[int] = []  # trials of a process that died, to be run once more
        self._waiting: list[Job] = []  # trials that are chosen, and wait for a worker
        self._lost: list[Job] = []  # whose worker died, to be done once more
        self._died: Counter[tuple[str, int | None]] = Counter()  # workers, by job; trials have theirs in the catalog
        self._base: dict[str, Any] | None = None
        self._base_given_out = False
        self._trials_over = False
        self._stops_early = True  # by the last decision
        self._late = False  # the deadline was over then
        self._untested: list[int | None] | None = None  # None until the front is known
        self._in_flight = 0
        self.ended_by: str | None = None  # why there are fewer trials than the budget

    def reconcile(self) -> None:
        """Bring catalog and study into agreement after any interruption, and take up what was in flight."""
        self._base = self._catalog.search_of(self._id).base
        self._base_given_out = self._base is not None
        self._again = self._ledger.reconcile(self._retries)
        self._watcher.stands(self._standing())

    def next(self) -> Job | None:
        self._check()
        if not self._base_given_out:
            self._base_given_out = True
            self._watcher.phase("measuring the base model")
            return self._out(Job("base", profile=self._served.of(BASE) if self._served else None))
        if self._lost:
            return self._out(self._lost.pop(0))
        if self._base is None and any(trial.ended == "failed" for trial in self._trials.values()):
            return None  # the base model may do so too, which ends the search: it costs no more trials until then
        if not self._trials_over and (job := self._next_pack()) is not None:
            return self._out(job)
        if self._in_flight:
            return None
        if not self._trials_over:
            self._trials_over = True
            self._give_up()
            self._watcher.stands(self._standing())
        if self._untested is None:
            self._untested = self._to_test()
            if self._untested:
                self._watcher.phase(f"reading the test split for {counted(len(self._untested), 'model')}")
        if self._untested:
            number = self._untested.pop(0)
            return self._out(Job("test", number, adapter=None if number is None else self._trials[number].adapter))
        return None

    def done(self) -> bool:
        return self._trials_over and not self._in_flight and self._untested == []

    def _out(self, job: Job) -> Job:
        # Test jobs run side by side: only the trials before them must all be back.
        self._in_flight += len(job.parts) if job.kind != "test" else 0
        return job

    def _next_pack(self) -> Job | None:
        """Trials that go from the same step to the same, as many as are chosen; they are chosen as side by side."""
        while len(self._waiting) < self._pack and (chosen := self._next_trial()) is not None:
            self._waiting.append(chosen)
        if not self._waiting:
            return None

        def way(job: Job) -> tuple[int, int | None]:
            assert job.number is not None
            return self._trials[job.number].steps, job.until

        ((commonest, _),) = Counter(map(way, self._waiting)).most_common(1)
        alike = [job for job in self._waiting if way(job) == commonest]
        self._waiting = [job for job in self._waiting if way(job) != commonest]
        return alike[0] if len(alike) == 1 else Job("pack", trials=tuple(alike))

    def _next_trial(self) -> Job | None:
        chosen = (self._again.pop(0), self._study.stops_early) if self._again else self._choose()
        if chosen is None:
            return None
        number, early = chosen
        trial = self._trials[number]
        trial.is_running = True
        self._watcher.stands(self._standing())
        self._watcher.trial_started(number, trial.placement.label)
        until = self._study.until(number, early)
        return Job("trial", number, trial.placement, profile=self._known_profile(trial), until=until)

    def _choose(self) -> tuple[int, bool] | None:
        """A trial to begin or to go on with, and whether it may stop early; None, and why, if there is none."""
        self.ended_by = None
        self._late = self._deadline is not None and time.monotonic() > self._deadline
        begun = len(self._trials)
        may_begin = begun < self._budget
        if self._late:
            if may_begin or self._trials.stopped():
                self.ended_by = f"--max-hours is over after {begun} of {self._budget} trials"
            return self._one_at_least()
        running = self._trials.running()
        decision = self._study.decide(running, may_begin, self._settle)
        if decision.action == "begin":
            if (number := self._ledger.begin()) is not None:
                self._stops_early = decision.early
                return number, decision.early
            self.ended_by = (
                f"every placement that is allowed has been tried after {counted(begun, 'trial')}: the budget of "
                f"{self._budget} was not needed"
            )
            decision = self._study.decide(running, False, self._settle)
        elif decision.action == "settled" and may_begin:
            self.ended_by = (
                f"settled after {begun} of {self._budget} trials: the probability that any one more of them raises the "
                f"front by {NOTABLE:.0%} is {decision.chance:.0%}; several together may"
            )
        self._stops_early = decision.early
        if decision.number is None:
            return None
        self._ledger.go_on(decision.number)
        return decision.number, decision.early

    def _one_at_least(self) -> tuple[int, bool] | None:
        """When time is over and no trial has come to its end: the one that is nearest to it, and then the best."""
        if not self._trials and (first := self._ledger.begin()) is not None:  # the base model took all the time
            return first, False
        last = {number: measurement["losses"][-1] for number, measurement in self._trials.stopped().items()}
        if self._trials.points() or self._trials.running() or not last:
            return None
        nearest = min(last, key=lambda number: (-last[number][0], last[number][1]))
        self._ledger.go_on(nearest)
        return nearest, False

    def _give_up(self) -> None:
        """What stopped on the way stays as it is: no step more of it was worth its cost.

        Where time was over that is not known: a search that is resumed may go on with it.
        """
        why = ", when --max-hours was over" if self._late else ", since others were expected to add more to the front"
        for number, measurement in self._trials.stopped().items():
            reason = f"{self._where(number)}{why}"
            self._ledger.give_up(number, reason, for_good=not self._late)
            self._report(number, "stopped", measurement, reason)

    def _known_profile(self, trial: Trial) -> Mapping[str, Any] | None:
        if trial.latency:  # which it keeps, the champion too
            return trial.latency
        if self._served:
            return self._served.of(trial.placement)
        if self._base is None or trial.placement == self._champion:
            return None
        return good_profile(self._catalog, profile_key(self._base["latency_context"], trial.placement.name))

    def _to_test(self) -> list[int | None]:
        """Front members, base model, champion and baseline, as far as they have no figures on the test split yet."""
        if not (members := self._trials.front()):
            return []
        tested = {t.number for t in self._catalog.trials(self._id) if t.test is not None}
        named = [n for n in self._trials.points() if self._trials[n].placement in (self._champion, self._baseline)]
        base: list[int | None] = [] if self._base and "test" in self._base else [None]
        return base + [number for number in dict.fromkeys(members + named) if number not in tested]

    def finished(self, job: Job, outcome: Mapping[str, Any]) -> None:
        if job.kind == "test":
            self._catalog.record_test(self._id, job.number, dict(outcome))
            return
        self._in_flight -= 1
        if job.kind == "base":
            self._base = dict(outcome)
            self._catalog.set_base(self._id, self._base)
            self._watcher.stands(self._standing())
            return
        assert job.number is not None
        assert job.placement is not None
        if outcome["status"] != "stopped":
            if self._ledger.end(job.number, outcome):
                self._keep_profile(job.placement, outcome)
                self._report(job.number, outcome["status"], outcome["measurement"], outcome["reason"])
        elif self._ledger.stop(job.number, outcome["measurement"], outcome["steps"]):
            self._keep_profile(job.placement, outcome)
            self._watcher.stands(self._standing())
            self._watcher.trial_stopped(job.number, job.placement.label, self._where(job.number))

    def lost(self, job: Job, reason: str) -> None:
        if (deaths := self._deaths(job)) <= self._retries:
            self._do_again(job, reason, died=True)
            return
        times = f"{reason}: {deaths} times" if deaths > 1 else reason
        if job.kind != "trial":
            remedy = "check the GPU" if "GPU" in reason else "free memory"
            raise SearchError(f"{times}, while {self._doing(job)}: {remedy}, then resume the search")
        self.failed(job, times)

    def _do_again(self, job: Job, reason: str, *, died: bool) -> None:
        """Alone, where it was one of a pack; ``died``: its process, of which a trial may lose so many."""
        self._in_flight -= job.kind != "test"
        self._lost.append(job)
        if job.kind == "trial" and job.number is not None:
            self._ledger.restart(job.number, died=died)
        self._watcher.note(f"{reason}, while {self._doing(job)}: it is done again")

    def _doing(self, job: Job) -> str:
        if job.kind == "trial" and job.number is not None:
            return f"{self._trials[job.number].placement.label} was tried"
        return {"base": "the base model was measured", "test": "the test split was read"}[job.kind]

    def _deaths(self, job: Job) -> int:
        """How many processes that did the job have died."""
        if job.kind == "trial" and job.number is not None:
            return self._catalog.trial(self._id, job.number).attempts
        self._died[job.kind, job.number] += 1
        return self._died[job.kind, job.number]

    def failed(self, job: Job, reason: str) -> None:
        if job.trials:  # no process died of it, so that it is not among the --retries
            for part in job.trials:
                self._do_again(part, reason, died=False)
            return
        assert job.number is not None
        self._in_flight -= 1
        if self._ledger.fail(job.number, reason):
            self._report(job.number, "failed", {}, reason)

    def _keep_profile(self, placement: Placement, outcome: Mapping[str, Any]) -> None:
        # Under the context of the worker that measured it: a search that goes on elsewhere has other than its base's.
        if (context := outcome.get("latency_context")) is not None:
            store_profile(self._catalog, profile_key(context, placement.name), outcome["measurement"]["latency"])

    def _report(self, number: int, status: str, measurement: Mapping[str, Any], reason: str | None) -> None:
        self._watcher.stands(self._standing())
        accuracy, ratio = measurement.get("validation", {}).get("accuracy"), measurement.get("latency", {}).get("ratio")
        self._watcher.trial_finished(number, self._trials[number].placement.label, status, accuracy, ratio, reason)

    def _where(self, number: int) -> str:
        return f"at {self._trials[number].steps} of {self._steps} steps"

    def _standing(self) -> Standing:
        trials, points, members = self._trials.values(), self._trials.points(), self._trials.front()
        steps = sum(trial.steps for trial in trials)
        left = sum(self._steps - trial.steps for trial in trials if trial.ended is None)
        left += max(0, self._budget - len(trials)) * self._steps
        if self._stops_early and self._study.ceiling is not None:
            left = max(0, min(left, self._study.ceiling - steps))
        return Standing(
            base=(self._base or {}).get("validation", {}).get("accuracy"),
            front=[(self._trials[number].placement.label, *points.pop(number)) for number in members],
            dominated=list(points.values()),
            ended=Counter(trial.ended for trial in trials if trial.ended is not None),
            begun=len(trials),
            stopped=len(self._trials.stopped()),
            stops_early=self._study.stops_early,
            steps=steps,
            steps_left=0 if self._trials_over else left,
        )

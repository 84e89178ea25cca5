"""The Optuna study of one search: ask for a placement, tell what it was worth."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import ThreadpoolController

from objectives.placement import Placement
from search.catalog.connect import clear_errors, parse
from search.catalog.records import TrialRecord
from search.series import Known
from search.stored_study import StoredStudy, opened
from search.strategy.additive_sampler import COURSE, RATIO, Decision
from search.strategy.fidelity import course, rungs
from search.strategy.sampler import make_sampler
from search.strategy.space import PlacementSpace
from search.strategy.tried import KNOWN

#: Feasible at 0 and below: by how much the latency ratio exceeds its cap.
CONSTRAINT = "latency_ratio"


def open_trials(url: str, search_id: str) -> set[int]:
    """Numbers of the trials that are not closed in the study, if there is one. Raises StoreError."""
    with clear_errors(parse(url)), contextlib.suppress(KeyError), opened(url, search_id) as study:
        return {trial.number for trial in study.get_trials(deepcopy=False) if not trial.state.is_finished()}
    return set()


class Study:
    """One trial of the study for each placement, told at most once.

    For the owner of the search: samplers work on trials in memory, which are read once and written through, and the
    numbers are the database's and the catalog's. Not thread-safe. Every method raises StoreError if the database
    refuses.
    """

    def __init__(
        self,
        url: str,
        search_id: str,
        space: PlacementSpace,
        *,
        strategy: str,
        references: Sequence[Placement],
        budget: int,
        seed: int,
        steps: int = 1,
        max_ratio: float | None = None,
        known: Sequence[Known] = (),
        again: Sequence[Placement] = (),
        title: str | None = None,
    ) -> None:
        """``steps`` is what a whole training takes, ``max_ratio`` the cap on the latency ratio.

        ``title`` is by what people know the search, for those who look at the study itself.

        Trials of the placements ``known`` stand before those that are asked for; ``again`` are asked for all the same.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._space = space
        self._steps, self._max_ratio = steps, max_ratio
        first = [p for p in references if space.allowed(p)]
        self._rungs = rungs(steps)
        self._sampler = make_sampler(
            strategy,
            space,
            first,
            budget=budget,
            seed=seed,
            steps=steps,
            max_ratio=max_ratio,
            known=[each.placement for each in known],
            again=again,
        )
        self._stored = StoredStudy(url, search_id, title)
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=self._sampler)
        if known:
            self._stored.take_in([self._frozen(each) for each in known])
        self._study.add_trials(self._stored.trials())
        #: Samplers multiply small matrices: more threads only spin, on cores that workers train on.
        self._threads = ThreadpoolController()
        self._open: dict[int, optuna.Trial] = {}
        self._unwritten: optuna.Trial | None = None  # asked for, and the database refused

    def _frozen(self, known: Known) -> FrozenTrial:
        """As a trial of this study would stand there that was told so."""
        reached = course(known.losses, known.final, self._steps)
        attributes: dict[str, Any] = {KNOWN: known.times, RATIO: known.ratio}
        complete = known.accuracy is not None
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            values=(known.accuracy, known.ratio) if complete else None,  # type: ignore[arg-type]
            params=self._space.params(known.placement),
            distributions=self._space.distributions,  # type: ignore[arg-type]
            user_attrs=attributes | ({COURSE: list(reached)} if reached else {}),
            constraints=None if self._max_ratio is None else {CONSTRAINT: known.ratio - self._max_ratio},
        )

    def close(self) -> None:
        self._stored.close()

    @property
    def stops_early(self) -> bool:
        """Whether trials may stop on the way under this strategy."""
        return self.ceiling is not None

    @property
    def ceiling(self) -> int | None:
        """Steps that all trials together get at most, as long as they stop on the way; None where none does."""
        return self._sampler.ceiling

    def decide(self, running: Collection[int], may_begin: bool, settle: bool) -> Decision:
        """What to do next, while the trials ``running`` are worked on; see :meth:`AdditiveSampler.decide`."""
        with self._threads.limit(limits=1, user_api="blas"):
            return self._sampler.decide(self._study, running, may_begin, settle)

    def until(self, number: int, early: bool) -> int:
        """The steps to which an open trial goes next: all of them, or if it may stop ``early``, its next rung."""
        trial = self._open[number]
        early = early and not self._sampler.runs_whole(self._space.placement(trial.params))
        reached = len(trial.user_attrs.get(COURSE, ())) if early else len(self._rungs) - 1
        return self._rungs[min(reached, len(self._rungs) - 1)]

    def stopped(self, number: int, measurement: Mapping[str, Any]) -> None:
        """An open trial stopped on the way; it may go on. ``measurement`` as for :meth:`tell`."""
        self._open[number].set_user_attr(RATIO, measurement["latency"]["ratio"])
        self._open[number].set_user_attr(COURSE, _course(measurement, self._steps))
        self._write(number)

    def ask(self) -> tuple[int, Placement] | None:
        """The number and placement of a new trial; None if all others are known well enough."""
        if self._unwritten is None:
            if self._sampler.is_spent(self._study):
                return None
            with self._threads.limit(limits=1, user_api="blas"):
                self._unwritten = self._study.ask()
        number, placement = self._complete(self._unwritten)
        self._unwritten = None
        return number, placement

    def unfinished(self) -> list[tuple[int, Placement]]:
        """Trials that a process left open, completed where it died in the middle of asking."""
        left = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
        return [self._complete(optuna.Trial(self._study, frozen._trial_id)) for frozen in left]

    def _complete(self, trial: optuna.Trial) -> tuple[int, Placement]:
        for name, distribution in self._space.distributions.items():
            trial.suggest_categorical(name, distribution.choices)
        self._open[trial.number] = trial
        self._write(trial.number)
        return trial.number, self._space.placement(trial.params)

    def _write(self, number: int) -> None:
        self._stored.write(self._study.get_trials(deepcopy=False)[number])

    def tell(self, number: int, status: str, measurement: Mapping[str, Any]) -> None:
        """Close an open trial whose ``status`` and ``measurement`` are those of the catalog; of the latter samplers are
        shown validation accuracy, latency ratio and losses, as far as it has them.

        A trial that is closed already stays as it is.
        """
        trial = self._open.pop(number, None)
        if trial is None:
            return
        _close(self._study, trial, status, measurement, max_ratio=self._max_ratio, steps=self._steps)
        self._write(number)


def _close(
    study: optuna.Study,
    trial: optuna.Trial,
    status: str,
    measurement: Mapping[str, Any],
    *,
    max_ratio: float | None,
    steps: int,
) -> None:
    state = {
        "complete": TrialState.COMPLETE,
        "infeasible": TrialState.PRUNED,
        "stopped": TrialState.PRUNED,
    }.get(status, TrialState.FAIL)
    ratio: float | None = measurement.get("latency", {}).get("ratio")
    values = (measurement["validation"]["accuracy"], ratio) if status == "complete" and ratio is not None else None
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        if ratio is not None and max_ratio is not None:
            trial.set_constraint(CONSTRAINT, ratio - max_ratio)
        if ratio is not None and values is None:
            trial.set_user_attr(RATIO, ratio)
        if reached := _course(measurement, steps):
            trial.set_user_attr(COURSE, reached)
        study.tell(trial, values, state=state, skip_if_finished=True)


def _course(measurement: Mapping[str, Any], steps: int) -> list[float]:
    """Of a training of so many ``steps``, see :mod:`search.strategy.fidelity`."""
    final = measurement.get("validation", {}).get("loss")
    return list(course([(step, loss) for step, loss in measurement.get("losses", [])], final, steps))


def tell_late(url: str, search_id: str, ended: Collection[TrialRecord], *, max_ratio: float | None, steps: int) -> None:
    """Close the study's open trials among those that ``ended``, as the process would have that died before it could.

    Raises StoreError.
    """
    with clear_errors(parse(url)), opened(url, search_id, optuna.samplers.RandomSampler()) as study:
        known = {trial.number: trial for trial in ended}
        for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if (record := known.get(frozen.number)) is not None:
                trial = optuna.Trial(study, frozen._trial_id)
                _close(study, trial, record.status, record.measurement or {}, max_ratio=max_ratio, steps=steps)

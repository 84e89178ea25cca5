"""The Optuna study of one search: ask for a placement, tell what it was worth."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from objectives.placement import Placement
from search.catalog.connect import clear_errors, parse
from search.catalog.records import TrialRecord
from search.catalog.retry import retried
from search.series import Known
from search.strategy.additive_sampler import COURSE, RATIO, Decision
from search.strategy.fidelity import course, rungs
from search.strategy.sampler import KNOWN, make_sampler
from search.strategy.space import PlacementSpace

OBJECTIVES = ("accuracy", "latency_ratio")
#: Feasible at 0 and below: by how much the latency ratio exceeds its cap.
CONSTRAINT = "latency_ratio"


def open_trials(url: str, search_id: str) -> set[int]:
    """Numbers of the trials that are not closed in the study, if there is one. Raises StoreError."""
    with clear_errors(parse(url)), contextlib.suppress(KeyError):
        study = optuna.load_study(study_name=search_id, storage=url)
        return {trial.number for trial in study.get_trials(deepcopy=False) if not trial.state.is_finished()}
    return set()


class Study:
    """One trial of the study for each placement, told at most once.

    Not thread-safe. The catalog is asked what is known; Optuna holds the same trials under the same numbers. Every
    method raises StoreError if the database refuses.
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
    ) -> None:
        """``steps`` is what a whole training takes, ``max_ratio`` the cap on the latency ratio.

        Trials of the placements ``known`` stand before those that are asked for; ``again`` are asked for all the same.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._space = space
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
        self._url = parse(url)
        self._study = self._load(url, search_id)
        if known:
            self._take_in([self._frozen(each, steps, max_ratio) for each in known])
        self._open: dict[int, optuna.Trial] = {}
        self._asking = False  # stays true where the database went away in the middle of asking

    @retried
    def _load(self, url: str, search_id: str) -> optuna.Study:
        with self._clear_errors():
            study = optuna.create_study(
                storage=optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True}),
                study_name=search_id,
                directions=["maximize", "minimize"],
                sampler=self._sampler,
                load_if_exists=True,
            )
            study.set_metric_names(list(OBJECTIVES))
            return study

    @retried
    def _take_in(self, known: Sequence[FrozenTrial]) -> None:
        """All of them, also where a process died in the middle; none once a trial was asked for."""
        with self._clear_errors():
            there = self._study.get_trials(deepcopy=False)
            if all(KNOWN in trial.user_attrs for trial in there):
                self._study.add_trials(known[len(there) :])

    def _frozen(self, known: Known, steps: int, max_ratio: float | None) -> FrozenTrial:
        """As a trial of this study would stand there that was told so."""
        reached = course(known.losses, known.final, steps)
        attributes: dict[str, Any] = {KNOWN: known.times, RATIO: known.ratio}
        complete = known.accuracy is not None
        return optuna.trial.create_trial(
            state=TrialState.COMPLETE if complete else TrialState.PRUNED,
            values=(known.accuracy, known.ratio) if complete else None,  # type: ignore[arg-type]
            params=self._space.params(known.placement),
            distributions=self._space.distributions,  # type: ignore[arg-type]
            user_attrs=attributes | ({COURSE: list(reached)} if reached else {}),
            constraints=None if max_ratio is None else {CONSTRAINT: known.ratio - max_ratio},
        )

    @property
    def stops_early(self) -> bool:
        """Whether trials may stop on the way under this strategy."""
        return self._sampler.stops_early

    @retried
    def decide(self, running: Collection[int], may_begin: bool, settle: bool) -> Decision:
        """What to do next, while the trials ``running`` are worked on; see :meth:`AdditiveSampler.decide`."""
        with self._clear_errors():
            return self._sampler.decide(self._study, running, may_begin, settle)

    def until(self, number: int, early: bool) -> int:
        """The steps to which an open trial goes next: all of them, or if it may stop ``early``, its next rung."""
        trial = self._open[number]
        early = early and not self._sampler.runs_whole(self._space.placement(trial.params))
        reached = len(trial.user_attrs.get(COURSE, ())) if early else len(self._rungs) - 1
        return self._rungs[min(reached, len(self._rungs) - 1)]

    @retried
    def stopped(self, number: int, ratio: float, course: Sequence[float]) -> None:
        """An open trial stopped on the way; it may go on. ``course``: see :mod:`search.strategy.fidelity`."""
        with self._clear_errors():
            self._open[number].set_user_attr(RATIO, ratio)
            self._open[number].set_user_attr(COURSE, list(course))

    @retried
    def ask(self, tried: Collection[Placement]) -> tuple[int, Placement] | None:
        """The number and placement of a new trial; None if all others than ``tried`` are known well enough."""
        if self._sampler.is_spent(tried):
            return None
        with self._clear_errors():
            trial = (self._asked() if self._asking else None) or self._begin()
            placement = self._suggest(trial)
            self._asking = False
            return trial.number, placement

    def _begin(self) -> optuna.Trial:
        self._asking = True
        return self._study.ask()

    def _asked(self) -> optuna.Trial | None:
        """The trial that the database made, though its answer was lost."""
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number not in self._open:
                return optuna.Trial(self._study, frozen._trial_id)
        return None

    @retried
    def unfinished(self) -> list[tuple[int, Placement]]:
        """Trials that a process left RUNNING, completed where it died in the middle of asking."""
        left = []
        with self._clear_errors():
            for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                trial = optuna.Trial(self._study, frozen._trial_id)
                left.append((trial.number, self._suggest(trial)))
        return left

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """The database is the catalog's, and so are the sentences for what it refuses."""
        with clear_errors(self._url):
            try:
                yield
            except optuna.exceptions.StorageInternalError as error:
                raise error.__cause__ or error from error

    def _suggest(self, trial: optuna.Trial) -> Placement:
        params: dict[str, Any] = {
            name: trial.suggest_categorical(name, distribution.choices)
            for name, distribution in self._space.distributions.items()
        }
        self._open[trial.number] = trial
        return self._space.placement(params)

    @retried
    def tell(
        self,
        number: int,
        status: str,
        values: tuple[float, float] | None,
        *,
        excess: float | None = None,
        ratio: float | None = None,
        course: Sequence[float] = (),
    ) -> None:
        """Close an open trial with its (accuracy, latency ratio), and the ``course`` of its losses for samplers.

        ``ratio`` is the latency ratio of a trial without values.

        ``excess`` is by how much the ratio exceeds its cap (infeasible above 0). Failed trials have no values. A trial
        that is closed already stays as it is.
        """
        trial = self._open.get(number)
        if trial is None:
            return
        with self._clear_errors():
            _close(self._study, trial, status, values, excess=excess, ratio=ratio, course=course)
        del self._open[number]


def _close(
    study: optuna.Study,
    trial: optuna.Trial,
    status: str,
    values: tuple[float, float] | None,
    *,
    excess: float | None,
    ratio: float | None,
    course: Sequence[float],
) -> None:
    state = {
        "complete": TrialState.COMPLETE,
        "infeasible": TrialState.PRUNED,
        "stopped": TrialState.PRUNED,
    }.get(status, TrialState.FAIL)
    with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        if excess is not None:
            trial.set_constraint(CONSTRAINT, excess)
        if ratio is not None:
            trial.set_user_attr(RATIO, ratio)
        if course:
            trial.set_user_attr(COURSE, list(course))
        study.tell(trial, values, state=state, skip_if_finished=True)


def worth(status: str, measurement: Mapping[str, Any], *, max_ratio: float | None, steps: int) -> dict[str, Any]:
    """What :meth:`Study.tell` is told of a measured trial, beside its number and status."""
    ratio: float | None = measurement.get("latency", {}).get("ratio")
    complete = status == "complete" and ratio is not None
    return {
        "values": (measurement["validation"]["accuracy"], ratio) if complete else None,
        "excess": None if ratio is None or max_ratio is None else ratio - max_ratio,
        "ratio": ratio,
        "course": course_of(measurement, steps),
    }


def course_of(measurement: Mapping[str, Any], steps: int) -> tuple[float, ...]:
    """Of a training of so many ``steps``, see :mod:`search.strategy.fidelity`."""
    final = measurement.get("validation", {}).get("loss")
    return course([(step, loss) for step, loss in measurement.get("losses", [])], final, steps)


def tell_late(url: str, search_id: str, ended: Collection[TrialRecord], *, max_ratio: float | None, steps: int) -> None:
    """Close the study's open trials among those that ``ended``, as the process would have that died before it could.

    Raises StoreError.
    """
    with clear_errors(parse(url)):
        study = optuna.load_study(study_name=search_id, storage=url, sampler=optuna.samplers.RandomSampler())
        known = {trial.number: trial for trial in ended}
        for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if (record := known.get(frozen.number)) is not None:
                told = worth(record.status, record.measurement or {}, max_ratio=max_ratio, steps=steps)
                _close(study, optuna.Trial(study, frozen._trial_id), record.status, told.pop("values"), **told)

"""Optuna's study of a search in its database: what outlives the process, and what others look at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import insert, select
from sqlalchemy.orm import configure_mappers

from objectives.errors import LeaseLost
from search.catalog.connect import BUSY_TIMEOUT_S, POSTGRES_ISOLATION, clear_errors, parse
from search.catalog.retry import retried
from search.strategy.tried import KNOWN

OBJECTIVES = ("accuracy", "latency_ratio")
_TRIALS, _PARAMS = models.TrialModel.__table__, models.TrialParamModel.__table__
#: What TPE keeps for other processes that ask in the same study; a search has one.
_NOT_KEPT = "tpe:"


@dataclass
class _Written:
    """What the database has of an open trial."""

    trial_id: int
    params: dict[str, Any]
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]


def declare_tables() -> None:
    """To be called before another thread imports MLflow: that adds listeners of SQLAlchemy's for all tables, and where
    Optuna's are first used at that moment, which goes through these, SQLAlchemy raises RuntimeError."""
    configure_mappers()


@contextlib.contextmanager
def opened(url: str, search_id: str, sampler: optuna.samplers.BaseSampler | None = None) -> Iterator[optuna.Study]:
    """The study of a search as the database has it, for a moment. Raises KeyError if there is none."""
    storage = _storage(url)
    try:
        yield optuna.load_study(study_name=search_id, storage=storage, sampler=sampler)
    finally:
        _end_connections(storage)


def delete_study(url: str, search_id: str) -> None:
    """Nothing, if there is none. Raises StoreError if the database refuses."""
    with clear_errors(parse(url)), contextlib.suppress(KeyError):
        storage = _storage(url)
        try:
            optuna.delete_study(study_name=search_id, storage=storage)
        finally:
            _end_connections(storage)


def _storage(url: str) -> optuna.storages.RDBStorage:
    """That waits as long as the catalog does where another process has locked a SQLite file, and sees of others on
    PostgreSQL what the catalog sees."""
    if parse(url).get_backend_name() == "sqlite":
        how: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
    else:
        how = {"isolation_level": POSTGRES_ISOLATION}
    return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True, **how})


def _end_connections(storage: optuna.storages.RDBStorage) -> None:
    """The last to end takes SQLite's log into the database file."""
    storage.remove_session()
    storage.engine.dispose()


class StoredStudy:
    """Trials are written whole, as they are in memory; what is written already is not written again.

    Every method raises StoreError if the database refuses; then it may be called again.
    """

    def __init__(self, url: str, search_id: str, title: str | None) -> None:
        """``title``: what pages that show the study, such as optuna-dashboard's, have of its search's name."""
        self._url = parse(url)
        self._title = title
        self._storage, self._study = self._open_study(url, search_id)
        self._written: dict[int, _Written] = {}  # open trials

    @retried
    def _open_study(self, url: str, search_id: str) -> tuple[optuna.storages.RDBStorage, optuna.Study]:
        with self._clear_errors():
            storage = _storage(url)
            study = optuna.create_study(
                storage=storage, study_name=search_id, directions=["maximize", "minimize"], load_if_exists=True
            )
            study.set_metric_names(list(OBJECTIVES))
            if self._title is not None:
                study.set_user_attr("search", self._title)
            return storage, study

    @retried
    def take_in(self, known: Sequence[FrozenTrial]) -> None:
        """All of them, also where a process died in the middle; none once a trial was asked for."""
        with self._clear_errors():
            there = self._study.get_trials(deepcopy=False)
            if all(KNOWN in trial.user_attrs for trial in there):
                self._study.add_trials(known[len(there) :])

    @retried
    def trials(self) -> list[FrozenTrial]:
        """By number."""
        with self._clear_errors():
            trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if not trial.state.is_finished():
                known = trial.params, trial.user_attrs, trial.system_attrs
                self._written[trial.number] = _Written(trial._trial_id, *map(dict, known))
        return trials

    @retried
    def write(self, trial: FrozenTrial) -> None:
        """A new trial, or an open one that has changed. One that another process has closed stays as it is.

        Raises LeaseLost if another process has asked for this trial.
        """
        with self._clear_errors(), contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            known = self._written.get(trial.number)
            if known is None or known.params != trial.params:
                attrs = (known.user_attrs, known.system_attrs) if known else ({}, {})
                known = self._written[trial.number] = _Written(self._place(trial), dict(trial.params), *attrs)
            for key, value in trial.user_attrs.items():
                if known.user_attrs.get(key) != value:
                    self._storage.set_trial_user_attr(known.trial_id, key, value)
                    known.user_attrs[key] = value
            for key, value in trial.system_attrs.items():
                if known.system_attrs.get(key) != value and not key.startswith(_NOT_KEPT):
                    self._storage.set_trial_system_attr(known.trial_id, key, value)
                    known.system_attrs[key] = value
            if trial.state.is_finished():
                self._storage.set_trial_state_values(known.trial_id, trial.state, trial.values)
        if trial.state.is_finished():
            del self._written[trial.number]

    def close(self) -> None:
        _end_connections(self._storage)

    def _place(self, trial: FrozenTrial) -> int:
        """Id of the trial's row, made unless it is there: it may have been, and the answer lost. With its parameters.

        In one transaction on Optuna's own tables. Its interface commits a trial and each of its parameters, of which a
        placement has one a group, one by one; and a trial made from a template is made twice where the answer to the
        commit was lost, since Optuna tries again by itself.
        """
        values = {name: trial.distributions[name].to_internal_repr(value) for name, value in trial.params.items()}
        key = {"study_id": self._study._study_id, "number": trial.number}
        with self._storage.engine.begin() as connection:
            trial_id = connection.scalar(select(_TRIALS.c.trial_id).filter_by(**key))
            if trial_id is None:
                new = insert(_TRIALS).values(**key, state=TrialState.RUNNING, datetime_start=trial.datetime_start)
                trial_id = connection.scalar(new.returning(_TRIALS.c.trial_id))
            there = select(_PARAMS.c.param_name, _PARAMS.c.param_value).filter_by(trial_id=trial_id)
            for name, value in connection.execute(there).all():
                if values.pop(name) != value:
                    raise LeaseLost(f"another process has asked for trial {trial.number} of this search: this one ends")
            rows = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": value,
                    "distribution_json": optuna.distributions.distribution_to_json(trial.distributions[name]),
                }
                for name, value in values.items()
            ]
            if rows:
                connection.execute(insert(_PARAMS), rows)
        return int(trial_id)

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """The database is the catalog's, and so are the sentences for what it refuses."""
        with clear_errors(self._url):
            try:
                yield
            except optuna.exceptions.StorageInternalError as error:
                raise error.__cause__ or error from error

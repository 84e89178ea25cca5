"""Every read and write of the catalog, each in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from objectives.errors import LeaseLost, RequestError, UnknownSearch, counted
from objectives.placement import Placement
from objectives.storage import Storage
from search.catalog import leases
from search.catalog.connect import WRITES, clear_errors, connect, is_read_only, parse, shown, sole
from search.catalog.migrate import migrate
from search.catalog.models import Outbox, Search, Trial
from search.catalog.records import SearchRecord, TrialRecord, record_of
from search.catalog.retry import commit, retried, retried_at_start
from search.outside import is_text

Row = TypeVar("Row", Search, Trial)
_NAMES_SHOWN = 5


def _now() -> datetime:
    return datetime.now(UTC)


class Catalog:
    """One database of searches; may be shared by threads, and by any number of processes.

    Every method raises StoreError if the server, file or disk refuses; what was recorded before stays. A server that
    goes away is waited for, see :mod:`search.catalog.retry`, and nothing is applied twice.
    """

    def __init__(self, url: str) -> None:
        """`url` names a SQLite file or a PostgreSQL database, which is created (the file) and migrated as needed.

        Raises StoreError if that is impossible.
        """
        self._url = parse(url)
        self._engine = connect(self._url)
        self._leases: dict[str, str] = {}  # of searches that this object writes to as their owner, or was
        try:
            self._migrate()
        except BaseException:
            self._engine.dispose()
            raise

    @retried_at_start
    def _migrate(self) -> None:
        with clear_errors(self._url):
            migrate(self._engine)

    @property
    def url(self) -> str:
        """With its driver and its password: for Optuna, which shares this database; not for people."""
        return self._url.render_as_string(hide_password=False)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that reads; for modules that keep another subject in this database, too."""
        with clear_errors(self._url), Session(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that writes, committed at the end of the block."""
        with clear_errors(self._url), Session(self._engine.execution_options(**WRITES)) as session:
            yield session
            commit(session, self._engine)

    @contextmanager
    def sole(self, purpose: str, *, wait: bool = False) -> Iterator[bool]:
        """Yields whether this is the only process on this database at `purpose`; waits to be, if asked to."""
        with ExitStack() as stack:
            # Around the lock alone: a full disk under what is done while it is held is no complaint about the database.
            with clear_errors(self._url):
                held = stack.enter_context(sole(self._engine, purpose, wait=wait))
            yield held

    # Leases

    @retried
    def take(self, search_id: str) -> str | None:
        """Own the search from now, for all that this object writes; or, if it is held, who holds it, in words."""
        try:
            with self.writing() as session:
                lease, other = leases.take(session, search_id)
        except IntegrityError:  # PostgreSQL: another was first within the same moment
            return self.holder(search_id) or self.take(search_id)
        if other is None:
            self._leases[search_id] = lease
        return other

    @retried
    def holder(self, search_id: str) -> str | None:
        """Who holds the search now, in words."""
        with self.reading() as session:
            return leases.holder(session, search_id)

    @retried
    def held_in(self, series: str) -> tuple[str, str] | None:
        """The name of a search of the series that is being run, and who holds it, in words."""
        with self.reading() as session:
            return leases.held_in(session, series)

    def holder_of(self, name: str) -> str | None:
        """The same of the search of that name, if there is one."""
        search = self.find(name)
        return None if search is None else self.holder(search.id)

    def renew(self, search_id: str) -> bool:
        """False if the lease is lost."""
        with self.writing() as session:
            return leases.renew(session, search_id, self._leases[search_id])

    @retried
    def release(self, search_id: str) -> None:
        """What runs is put back. Nothing, if the lease is lost."""
        with self.writing() as session:
            leases.release(session, search_id, self._leases[search_id])

    @retried
    def is_owner(self, search_id: str) -> bool:
        """Whether the lease, if this object ever took it, is not lost."""
        with self.reading() as session:
            return self._owns(session, search_id)

    def _owns(self, session: Session, search_id: str) -> bool:
        lease = self._leases.get(search_id)
        return lease is None or leases.is_held(session, search_id, lease)

    @contextmanager
    def writing_as_owner(self, search_id: str) -> Iterator[Session]:
        """Raises LeaseLost if another process has taken the search."""
        with self.writing() as session:
            if not self._owns(session, search_id):
                raise LeaseLost(f"another process has taken over search {search_id}: this one writes nothing more")
            yield session

    # Searches

    @retried
    def create_search(self, name: str, spec: dict[str, Any], facts: dict[str, Any]) -> SearchRecord:
        """Raises RequestError if the name is taken."""
        about = {"spec": spec, "series": spec.get("series"), "facts": facts}
        row = Search(id=uuid.uuid4().hex, name=name, **about, status="running", created_at=_now())
        try:
            with self.writing() as session:
                session.add(row)
                session.flush()
                session.add(_news(row.id, "search"))
                session.flush()
                return record_of(SearchRecord, row)
        except IntegrityError:
            raise self.taken(name) from None

    def taken(self, name: str, flags: str = "") -> RequestError:
        """What is wrong with the name of a search for another one; ``flags`` are those of :meth:`Home.flags`."""
        known = self.search(name)
        count = counted(len(self.trials(known.id)), "trial")
        return RequestError(
            f"a search named {name!r} exists already ({known.status}, {count}): choose another --name, "
            f"or continue it with `python -m search resume {name}{flags}`"
        )

    @retried
    def find(self, name: str) -> SearchRecord | None:
        """The search of that name, if there is one."""
        with self.reading() as session:
            row = session.scalar(select(Search).where(Search.name == name)) if is_text(name) else None
            return None if row is None else record_of(SearchRecord, row)

    @retried
    def search(self, name: str) -> SearchRecord:
        """Raises UnknownSearch for an unknown name."""
        if (found := self.find(name)) is not None:
            return found
        with self.reading() as session:
            names = session.scalars(select(Search.name).order_by(Search.created_at.desc())).all()
        known = ", ".join(repr(each) for each in names[:_NAMES_SHOWN])
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        raise UnknownSearch(
            f"no search is named {name!r}: "
            + (
                f"known are {known}{more}."
                if names
                else f"none exists in {shown(self._url)!r} yet, `python -m search run` makes one."
            )
        )

    @retried
    def search_of(self, search_id: str) -> SearchRecord:
        """Raises KeyError for an unknown id."""
        with self.reading() as session:
            return record_of(SearchRecord, _get(session, Search, search_id))

    @retried
    def searches(self, series: str | None = None) -> list[SearchRecord]:
        """Newest first; of all, or of one series."""
        wanted = select(Search).order_by(Search.created_at.desc())
        with self.reading() as session:
            rows = session.scalars(wanted if series is None else wanted.where(Search.series == series))
            return [record_of(SearchRecord, row) for row in rows]

    @retried
    def names(self) -> set[str]:
        """Of all searches."""
        with self.reading() as session:
            return set(session.scalars(select(Search.name)))

    @retried
    def set_status(self, search_id: str, status: str, reason: str | None = None, elapsed_s: float = 0.0) -> None:
        """Adds `elapsed_s` seconds to the search's own; a status other than running ends it, until it is resumed."""
        running = status == "running"
        with self.writing_as_owner(search_id) as session:
            ended: dict[str, Any] = {"status": status, "reason": reason, "ended_at": None if running else _now()}
            ended |= {"elapsed_s": Search.elapsed_s + elapsed_s}
            session.execute(update(Search).where(Search.id == search_id).values(**ended))
            session.add(_news(search_id, "search" if running else "result"))

    @retried
    def set_spec(self, search_id: str, spec: dict[str, Any]) -> None:
        """What a resumed search was asked for now: a larger budget, other workers."""
        with self.writing_as_owner(search_id) as session:
            session.execute(update(Search).where(Search.id == search_id).values(spec=spec))

    @retried
    def set_tracking(self, search_id: str, tracking: str) -> None:
        """The MLflow that the search writes to from now, as `facts["tracking"]` keeps it: without secrets."""
        with self.writing() as session:
            search = _get(session, Search, search_id, lock=True)
            search.facts = {**search.facts, "tracking": tracking}

    @retried
    def set_base(self, search_id: str, base: dict[str, Any]) -> None:
        """The base model's measurement."""
        with self.writing_as_owner(search_id) as session:
            session.execute(update(Search).where(Search.id == search_id).values(base=base))

    @retried
    def set_mlflow_search(self, search_id: str, experiment_id: str, run_id: str) -> None:
        with self.writing() as session:
            known = {"mlflow_experiment_id": experiment_id, "mlflow_run_id": run_id}
            session.execute(update(Search).where(Search.id == search_id).values(**known))

    # Trials

    @retried
    def add_trial(self, search_id: str, number: int, placement: Placement, reference: str | None) -> None:
        """A running trial. Raises ValueError if the search has this number or this placement already."""
        row = Trial(
            search_id=search_id,
            number=number,
            groups=list(placement.groups),
            rank=placement.rank,
            digest=placement.digest,
            reference=reference,
            status="running",
            lease=self._leases.get(search_id),
            asked_at=_now(),
        )
        try:
            with self.writing_as_owner(search_id) as session:
                session.add(row)
        except IntegrityError as error:
            raise ValueError(f"trial {number} ({placement.label}) is a repeat, or of an unknown search") from error

    def record(
        self,
        search_id: str,
        number: int,
        status: str,
        *,
        reason: str | None = None,
        measurement: dict[str, Any] | None,
        steps: int = 0,
        adapter: str | None = None,
        adapter_sha256: str | None = None,
    ) -> bool:
        """Ends a running trial. A late result, of a trial that has ended, changes nothing and returns False.

        One that comes from an owner who has lost the search is counted besides.
        """
        ended = {"status": status, "reason": reason, "measurement": measurement, "steps": steps, "ended_at": _now()}
        adapters = {"adapter": adapter, "adapter_sha256": adapter_sha256}
        return self._turn(search_id, number, "running", ended | adapters, news=True)

    def stop(self, search_id: str, number: int, measurement: dict[str, Any], steps: int) -> bool:
        """A running trial stopped on the way, and may go on; False if it was not running."""
        stopped = {"status": "stopped", "measurement": measurement, "steps": steps, "ended_at": _now()}
        return self._turn(search_id, number, "running", stopped)

    def go_on(self, search_id: str, number: int) -> bool:
        """A stopped trial runs again; False if it was not stopped."""
        again = {"status": "running", "lease": self._leases.get(search_id)}
        return self._turn(search_id, number, "stopped", again)

    def take_up(self, search_id: str, number: int) -> None:
        """A stopped trial that was given up may go on after all."""
        self._turn(search_id, number, "stopped", {"reason": None})

    def give_up(self, search_id: str, number: int, reason: str) -> None:
        """A stopped trial will not go on."""
        self._turn(search_id, number, "stopped", {"reason": reason}, news=True)

    @retried
    def _turn(self, search_id: str, number: int, before: str, values: dict[str, Any], *, news: bool = False) -> bool:
        """Change a trial whose status is ``before``; False, and no news for MLflow, if it has another."""
        mine = (Trial.search_id == search_id, Trial.number == number, Trial.status == before)
        with self.writing() as session:
            if not self._owns(session, search_id):
                late = update(Trial).where(Trial.search_id == search_id, Trial.number == number)
                session.execute(late.values(late=Trial.late + 1))
                return False
            row = session.scalar(select(Trial).where(*mine).with_for_update())
            if row is None:
                return False
            if values.get("measurement"):
                values = {**values, "measurement": _with_earlier_seconds(row.measurement, values["measurement"])}
            for column, value in values.items():
                setattr(row, column, value)
            if news:
                session.add(_news(search_id, "trial", number))
            return True

    @retried
    def record_test(self, search_id: str, number: int | None, test: dict[str, Any]) -> None:
        """Figures on the test split, of a trial or, without a number, of the base model. Raises KeyError if unknown."""
        with self.writing_as_owner(search_id) as session:
            if number is None:
                search = _get(session, Search, search_id, lock=True)
                search.base = {**(search.base or {}), "test": test}
            else:
                _get(session, Trial, (search_id, number)).test = test

    def restart(self, search_id: str, number: int, *, died: bool = True) -> None:
        """A trial is to be run again, from now; if the process that ran it has died, it counts one attempt more."""
        again = {"attempts": Trial.attempts + int(died), "asked_at": _now(), "lease": self._leases.get(search_id)}
        self._turn(search_id, number, "running", again)

    @retried
    def follow_adapters(self, search_id: str, storage: Storage) -> None:
        """Where adapters of the search are not where they were written, but are in `storage`: its home was moved.

        Not where nothing can be written.
        """
        if is_read_only(self._url):
            return
        for trial in self.trials(search_id):
            if trial.adapter is not None and (here := storage.moved(trial.adapter)) != trial.adapter:
                with self.writing() as session:
                    _get(session, Trial, (search_id, trial.number)).adapter = here

    @retried
    def trials(self, search_id: str) -> list[TrialRecord]:
        """By number."""
        with self.reading() as session:
            rows = session.scalars(select(Trial).where(Trial.search_id == search_id).order_by(Trial.number))
            return [record_of(TrialRecord, row) for row in rows]

    @retried
    def trial(self, search_id: str, number: int) -> TrialRecord:
        """Raises KeyError for an unknown trial."""
        with self.reading() as session:
            return record_of(TrialRecord, _get(session, Trial, (search_id, number)))

    @retried
    def set_mlflow_trial(self, search_id: str, number: int, run_id: str) -> None:
        with self.writing() as session:
            trial = update(Trial).where(Trial.search_id == search_id, Trial.number == number)
            session.execute(trial.values(mlflow_run_id=run_id))


def _get(session: Session, kind: type[Row], key: object, *, lock: bool = False) -> Row:
    row = session.get(kind, key, with_for_update=lock)
    if row is None:
        raise KeyError(key)
    return row


def _with_earlier_seconds(earlier: dict[str, Any] | None, measurement: dict[str, Any]) -> dict[str, Any]:
    """Of a trial that stopped and went on: what its workers took for it adds up."""
    before, now = ((each or {}).get("seconds", {}) for each in (earlier, measurement))
    added = {phase: before.get(phase, 0.0) + now.get(phase, 0.0) for phase in {**before, **now}}
    return {**measurement, "seconds": added} if before else measurement


def _news(search_id: str, kind: str, trial: int | None = None) -> Outbox:
    return Outbox(search_id=search_id, kind=kind, trial=trial, created_at=_now())

"""A whole search, from the request to the result. The one place to read first.

SearchSpec -> model structure, data -> assignment (object store) -> Ray Tune workers <-> SearchPlan
                                                                    catalog + Optuna -> outbox -> MLflow
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, TextIO

from cluster.session import check_gpus, gpus_there, has_room, ray_session
from objectives.errors import Interrupted, NoTrialSucceeded, RequestError, SearchError, counted
from objectives.model import resolve
from objectives.secrets import redacted, said
from search.admission import admitted, check_adapters, refuse_changes, refuse_taken
from search.catalog.outbox import backlog
from search.catalog.records import SearchRecord
from search.catalog.store import Catalog
from search.champion import crown
from search.home import Home
from search.interruption import Interruption
from search.lease import Lease, is_held
from search.mlflow_agreement import is_over
from search.prepare import Prepared, prepare
from search.result import result_document
from search.series import following, seeded
from search.spec import SearchSpec
from search.waiting import said_if_slow

if TYPE_CHECKING:
    from search.served import ServedProfiles
    from search.tracking import Tracker


def start(spec: SearchSpec, home: Home, progress_stream: TextIO | None = None) -> dict[str, Any]:
    """Run a new search to its end and return the result document.

    Raises RequestError, NoTrialSucceeded or Interrupted; what was measured until then is kept.
    """
    began = time.monotonic()
    with Interruption() as interruption, closing(Catalog(home.storage)) as catalog:
        refuse_taken(catalog, spec.name, home)
        asked, spec = spec, seeded(catalog, spec)
        if spec.model is not None:
            resolve(spec.model, spec.trust_remote_code)  # the likeliest mistake is said before anything slow begins
        check_adapters(spec)
        with ray_session(spec.workers, spec.ray_address) as ready:
            prepared = following(catalog, _read(spec, progress_stream))
            run = Run(catalog, home, prepared, interruption, began, progress_stream)
            return run.execute(admitted(catalog, asked, prepared, home), ready)


def _read(spec: SearchSpec, progress_stream: TextIO | None = None) -> Prepared:
    with said_if_slow("reading model and data", progress_stream):
        return prepare(spec)


def resume(
    name: str,
    home: Home,
    *,
    budget: int | None = None,
    workers: int | None = None,
    max_hours: float | None = None,
    ray_address: str | None = None,
) -> dict[str, Any]:
    """Continue a search to its budget, or to a new one, on the MLflow that it had, unless the home names another.

    `max_hours` count from now, be they new ones or those that the search began with. `ray_address` is where its cluster
    is now.

    Raises as :func:`start`, and RequestError where its data or its model are no longer what they were.
    """
    began = time.monotonic()
    with Interruption() as interruption, closing(Catalog(home.storage)) as catalog:
        search = catalog.search(name)
        if holder := catalog.holder(search.id):
            raise is_held(name, holder)
        if budget is not None and budget < (begun := len(catalog.trials(search.id))):
            raise RequestError(f"--budget {budget} is below the {begun} trials that search {name} has: give more")
        home = replace(home, tracking=home.mlflow(search))
        catalog.follow_adapters(search.id, home.adapters(search))
        spec = SearchSpec.from_json(search.spec)
        given = {"budget": budget, "workers": workers, "max_hours": max_hours, "ray_address": ray_address}
        changed: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        spec = replace(spec, **changed)
        if _is_finished(catalog, search, spec, home):
            return _succeeded(search.name, _tell_again(catalog, search, home))
        check_adapters(spec)
        with ray_session(spec.workers, spec.ray_address) as ready:
            prepared = following(catalog, _read(spec), search.created_at)
            refuse_changes(search, prepared)
            run = Run(catalog, home, prepared, interruption, began)
            return run.execute(contextlib.nullcontext(search), ready)


def _is_finished(catalog: Catalog, search: SearchRecord, spec: SearchSpec, home: Home) -> bool:
    """Whether there is nothing to do but to tell the search's MLflow what that does not know yet."""
    from search.study import open_trials

    there = search.status == "complete" and len(catalog.trials(search.id)) >= spec.budget
    same = home.mlflow_kept() == (search.facts.get("tracking") or "")
    return there and same and not open_trials(catalog.url, search.id)


def _tell_again(catalog: Catalog, search: SearchRecord, home: Home) -> dict[str, Any]:
    found = result_document(catalog, search)
    notes = [
        f"search {search.name} is complete, with {counted(len(found['points']), 'trial')}: give a --budget for more"
    ]
    if backlog(catalog, home.mlflow_kept()):
        from search.tracking import tracker_of

        notes += _told(home, search, tracker_of(catalog, home))
    for note in notes:
        print(f"note: {note}", file=sys.stderr, flush=True)
    return found


def _told(home: Home, search: SearchRecord, tracker: Tracker) -> list[str]:
    """Tell MLflow the rest of a complete search; what it did not take, in a sentence."""
    later = f"`python -m search resume {search.name}{home.flags()}`"
    try:
        waiting = tracker.stop(120.0)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted while MLflow was told the rest; search {search.name} is complete: {later} prints it again, "
            "and sends what is left"
        ) from None
    if not waiting:
        return []
    return [
        f"MLflow at {redacted(home.mlflow())} did not take {counted(waiting, 'record')} yet; nothing is lost: {later} "
        "sends what is left"
    ]


class Run:
    """One process at work on a search, from its model and data to its result; one that was interrupted had several."""

    def __init__(
        self,
        catalog: Catalog,
        home: Home,
        prepared: Prepared,
        interruption: Interruption,
        began: float,
        progress_stream: TextIO | None = None,
    ) -> None:
        """``began`` is when the command did, on :func:`time.monotonic`. Raises RequestError as :class:`Tracker`."""
        from search.progress import Progress
        from search.tracking import tracker_of

        self._catalog = catalog
        self._home = home
        self._prepared = prepared
        self._interruption = interruption
        self._began = began
        hours = prepared.spec.max_hours
        self._deadline = None if hours is None else began + hours * 3600
        self._tracker = tracker_of(catalog, home)
        self._progress = Progress(
            prepared.space.count(prepared.spec.budget),
            progress_stream,
            metric=prepared.facts["metric"],
            latency_axis="ttft" if prepared.assignment.space.kind == "encoder" else "tpot",
            deadline=self._deadline,
        )

    def execute(self, entrance: AbstractContextManager[SearchRecord], ready: Callable[[], None]) -> dict[str, Any]:
        """The result document. Raises as :func:`start`.

        ``entrance`` gives the search's row, once everything that could still refuse has agreed, and is held until that
        has its lease. ``ready`` waits for Ray.
        """
        from search.served import served_profiles
        from search.stored_study import declare_tables

        spec = self._prepared.spec
        with served_profiles(self._catalog, self._prepared) as served, self._progress:
            self._progress.phase("starting workers")
            ready()
            self._interruption.install()
            check_gpus(spec.gpus_per_trial or 0.0, spec.ray_address)
            with contextlib.ExitStack() as held:
                with entrance as search:
                    lease = held.enter_context(Lease(self._catalog, search.id, search.name))
                for note in (*self._prepared.facts["notes"], *_of_the_cluster(spec)):
                    self._progress.note(note)
                self._take_up(search)
                declare_tables()
                self._tracker.start(compare=search.id)
                self._run_to_end(search, lease, served)
        return _succeeded(search.name, result_document(self._catalog, self._catalog.search_of(search.id)))

    def _take_up(self, search: SearchRecord) -> None:
        """What a resumed search was asked for otherwise than before, and that it runs."""
        if (asked := self._prepared.spec.to_json()) != search.spec:
            self._catalog.set_spec(search.id, asked)
        if (kept := self._home.mlflow_kept()) != search.facts.get("tracking"):
            self._catalog.set_tracking(search.id, kept)
        if search.status != "running":
            self._catalog.set_status(search.id, "running")

    def _run_to_end(self, search: SearchRecord, lease: Lease, served: ServedProfiles | None) -> None:
        """Whatever ends it is the search's status."""
        try:
            self._end(search, "complete", self._try_placements(search, lease, served))
        except KeyboardInterrupt:
            self._end(search, "interrupted", None)
            self._tracker.stop(5.0)
            done = sum(map(is_over, self._catalog.trials(search.id)))
            raise Interrupted(
                f"interrupted with {done} of {self._prepared.spec.budget} trials done, all kept: continue with "
                f"`python -m search resume {search.name}{self._home.flags()}`"
            ) from None
        except BaseException as error:
            with contextlib.suppress(Exception):  # the reason itself may be a full disk
                self._end(search, "failed", str(error) if isinstance(error, SearchError) else said(error))
                self._tracker.stop(5.0)
            raise
        self._progress.phase("writing to MLflow")
        for note in chain(_told(self._home, search, self._tracker), self._remove_old(search)):
            self._progress.note(note)

    def _remove_old(self, search: SearchRecord) -> Iterator[str]:
        """As ``--keep`` asks; notes on what that did."""
        from search.removal import remove_old

        spec = self._prepared.spec
        if spec.series is not None and spec.keep is not None:
            yield from remove_old(self._catalog, self._home, search, spec.keep)

    def _end(self, search: SearchRecord, status: str, reason: str | None) -> None:
        self._catalog.set_status(search.id, status, reason, elapsed_s=time.monotonic() - self._began)

    def _try_placements(self, search: SearchRecord, lease: Lease, served: ServedProfiles | None) -> str | None:
        """From where the search is to its end; why there were fewer trials than the budget."""
        from cluster.tune import run_plan
        from objectives.checkpoint import drop_checkpoints
        from search.plan import SearchPlan
        from search.study import Study

        prepared, spec = self._prepared, self._prepared.spec
        assert spec.workers is not None

        def check() -> None:
            self._interruption.check()
            lease.check()

        study = Study(
            self._catalog.url,
            search.id,
            prepared.space,
            title=search.name,
            strategy=spec.strategy,
            references=list(prepared.references),
            budget=spec.budget,
            seed=spec.seed,
            steps=prepared.assignment.training.steps,
            max_ratio=spec.max_tpot_ratio,
            known=prepared.before.known,
            again=prepared.again,
        )
        with closing(study):
            plan = SearchPlan(
                self._catalog,
                study,
                search.id,
                budget=spec.budget,
                references=prepared.references,
                watcher=self._progress,
                check=check,
                steps=prepared.assignment.training.steps,
                pack=spec.pack or 1,
                settle=spec.stop_when == "settled",
                retries=spec.retries,
                deadline=self._deadline,
                served=served,
                champion=None if prepared.before.champion is None else prepared.before.champion.placement,
                baseline=prepared.baseline,
            )
            plan.reconcile()
            assignment = replace(prepared.assignment, adapters=self._home.adapters(search))
            run_plan(plan, assignment, workers=spec.workers, gpus_per_worker=spec.gpus_per_trial or 0.0)
        drop_checkpoints(assignment.adapters)  # also of what goes on after a resume: see decisions.md
        if spec.series is not None and (decided := crown(self._catalog, search, spec.series, prepared.before)):
            self._progress.note(decided.why)
        return plan.ended_by


def _of_the_cluster(spec: SearchSpec) -> Iterator[str]:
    """Notes on what trials leave idle there, or wait for."""
    if spec.ray_address and not spec.gpus_per_trial and (gpus := gpus_there()):
        yield f"the cluster has {gpus:g} GPUs, and trials use none of them: --gpus-per-trial 1 gives each one"
    if spec.ray_address and not has_room(spec.gpus_per_trial or 0.0):
        yield (
            "no machine of the cluster has what a trial takes, a CPU and --gpus-per-trial "
            f"{spec.gpus_per_trial or 0:g}: trials wait until one joins"
        )


def _succeeded(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Raises NoTrialSucceeded if none did, with the last reason; where all were too slow, the nearest one's."""
    if not result["trials"]["complete"]:
        ended = [point for point in result["points"] if point["reason"]]
        which = "the last one"
        if all(point["status"] == "infeasible" for point in ended):
            ended.sort(key=lambda point: -point["tpot_ratio"])
            which = "the fastest one"
        raise NoTrialSucceeded(
            f"none of {counted(len(result['points']), 'trial')} of search {name} succeeded; "
            + (f"{which}: {ended[-1]['reason']}" if ended else result["reason"] or "none was allowed")
        )
    return result

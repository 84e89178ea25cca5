"""A whole search, from the request to the result. The one place to read first.

SearchSpec -> model structure, data -> assignment (object store) -> Ray Tune workers <-> SearchPlan
                                                                    catalog + Optuna -> outbox -> MLflow
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.session import check_gpus, gpus_there, has_room, ray_session
from objectives.errors import Interrupted, NoTrialSucceeded, RequestError, StoreError
from objectives.model import resolve
from objectives.secrets import redacted
from objectives.storage import storage_at
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
    from search.progress import Progress
    from search.served import ServedProfiles
    from search.tracking import Tracker


def start(spec: SearchSpec, home: Home, progress_stream: Any = None) -> dict[str, Any]:
    """Run a new search to its end and return the result document.

    Raises RequestError, NoTrialSucceeded or Interrupted; what was measured until then is kept.
    """
    began = time.monotonic()
    with Interruption() as interruption, closing(Catalog(home.storage)) as catalog:
        _refuse_taken(catalog, spec.name, home)
        asked, spec = spec, seeded(catalog, spec)
        if spec.model is not None:
            resolve(spec.model, spec.trust_remote_code)  # the likeliest mistake is said before anything slow begins
        _check_adapters(spec)
        with ray_session(spec.workers, spec.ray_address) as ready:
            prepared = following(catalog, _read(spec, progress_stream))

            @contextlib.contextmanager
            def entrance() -> Iterator[SearchRecord]:
                # Two of a series that begin at one moment: the second is to see the first, and that it is being run.
                with catalog.sole("series", wait=True) if spec.series else contextlib.nullcontext():
                    if seeded(catalog, asked).training_seed != spec.training_seed:
                        raise RequestError(
                            f"another search of series {spec.series} began at the same moment: start again"
                        )
                    yield _create(catalog, spec, prepared, home)

            return _search(catalog, entrance(), prepared, home, began, ready, interruption, progress_stream)


def _refuse_taken(catalog: Catalog, name: str | None, home: Home) -> None:
    """Raises RequestError if a name was asked for that a search has."""
    if name is None or (taken := catalog.find(name)) is None:
        return
    if holder := catalog.holder(taken.id):
        raise RequestError(
            f"a search named {name!r} exists already and is being run by {holder}: choose another --name"
        )
    raise catalog.taken(name, home.flags())


def _read(spec: SearchSpec, progress_stream: Any) -> Prepared:
    with said_if_slow("reading model and data", progress_stream):
        return prepare(spec)


def _create(catalog: Catalog, asked: SearchSpec, prepared: Prepared, home: Home) -> SearchRecord:
    """Under the name that was asked for, or a free one. Raises RequestError if that is taken by now."""
    facts = prepared.facts | {"tracking": home.mlflow_kept()}
    while True:
        name = asked.name or _free_name(catalog, asked, prepared)
        try:
            return catalog.create_search(name, prepared.spec.to_json(), facts)
        except StoreError:
            raise
        except RequestError:  # another search has taken the name at the same moment
            _refuse_taken(catalog, asked.name, home)


def resume(
    name: str,
    home: Home,
    *,
    budget: int | None = None,
    workers: int | None = None,
    max_hours: float | None = None,
    progress_stream: Any = None,
) -> dict[str, Any]:
    """Continue a search to its budget, or to a new one, on the MLflow that it had, unless the home names another.

    `max_hours` count from now, be they new ones or those that the search began with.

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
        given: dict[str, Any] = {"budget": budget, "workers": workers, "max_hours": max_hours}
        spec = replace(spec, **{key: value for key, value in given.items() if value is not None})
        if _is_finished(catalog, search, spec, home):
            return _succeeded(search.name, _tell_again(catalog, search, home, progress_stream))
        _check_adapters(spec)
        with ray_session(spec.workers, spec.ray_address) as ready:
            prepared = following(catalog, _read(spec, progress_stream), search.created_at)
            _refuse_changes(search, prepared)
            entrance = contextlib.nullcontext(search)
            return _search(catalog, entrance, prepared, home, began, ready, interruption, progress_stream)


def tracker_of(catalog: Catalog, home: Home) -> Tracker:
    """Of the searches that write to the home's MLflow."""
    from search.tracking import Tracker

    def document(search_id: str) -> dict[str, Any]:
        return result_document(catalog, catalog.search_of(search_id))

    artifacts, flags = home.folder / "mlartifacts", home.flags(anywhere=True)
    return Tracker(catalog, home.mlflow(), artifacts, document, only=home.mlflow_kept(), flags=flags)


def _is_finished(catalog: Catalog, search: SearchRecord, spec: SearchSpec, home: Home) -> bool:
    """Whether there is nothing to do but to tell the search's MLflow what that does not know yet."""
    from search.study import open_trials

    there = search.status == "complete" and len(catalog.trials(search.id)) >= spec.budget
    same = home.mlflow_kept() == (search.facts.get("tracking") or "")
    return there and same and not open_trials(catalog.url, search.id)


def _tell_again(catalog: Catalog, search: SearchRecord, home: Home, progress_stream: Any) -> dict[str, Any]:
    found = result_document(catalog, search)
    notes = [f"search {search.name} is complete, with {len(found['points'])} trials: give a --budget for more"]
    if backlog(catalog, home.mlflow_kept()):
        notes += _told(home, search, tracker_of(catalog, home))
    for note in notes:
        print(f"note: {note}", file=progress_stream or sys.stderr, flush=True)
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
        f"MLflow at {redacted(home.mlflow())} did not take {waiting} records yet; nothing is lost: {later} sends them"
    ]


def _refuse_changes(search: SearchRecord, prepared: Prepared) -> None:
    """Raises RequestError where a trial would not be comparable with those that the search has."""
    changeable = (("data_hash", "data", "data"), ("structure", "model", "model"))
    for fact, what, where in (*changeable, ("model_digest", "weights or tokenizer of the model", "model")):
        if prepared.facts[fact] != search.facts.get(fact, prepared.facts[fact]):
            raise RequestError(
                f"the {what} of search {search.name} has changed since it began ({search.facts[where]}): restore it, "
                "or start a new search"
            )
    for fact in ("template", "scoring"):  # by the same model and data under other versions
        if prepared.facts[fact] != search.facts.get(fact, prepared.facts[fact]):
            began = search.facts.get("versions", {})
            used = " and ".join(f"{each} {began.get(each)}" for each in ("lora-target-search", "transformers"))
            raise RequestError(
                f"prompts of search {search.name} are written or scored otherwise than when it began: install {used}, "
                "which it began with, or start a new search"
            )


def _check_adapters(spec: SearchSpec) -> None:
    """Raises StoreError if adapters cannot be written where the search was asked to; homes are checked elsewhere."""
    if spec.adapters is not None:
        storage_at(spec.adapters).check(create=True)


def _search(
    catalog: Catalog,
    entrance: AbstractContextManager[SearchRecord],
    prepared: Prepared,
    home: Home,
    began: float,
    ready: Callable[[], None],
    interruption: Interruption,
    progress_stream: Any,
) -> dict[str, Any]:
    """``entrance`` gives the search's row, once everything that could still refuse has agreed, and is held until that
    has its lease.
    """
    from search.progress import Progress

    spec = prepared.spec
    kept = home.mlflow_kept()
    tracker = tracker_of(catalog, home)
    deadline = None if spec.max_hours is None else began + spec.max_hours * 3600
    progress = Progress(
        prepared.space.count(spec.budget),
        progress_stream,
        metric=prepared.facts["metric"],
        latency_axis="ttft" if prepared.assignment.space.kind == "encoder" else "tpot",
        deadline=deadline,
    )
    with _served(catalog, prepared) as served, progress:
        progress.phase("starting workers")
        ready()
        interruption.install()
        check_gpus(spec.gpus_per_trial or 0.0, spec.ray_address)
        with contextlib.ExitStack() as held:
            with entrance as search:
                lease = held.enter_context(Lease(catalog, search.id, search.name))
            for note in prepared.facts["notes"]:
                progress.note(note)
            if spec.ray_address and not spec.gpus_per_trial and (gpus := gpus_there()):
                progress.note(
                    f"the cluster has {gpus:g} GPUs, and trials use none of them: --gpus-per-trial 1 gives each one"
                )
            if spec.ray_address and not has_room(spec.gpus_per_trial or 0.0):
                progress.note(
                    f"no machine of the cluster has what a trial takes, a CPU and --gpus-per-trial "
                    f"{spec.gpus_per_trial or 0:g}: trials wait until one joins"
                )
            if prepared.spec.to_json() != search.spec:
                catalog.set_spec(search.id, prepared.spec.to_json())
            if kept != search.facts.get("tracking"):
                catalog.set_tracking(search.id, kept)
            if search.status != "running":
                catalog.set_status(search.id, "running")
            tracker.start(compare=search.id)

            def check() -> None:
                interruption.check()
                lease.check()

            _run_to_end(catalog, search, prepared, home, began, deadline, check, progress, tracker, served)
    return _succeeded(search.name, result_document(catalog, catalog.search_of(search.id)))


def _succeeded(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """Raises NoTrialSucceeded if none did, with the last reason; where all were too slow, the nearest one's."""
    if not result["trials"]["complete"]:
        ended = [point for point in result["points"] if point["reason"]]
        which = "the last one"
        if all(point["status"] == "infeasible" for point in ended):
            ended.sort(key=lambda point: -point["tpot_ratio"])
            which = "the fastest one"
        raise NoTrialSucceeded(
            f"none of {len(result['points'])} trials of search {name} succeeded; "
            + (f"{which}: {ended[-1]['reason']}" if ended else result["reason"] or "none was allowed")
        )
    return result


def _run_to_end(
    catalog: Catalog,
    search: SearchRecord,
    prepared: Prepared,
    home: Home,
    began: float,
    deadline: float | None,
    check: Callable[[], None],
    progress: Progress,
    tracker: Tracker,
    served: ServedProfiles | None,
) -> None:
    from cluster.tune import run_plan
    from objectives.checkpoint import drop_checkpoints
    from search.plan import SearchPlan
    from search.study import Study

    spec = prepared.spec
    after = contextlib.ExitStack()
    assert spec.workers is not None

    def end(status: str, reason: str | None) -> None:
        catalog.set_status(search.id, status, reason, elapsed_s=time.monotonic() - began)

    try:
        study = Study(
            catalog.url,
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
            again=prepared.before.again(spec.budget),
        )
        after.callback(study.close)
        plan = SearchPlan(
            catalog,
            study,
            search.id,
            budget=spec.budget,
            references=prepared.references,
            watcher=progress,
            check=check,
            steps=prepared.assignment.training.steps,
            pack=spec.pack or 1,
            settle=spec.stop_when == "settled",
            retries=spec.retries,
            deadline=deadline,
            served=served,
            champion=None if prepared.before.champion is None else prepared.before.champion.placement,
        )
        plan.reconcile()
        assignment = replace(prepared.assignment, adapters=home.adapters(search))
        run_plan(plan, assignment, workers=spec.workers, gpus_per_worker=spec.gpus_per_trial or 0.0)
        drop_checkpoints(assignment.adapters)  # also of what goes on after a resume: see decisions.md
        if spec.series is not None and (decided := crown(catalog, search, spec.series, prepared.before)):
            progress.note(decided.why)
        end("complete", plan.ended_by)
    except KeyboardInterrupt:
        end("interrupted", None)
        tracker.stop(5.0)
        done = sum(map(is_over, catalog.trials(search.id)))
        raise Interrupted(
            f"interrupted with {done} of {spec.budget} trials done, all kept: continue with "
            f"`python -m search resume {search.name}{home.flags()}`"
        ) from None
    except BaseException as error:
        with contextlib.suppress(Exception):  # the reason itself may be a full disk
            end("failed", str(error).splitlines()[0] if str(error) else repr(error))
            tracker.stop(5.0)
        raise
    finally:
        after.close()
    progress.phase("writing to MLflow")
    for note in _told(home, search, tracker):
        progress.note(note)


@contextlib.contextmanager
def _served(catalog: Catalog, prepared: Prepared) -> Iterator[ServedProfiles | None]:
    """Where --engine names a server. Raises RequestError if nobody answers there."""
    if prepared.spec.engine == "transformers":
        yield None
        return
    from search.latency import open_engine
    from search.served import SETTINGS, ServedProfiles

    space = prepared.assignment.space
    engine = open_engine(prepared.spec, prepared.facts["model"], space, SETTINGS)
    with closing(engine):
        yield ServedProfiles(engine, space, catalog, prepared.spec.seed)


def _free_name(catalog: Catalog, spec: SearchSpec, prepared: Prepared) -> str:
    stem = "demo" if spec.data is None else f"{Path(prepared.facts['model']).name}-{Path(prepared.facts['data']).stem}"
    return free_name(stem, catalog.names())


def free_name(stem: str, taken: Collection[str]) -> str:
    """The stem as a search may be called, with a number where that name is taken."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80] or "search"
    return next(name for i in range(1, 10**6) if (name := stem if i == 1 else f"{stem}-{i}") not in taken)

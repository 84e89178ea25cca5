"""The state of a home in words: what catalog, study, MLflow and adapters say of each search, and mending it."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

from objectives.adapter import adapter_at
from objectives.errors import RequestError, StoreError, counted
from objectives.secrets import said
from search.catalog.outbox import backlog, queue_again, waiting
from search.catalog.records import SearchRecord, TrialRecord
from search.catalog.store import Catalog
from search.home import Home
from search.lease import Lease
from search.mlflow_agreement import disagreement
from search.mlflow_store import RunState, run_states
from search.study import open_trials, tell_late
from search.tracking import tracker_of


def examine(home: Home, name: str | None, *, fix: bool) -> list[dict[str, Any]]:
    """For each search ``{"search", "status", "holder", "problems", "mended", "mlflow"}``.

    ``problems`` and ``mended`` are lists of sentences; ``mlflow`` is None, or why its runs could not be compared.
    Raises RequestError for an unknown name. A search that is being run is left alone.
    """
    with closing(Catalog(home.storage)) as catalog:
        chosen = catalog.searches() if name is None else [catalog.search(name)]
        documents = [_examine(catalog, home, search, fix) for search in chosen]
        idle = [each for each in zip(chosen, documents, strict=True) if each[1]["holder"] is None]
        by_place: dict[Home, list[tuple[SearchRecord, dict[str, Any]]]] = {}
        for search, document in idle:
            try:
                place = replace(home, tracking=home.mlflow(search))
            except RequestError as error:
                document["mlflow"] = str(error)
            else:
                by_place.setdefault(place, []).append((search, document))
        for place, searches in by_place.items():
            _examine_mlflow(catalog, place, searches, name, fix)
        return documents


def _examine(catalog: Catalog, home: Home, search: SearchRecord, fix: bool) -> dict[str, Any]:
    """What mends holds the search: somebody may resume it meanwhile, and write what would be taken for a stray."""
    problems: list[str] = []
    mended: list[str] = []
    with ExitStack() as mending:
        holder = catalog.holder(search.id)
        if holder is None and fix:
            try:
                mending.enter_context(Lease(catalog, search.id, search.name))
            except StoreError:
                raise
            except RequestError:
                holder = catalog.holder(search.id) or "a process that began a moment ago"
        if holder is None:
            search = catalog.search_of(search.id)
            catalog.follow_adapters(search.id, home.adapters(search))
            trials = catalog.trials(search.id)
            if search.status == "running":
                orphans = [trial.number for trial in trials if trial.status == "running" and trial.lease]
                sentence = f"its process ended without a word, with trials {orphans or 'none'} running"
                (mended if fix else problems).append(sentence)
                if fix:
                    for number in orphans:
                        catalog.restart(search.id, number)
                    catalog.set_status(search.id, "interrupted")
            _examine_study(catalog, home, search, trials, fix, problems, mended)
            try:
                problems += _adapters(trials)
                if search.status == "complete" and (strays := _strays(home, search, trials)):
                    deleted = " deleted" if fix else ""
                    sentence = f"{len(strays)} folders or files of no trial{deleted}: {', '.join(strays)}"
                    (mended if fix else problems).append(sentence)
                    if fix:
                        for stray in strays:
                            home.adapters(search).delete(stray)
            except StoreError as error:
                problems.append(str(error))
    return {
        "search": search.name,
        "status": catalog.search_of(search.id).status,
        "holder": holder,
        "problems": problems,
        "mended": mended,
        "mlflow": None,
    }


def _fix(home: Home) -> str:
    return f"`python -m search doctor --fix{home.flags()}`"


def _examine_study(
    catalog: Catalog,
    home: Home,
    search: SearchRecord,
    trials: list[TrialRecord],
    fix: bool,
    problems: list[str],
    mended: list[str],
) -> None:
    """What ``resume`` takes up of a search that has not ended is no problem."""
    opened = open_trials(catalog.url, search.id)
    untold = [t for t in trials if t.number in opened and t.status in ("complete", "failed", "infeasible")]
    if untold:
        sentence = f"trials {[trial.number for trial in untold]} were measured, and the study was not told"
        if fix:
            cap, steps = search.spec.get("max_tpot_ratio"), search.spec["steps"]
            tell_late(catalog.url, search.id, untold, max_ratio=cap, steps=steps)
        (mended if fix else problems).append(sentence if fix else f"{sentence}: {_fix(home)} mends it")
    unknown = sorted(opened - {trial.number for trial in trials})
    if unknown and search.status == "complete":
        problems.append(f"trials {unknown} are open in the study, and not in the catalog")


def _adapters(trials: list[TrialRecord]) -> list[str]:
    found = []
    for trial in trials:
        if trial.adapter is not None:
            try:
                with adapter_at(trial.adapter, trial.adapter_sha256):
                    pass
            except StoreError:
                raise
            except RequestError as error:
                found.append(f"trial {trial.number}: {error}")
    return found


def _strays(home: Home, search: SearchRecord, trials: list[TrialRecord]) -> list[str]:
    """Half-written adapters, checkpoints of trainings that were given up, adapters whose trial was not recorded."""
    known = {trial.adapter.rpartition("/")[2] for trial in trials if trial.adapter}
    return [name for name in home.adapters(search).names() if name not in known]


def _examine_mlflow(
    catalog: Catalog, home: Home, idle: list[tuple[SearchRecord, dict[str, Any]]], name: str | None, fix: bool
) -> None:
    """Into the documents of searches that nobody runs. The home's MLflow is read once for all of them, page by page."""
    kept = home.mlflow_kept()
    runs: dict[str, list[RunState]] | None = None
    try:
        runs = run_states(home.mlflow(), {known.mlflow_experiment_id for known, _ in idle}, name)
    except Exception as error:  # whatever MLflow, its driver or the network raise: a copy for people, no more
        for _, document in idle:
            document["mlflow"] = said(error)
    for known, document in idle:
        search = catalog.search_of(known.id)
        if runs is not None and (found := disagreement(catalog, search, runs)).all:
            document["mended" if fix else "problems"] += [
                sentence if fix else f"{sentence}: {_fix(home)} mends it" for sentence in found.sentences()
            ]
            if fix:
                queue_again(catalog, search.id, found.all)
        if fix and runs is not None and search.facts.get("tracking") != kept:
            catalog.set_tracking(search.id, kept)
    if fix and runs is not None and backlog(catalog, kept):
        tracker_of(catalog, home).stop(60.0)
    for search, document in idle:
        if pending := waiting(catalog, search.id):
            records = counted(len(pending), "record")
            document["problems"].append(f"MLflow has yet to hear of {records}: {_fix(home)} sends what is left")

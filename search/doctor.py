"""The state of a home in words: what catalog, study, outbox and adapters say of each search, and mending it."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

from objectives.adapter import check_adapter
from objectives.errors import RequestError
from search.catalog.records import SearchRecord, TrialRecord
from search.catalog.store import Catalog
from search.lease import Lease
from search.result import result_document
from search.run import Home
from search.study import open_trials


def examine(home: Home, name: str | None, *, fix: bool) -> list[dict[str, Any]]:
    """For each search ``{"search", "status", "holder", "problems", "mended"}``; the last two are lists of sentences.

    Raises RequestError for an unknown name. A search that is being run is left alone.
    """
    with closing(Catalog(home.storage)) as catalog:
        chosen = [catalog.search(name)] if name else catalog.searches()
        documents = [_examine(catalog, home, search, fix) for search in chosen]
        if documents and (sentence := _outbox(catalog, home, fix)):
            documents[0]["problems"].append(sentence)
        return documents


def _examine(catalog: Catalog, home: Home, search: SearchRecord, fix: bool) -> dict[str, Any]:
    problems: list[str] = []
    mended: list[str] = []
    holder = catalog.holder(search.id)
    if holder is None:
        catalog.follow_adapters(search.id, home.adapters(search.id))
        trials = catalog.trials(search.id)
        if search.status == "running":
            orphans = [trial.number for trial in trials if trial.status == "running" and trial.lease]
            sentence = f"its process ended without a word, with trials {orphans or 'none'} running"
            (mended if fix else problems).append(sentence)
            if fix:
                _put_back(catalog, search, orphans)
        problems += _disagreements(catalog, search, trials)
        problems += _adapters(trials)
        if search.status == "complete" and (strays := _strays(home, search, trials)):
            names = ", ".join(stray.name for stray in strays)
            deleted = " deleted" if fix else ""
            (mended if fix else problems).append(f"{len(strays)} folders or files of no trial{deleted}: {names}")
            if fix:
                _delete(strays)
    status = catalog.search_of(search.id).status
    return {"search": search.name, "status": status, "holder": holder, "problems": problems, "mended": mended}


def _put_back(catalog: Catalog, search: SearchRecord, orphans: list[int]) -> None:
    with Lease(catalog, search.id, search.name):
        for number in orphans:
            catalog.restart(search.id, number)
        catalog.set_status(search.id, "interrupted")


def _disagreements(catalog: Catalog, search: SearchRecord, trials: list[TrialRecord]) -> list[str]:
    """Those that ``resume`` mends; what it takes up of a search that has not ended is none."""
    opened, known = open_trials(catalog.url, search.id), {trial.number: trial for trial in trials}
    resume = f"`python -m search resume {search.name}` mends it"
    found = []
    untold = sorted(n for n in opened if n in known and known[n].status in ("complete", "failed", "infeasible"))
    if untold:
        found.append(f"trials {untold} were measured, and the study was not told: {resume}")
    unknown = sorted(opened - known.keys())
    if unknown and search.status == "complete":
        found.append(f"trials {unknown} are open in the study, and not in the catalog")
    return found


def _adapters(trials: list[TrialRecord]) -> list[str]:
    found = []
    for trial in trials:
        if trial.adapter is not None:
            try:
                check_adapter(Path(trial.adapter), trial.adapter_sha256)
            except RequestError as error:
                found.append(f"trial {trial.number}: {error}")
    return found


def _strays(home: Home, search: SearchRecord, trials: list[TrialRecord]) -> list[Path]:
    """Half-written adapters, checkpoints of trainings that were given up, adapters whose trial was not recorded."""
    folder = home.adapters(search.id)
    known = {Path(trial.adapter).name for trial in trials if trial.adapter}
    return sorted(entry for entry in folder.iterdir() if entry.name not in known) if folder.is_dir() else []


def _delete(strays: list[Path]) -> None:
    for stray in strays:
        if stray.is_dir() and not stray.is_symlink():
            shutil.rmtree(stray)
        else:
            stray.unlink()


def _outbox(catalog: Catalog, home: Home, fix: bool) -> str | None:
    if fix and catalog.backlog():
        from search.tracking import Tracker

        def document(search_id: str) -> dict[str, Any]:
            return result_document(catalog, catalog.search_of(search_id))

        Tracker(catalog, home.tracking, home.folder / "mlartifacts", document).stop(60.0)
    waiting = catalog.backlog()
    return (
        f"MLflow has yet to hear of {waiting} records: `python -m search doctor --fix` sends them" if waiting else None
    )

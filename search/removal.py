"""Removing searches with all that is theirs alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from objectives.errors import RequestError, StoreError
from objectives.secrets import said
from search.catalog.champions import current
from search.catalog.records import SearchRecord
from search.catalog.removal import delete_search
from search.catalog.store import Catalog
from search.catalog.submissions import OPEN, submission
from search.home import Home
from search.lease import Lease, is_held
from search.mlflow_removal import delete_runs
from search.stored_study import delete_study


def removable(catalog: Catalog, names: Collection[str]) -> list[SearchRecord]:
    """The searches of these names. Raises RequestError for one that is unknown, at work, or needed by what stays."""
    searches = [catalog.search(name) for name in dict.fromkeys(names)]
    for search in searches:
        if holder := catalog.holder(search.id):
            raise is_held(search.name, holder)
        asked = submission(catalog, search.name)
        if asked is not None and asked.status in OPEN:
            raise RequestError(f"search {search.name} is {asked.status} at the API: wait for it, or cancel it first")
        series = search.spec.get("series")
        found = None if series is None else current(catalog, series)
        if found is not None and found.champion_search == search.id:
            stays = [each.name for each in catalog.searches(series) if each.name not in names]
            if stays:
                raise RequestError(
                    f"search {search.name} has the champion of series {series} (trial {found.champion_trial}), whose "
                    f"adapter is served: remove it when a later search has found another one, or with all of the "
                    f"series, of which {stays[0]!r} would stay"
                )
    return searches


def remove(catalog: Catalog, home: Home, search: SearchRecord, *, keep_mlflow: bool) -> dict[str, Any]:
    """Deletes runs in MLflow, study, adapters, logs and rows of a search that :func:`removable` found.

    Its row goes last: after an error, or a kill, the search can be removed again. Returns ``{"search", "trials",
    "mlflow_runs", "left"}``: folders of adapters that are not this home's, and were left alone.

    Raises RequestError if somebody has begun to run it, or if MLflow cannot be reached; StoreError for what a server or
    a disk refuses.
    """
    # Without the turn of who writes to MLflow, another process could write anew what is deleted here.
    with Lease(catalog, search.id, search.name), catalog.sole("tracking", wait=True):
        trials = catalog.trials(search.id)
        runs = 0 if keep_mlflow else _delete_runs(home, search)
        delete_study(catalog.url, search.id)
        try:
            home.delete_adapters(search)
            for folder in (home.night_logs, home.api_logs):
                (folder / f"{search.name}.log").unlink(missing_ok=True)
        except StoreError:
            raise
        except OSError as error:
            raise StoreError(
                f"{error.filename} cannot be deleted ({error.strerror}), so search {search.name} is still there: mend "
                "that, and remove it again"
            ) from error
        elsewhere = {Path(trial.adapter).parent for trial in trials if trial.adapter and Path(trial.adapter).exists()}
        delete_search(catalog, search.id)
    left = sorted(map(str, elsewhere))
    return {"search": search.name, "trials": len(trials), "mlflow_runs": runs, "left": left}


def remove_old(catalog: Catalog, home: Home, search: SearchRecord, keep: int) -> Iterator[str]:
    """Removes all of the series of ``search`` but its newest ``keep`` searches, itself, and that of the champion.

    Yields what became of each, in a sentence: what cannot be removed now the next search of the series tries again.
    """
    series = search.spec["series"]
    champion = current(catalog, series)
    stay = {search.id, champion and champion.champion_search}
    for old in catalog.searches(series)[keep:]:
        if old.id in stay:
            continue
        try:
            (found,) = removable(catalog, [old.name])
            remove(catalog, home, found, keep_mlflow=False)
            yield f"search {old.name} of series {series} was removed, since --keep is {keep}"
        except RequestError as error:
            yield f"search {old.name} of series {series} stays for now: {error}"


def _delete_runs(home: Home, search: SearchRecord) -> int:
    try:
        return delete_runs(home.mlflow(search), search, home.mlflow_artifacts)
    except RequestError:
        raise
    except Exception as error:  # whatever MLflow, its driver or the network raise
        raise RequestError(
            f"search {search.name} was not removed, since MLflow cannot be reached to delete its runs "
            f"({said(error)}): try again later, or leave them there with --keep-mlflow"
        ) from error

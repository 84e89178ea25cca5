"""Which trial a user means by ``--pick``, and its adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from objectives.adapter import adapter_at
from objectives.errors import RequestError
from search import outside
from search.catalog.records import SearchRecord, TrialRecord
from search.catalog.store import Catalog


def picked(document: dict[str, Any], pick: str) -> int:
    """The number of the trial that ``pick`` names. Raises RequestError for an unknown pick, and where there is none."""
    which = outside.pick(pick)
    if isinstance(which, int):
        if all(point["trial"] != which for point in document["points"]):
            raise RequestError(
                f"--pick {pick}: no trial of that number has ended in search {document['search']}: `show` lists the "
                "front, with --json all that have"
            )
        return which
    if not document["front"]:
        raise RequestError(f"search {document['search']} has no complete trial yet: nothing can be exported")
    if which == "best":
        return int(max(document["front"], key=lambda member: member["validation_accuracy"])["trial"])
    return int(document[which]["trial"])


@contextmanager
def picked_adapter(
    catalog: Catalog, search: SearchRecord, document: dict[str, Any], pick: str
) -> Iterator[tuple[TrialRecord, Path]]:
    """The picked trial of a search with this result ``document``, and within, its adapter in a folder here.

    Raises RequestError for an unknown pick, a trial without adapter and a changed adapter.
    """
    trial = catalog.trial(search.id, picked(document, pick))
    if trial.adapter is None:
        raise RequestError(
            f"trial {trial.number} of search {search.name} has no adapter (it is {trial.status}): pick a complete one"
        )
    with adapter_at(trial.adapter, trial.adapter_sha256) as folder:
        yield trial, folder

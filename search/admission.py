"""Whether a search may begin or go on: its name is free, its series idle, and all is as it was when it began."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from objectives.errors import RequestError, StoreError
from objectives.storage import storage_at
from search.catalog.records import SearchRecord
from search.catalog.store import Catalog
from search.home import Home
from search.prepare import Prepared
from search.series import seeded
from search.spec import SearchSpec


def check_adapters(spec: SearchSpec) -> None:
    """Raises StoreError if adapters cannot be written where the search was asked to; homes are checked elsewhere."""
    if spec.adapters is not None:
        storage_at(spec.adapters).check(create=True)


def refuse_taken(catalog: Catalog, name: str | None, home: Home) -> None:
    """Raises RequestError if a name was asked for that a search has."""
    if name is None or (taken := catalog.find(name)) is None:
        return
    if holder := catalog.holder(taken.id):
        raise RequestError(
            f"a search named {name!r} exists already and is being run by {holder}: choose another --name"
        )
    raise catalog.taken(name, home.flags())


@contextmanager
def admitted(catalog: Catalog, asked: SearchSpec, prepared: Prepared, home: Home) -> Iterator[SearchRecord]:
    """A new search, within which nobody else begins one of its series: until it is known to be run.

    Raises RequestError where its name is taken by now, or a search of its series has begun since the request was read.
    """
    with catalog.sole("series", wait=True) if asked.series else nullcontext():
        if asked.series and seeded(catalog, asked).training_seed != prepared.spec.training_seed:
            raise RequestError(f"another search of series {asked.series} began at the same moment: start again")
        yield create(catalog, asked, prepared, home)


def create(catalog: Catalog, asked: SearchSpec, prepared: Prepared, home: Home) -> SearchRecord:
    """Under the name that was asked for, or a free one. Raises RequestError if that is taken by now."""
    facts = prepared.facts | {"tracking": home.mlflow_kept()}
    while True:
        name = asked.name or _free_name(catalog, asked, prepared)
        try:
            return catalog.create_search(name, prepared.spec.to_json(), facts)
        except StoreError:
            raise
        except RequestError:  # another search has taken the name at the same moment
            refuse_taken(catalog, asked.name, home)


def _free_name(catalog: Catalog, spec: SearchSpec, prepared: Prepared) -> str:
    stem = "demo" if spec.data is None else f"{Path(prepared.facts['model']).name}-{Path(prepared.facts['data']).stem}"
    return free_name(stem, catalog.names())


def free_name(stem: str, taken: Collection[str]) -> str:
    """The stem as a search may be called, with a number where that name is taken."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80] or "search"
    return next(name for i in range(1, 10**6) if (name := stem if i == 1 else f"{stem}-{i}") not in taken)


def refuse_changes(search: SearchRecord, prepared: Prepared) -> None:
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

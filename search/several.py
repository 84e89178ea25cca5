"""One search for each of several data sets, one after another, and their comparison."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from objectives.errors import RequestError, SearchError, StoreError
from objectives.secrets import said
from search.across import comparison_document
from search.admission import free_name
from search.catalog.store import Catalog
from search.home import Home
from search.prepare import prepare
from search.run import start
from search.spec import SearchSpec
from search.waiting import said_if_slow

#: Of an hour, which people are shown: a third of a second, and the least that a search is given.
_DIGITS = 4


def run_each(
    specs: Sequence[SearchSpec], home: Home, *, standard_list: bool = False, progress_stream: TextIO | None = None
) -> dict[str, Any]:
    """``{"searches": their documents, "comparison": its document, or None where there is nothing to compare}``.

    Of several, ``auto`` is TPE: only trials that ran to their end can be compared. ``max_hours`` are those of all: each
    search has an equal share of what those before it have left. With ``standard_list`` each search
    trains its reference placements, every one of them to the end, and nothing else.
    Every request is read and checked before the first search begins. Raises as :func:`search.run.start`; searches that
    have ended until then are kept.
    """
    stream = progress_stream or sys.stderr
    if series := next((spec.series for spec in specs if spec.series), None):
        raise RequestError(
            f"--series {series} is for one search on one data set: give each data set a series of its own"
        )
    for sentence in _unused(specs, standard_list):
        print(f"note: {sentence}", file=stream, flush=True)
    specs = _named(_comparable(specs), home, "ablate" if standard_list else "")
    with said_if_slow("reading model and data", stream):
        prepared = [prepare(spec) for spec in specs]
    if standard_list:
        # References are the first proposals of every strategy; a grid is the one that never stops a training early.
        counts = [sum(map(each.space.allowed, each.references)) for each in prepared]
        if not all(counts):
            raise RequestError(
                f"--max-adapter-mb {specs[0].max_adapter_mb:g} allows none of the reference placements: give more"
            )
        specs = [
            replace(spec, strategy="grid", budget=n, stop_when=SearchSpec.stop_when)
            for spec, n in zip(specs, counts, strict=True)
        ]
    del prepared  # the encoded data
    names = [spec.name or "" for spec in specs]
    documents: list[dict[str, Any]] = []
    began = time.monotonic()
    for position, spec in enumerate(specs, start=1):
        if spec.max_hours is not None:
            share = (spec.max_hours - (time.monotonic() - began) / 3600) / (len(specs) - position + 1)
            spec = replace(spec, max_hours=max(round(share, _DIGITS), 10**-_DIGITS))
        print(f"search {position} of {len(specs)}: {spec.name}", file=stream, flush=True)
        try:
            documents.append(start(spec, home, progress_stream))
        except SearchError as error:
            left = _not_begun(specs, position, home)
            if 0 < len(left) < len(specs):
                raise type(error)(
                    f"{error}; not begun: {', '.join(left)}: repeat the command with these, then compare all"
                ) from error
            raise
    if len(specs) == 1:
        return {"searches": documents, "comparison": None}
    with closing(Catalog(home.storage)) as catalog:
        try:
            comparison = comparison_document(catalog, names, max_tpot_ratio=specs[0].max_tpot_ratio, flags=home.flags())
        except RequestError as error:  # no placement came to its end everywhere; what each search found stands
            print(f"note: {error}", file=stream, flush=True)
            return {"searches": documents, "comparison": None}
        _track(catalog, home, comparison, stream)
    return {"searches": documents, "comparison": comparison}


def _not_begun(specs: Sequence[SearchSpec], position: int, home: Home) -> list[str]:
    """The data sets that have no search yet; what ended the one at ``position`` may have come before its search."""
    begun = {spec.name for spec in specs[:position]}
    with suppress(StoreError), closing(Catalog(home.storage)) as catalog:
        begun &= catalog.names()
    return [str(spec.data) for spec in specs if spec.name not in begun]


def _unused(specs: Sequence[SearchSpec], standard_list: bool) -> list[str]:
    """What a --config for one search asks for, and several that are to be compared do not do: in sentences."""
    names: tuple[str, ...] = ()
    why = ""
    if standard_list:
        names = ("strategy", "budget", "stop_when")
        why = "the reference placements are trained to their end, and no others"
    elif len(specs) > 1 and specs[0].strategy == "auto":
        names = ("stop_when",)
        why = "trials of several data sets run to their end, so that they can be compared"
    asked = {name: getattr(specs[0], name) for name in names}
    return [
        f"--{name.replace('_', '-')} {value} is not used: {why}"
        for name, value in asked.items()
        if value != getattr(SearchSpec(), name)
    ]


def _comparable(specs: Sequence[SearchSpec]) -> Sequence[SearchSpec]:
    """Of several, with a strategy under which all trials run to their end, where it is ours to choose."""
    if len(specs) == 1:
        return specs
    stop_when = SearchSpec.stop_when  # see _unused
    return [replace(spec, strategy="tpe", stop_when=stop_when) if spec.strategy == "auto" else spec for spec in specs]


def _named(specs: Sequence[SearchSpec], home: Home, kind: str) -> list[SearchSpec]:
    """With a name for each search: its prefix (``--name``, else kind and model) and its data. Raises RequestError."""
    sources = [str(spec.data) for spec in specs]
    if twice := [source for source in sources if sources.count(source) > 1]:
        raise RequestError(f"data set {twice[0]} is given twice: give each data set once")
    with closing(Catalog(home.storage)) as catalog:
        taken = catalog.names()
        named: list[SearchSpec] = []
        for spec in specs:
            model = Path(spec.model).name if spec.model else "demo"
            stem = "-".join(filter(None, [spec.name or f"{kind}-{model}".strip("-"), Path(spec.data or "").stem]))
            own = {search.name or "" for search in named}
            if spec.name is None:
                name = free_name(stem, taken | own)
            elif (name := free_name(stem, own)) in taken:
                raise catalog.taken(name, home.flags())
            named.append(replace(spec, name=name))
    return named


def _track(catalog: Catalog, home: Home, comparison: dict[str, Any], stream: TextIO) -> None:
    """A copy for people, in MLflow, which may be away: the catalog has all that it is made of."""
    from search.mlflow_runs import MlflowRuns

    try:
        MlflowRuns(catalog, home.mlflow(), home.mlflow_artifacts, lambda _: {}).write_comparison(comparison)
    except Exception as error:
        print(
            f"note: MLflow did not take the comparison ({said(error)}): `python -m search compare "
            f"{' '.join(comparison['tasks'])} --out FILE.html{home.flags()}` writes it as a page",
            file=stream,
        )

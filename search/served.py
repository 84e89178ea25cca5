"""Latency profiles of a search whose adapters will run on a server: measured there, once a latency class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from objectives.latency.classes import class_of
from objectives.latency.context import profile_context, profile_key
from objectives.latency.engine import Engine, measure
from objectives.latency.settings import LatencySettings
from objectives.modules import ModuleSpace
from objectives.placement import Placement
from search.catalog.profiles import good_profile, replace_profile
from search.catalog.store import Catalog

if TYPE_CHECKING:
    from search.prepare import Prepared

#: A request to a server gives one ratio, one in this process gives eight; a class is measured once, not each trial.
SETTINGS = LatencySettings(min_requests=8, max_seconds=4.0)


@dataclass(frozen=True)
class ServedProfiles:
    """Measures in the process that runs the search, so that no two measurements meet on the server."""

    engine: Engine
    space: ModuleSpace
    catalog: Catalog
    seed: int

    def of(self, placement: Placement) -> dict[str, Any]:
        """The profile of the placement's class; for no groups, of the base model against itself.

        Raises RequestError where the server refuses.
        """
        name = class_of(self.space, placement, self.engine).name
        key = profile_key(profile_context(self.space, self.engine.facts, SETTINGS), name)
        kept = good_profile(self.catalog, key, SETTINGS)
        if kept is None:
            pair = self.engine.open(placement, self.seed)
            kept = measure(pair, SETTINGS, seed=self.seed, engine=self.engine.name) | {"class": name}
            replace_profile(self.catalog, key, kept)
        return kept


@contextmanager
def served_profiles(catalog: Catalog, prepared: Prepared) -> Iterator[ServedProfiles | None]:
    """Where --engine names a server. Raises RequestError if nobody answers there."""
    if prepared.spec.engine == "transformers":
        yield None
        return
    from search.latency import open_engine

    space = prepared.assignment.space
    engine = open_engine(prepared.spec, prepared.facts["model"], space, SETTINGS)
    with closing(engine):
        yield ServedProfiles(engine, space, catalog, prepared.spec.seed)

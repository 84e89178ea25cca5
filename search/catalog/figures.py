"""What lists and watchers ask of trials, by the database's own reading of JSON: most of a row is samples and scores."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import select

from objectives.placement import Placement
from search.catalog.models import Trial
from search.catalog.retry import retried
from search.catalog.store import Catalog


@dataclass(frozen=True)
class TrialFigures:
    """`point` is (accuracy on validation, latency ratio) of a complete trial with an adapter, which may join the front.

    `test_accuracy` is None unless it was read.
    """

    number: int
    status: str
    placement: Placement
    point: tuple[float, float] | None
    test_accuracy: float | None


@retried
def figures(catalog: Catalog, searches: Collection[str] | None = None) -> dict[str, list[TrialFigures]]:
    """Trials by number, of each search by its id: of those asked for, or of all. One that has no trial is left out."""
    # Figures alone are read so, and all texts beside them are ours: PostgreSQL would refuse some of others.
    accuracy = Trial.measurement[("validation", "accuracy")].as_float()
    ratio = Trial.measurement[("latency", "ratio")].as_float()
    placement = (Trial.groups, Trial.rank)
    wanted = select(Trial.search_id, Trial.number, Trial.status, *placement, Trial.adapter.is_not(None)).add_columns(
        accuracy, ratio, Trial.test["accuracy"].as_float()
    )
    if searches is not None:
        wanted = wanted.where(Trial.search_id.in_(searches))
    found: dict[str, list[TrialFigures]] = {}
    with catalog.reading() as session:
        rows = session.execute(wanted.order_by(Trial.search_id, Trial.number))
        for search_id, number, status, groups, rank, kept, *point, test in rows:
            joins = status == "complete" and kept and None not in point
            trial = TrialFigures(number, status, Placement.of(groups, rank), tuple(point) if joins else None, test)
            found.setdefault(search_id, []).append(trial)
    return found

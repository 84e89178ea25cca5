"""Which placements a request asks for: among which groups and ranks, how large, and which by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from objectives.errors import RequestError
from objectives.placement import Placement
from search.spec import SearchSpec, parse_placement

if TYPE_CHECKING:
    from objectives.modules import ModuleSpace
    from search.strategy.space import PlacementSpace

#: The name of a placement that the request named so.
BASELINE = "baseline"


def with_names_of(spec: SearchSpec, space: ModuleSpace) -> SearchSpec:
    """With groups and baseline as the model has them, in their one spelling.

    Raises RequestError for names that it lacks, and for a baseline that is not searched.
    """
    if spec.groups is not None:
        groups = space.named(spec.groups, "--groups")
        spec = replace(spec, groups=None if len(groups) == len(space.groups) else groups)
    baseline = baseline_of(spec, space)
    return spec if baseline is None else replace(spec, baseline=baseline.label)


def baseline_of(spec: SearchSpec, space: ModuleSpace) -> Placement | None:
    """Raises RequestError for one that is not searched."""
    if spec.baseline is None:
        return None
    names, rank = parse_placement("--baseline", spec.baseline)
    groups, rank = space.named(names, "--baseline"), spec.middle_rank if rank is None else rank
    if rank not in spec.ranks:
        raise RequestError(
            f"--baseline {spec.baseline} has rank {rank}, which --ranks {','.join(map(str, spec.ranks))} leaves out: "
            "add it there"
        )
    if others := [name for name in groups if spec.groups and name not in spec.groups]:
        raise RequestError(
            f"--baseline {spec.baseline} has {', '.join(others)}, which --groups leaves out: add it there"
        )
    return Placement.of(groups, rank)


def named_placements(spec: SearchSpec, space: ModuleSpace) -> dict[Placement, str]:
    """The baseline, and then the reference placements, which keep their names where one of them is it."""
    from objectives.references import references

    baseline = baseline_of(spec, space)
    named = {} if baseline is None else {baseline: BASELINE}
    return named | {Placement.of(each.groups, spec.middle_rank): each.name for each in references(space, spec.groups)}


def placements_of(spec: SearchSpec, space: ModuleSpace, head: int) -> PlacementSpace:
    """Those that --groups and --max-adapter-mb allow; ``head`` are the bytes of an encoder's, which every adapter has
    besides.

    Raises RequestError if there is none, or if the baseline is too large.
    """
    from search.strategy.space import PlacementSpace

    limit = spec.max_adapter_mb
    groups = spec.groups or tuple(group.name for group in space.groups)
    if limit is None:
        return PlacementSpace(groups, spec.ranks)

    def megabytes(placement: Placement) -> float:
        return (space.adapter_bytes(placement) + head) / 1e6

    placements = PlacementSpace(groups, spec.ranks, lambda placement: megabytes(placement) <= limit)
    singles = (Placement.of([group], min(spec.ranks)) for group in groups)
    smallest = min(singles, key=lambda placement: (megabytes(placement), placement.groups))
    if not placements.allowed(smallest):
        raise RequestError(
            f"--max-adapter-mb {limit:g} allows no placement: the smallest, {smallest.label}, has "
            f"{megabytes(smallest):.10g}; give that or more, or a lower one of --ranks"
        )
    baseline = baseline_of(spec, space)
    if baseline is not None and not placements.allowed(baseline):
        raise RequestError(
            f"--max-adapter-mb {limit:g} does not allow --baseline {baseline.label}, which has "
            f"{megabytes(baseline):.10g}: give that or more"
        )
    return placements

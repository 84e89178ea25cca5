"""Looks at a model, without a search: what can be targeted, what it costs, what an adapter is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from objectives.errors import RequestError
from objectives.placement import Placement
from search.spec import SearchSpec

if TYPE_CHECKING:
    from objectives.modules import ModuleSpace


def structure_of(spec: SearchSpec) -> tuple[str, ModuleSpace]:
    """The model as asked for and its module space; reads its configuration alone. Raises ModelError."""
    from objectives import demo
    from objectives.model import kind_of, load_config, meta_model, resolve
    from objectives.modules import module_space

    model = spec.model or str(demo.model_dir())
    config = load_config(resolve(model, spec.trust_remote_code, weights=False), spec.trust_remote_code)
    kind = kind_of(config)
    return model, module_space(meta_model(config, kind), config, kind, spec.bands)


def modules_document(spec: SearchSpec, rank: int) -> dict[str, Any]:
    """What ``modules --json`` prints. Raises RequestError for a ``rank`` that no layer of the model has."""
    model, space = structure_of(spec)
    space.check_ranks([rank], "--rank")
    document = space.to_json(model)
    for reference in document["references"]:
        reference["parameters"] = space.parameters(Placement.of(reference["targets"], rank))
    return document | {"rank": rank}


def test_adapter(spec: SearchSpec, folder: Path, data_hash: str, structure: str) -> dict[str, Any]:
    """Figures of the adapter in ``folder`` on the test split of ``spec``.

    Raises RequestError if data or model are not those of the two hashes.
    """
    from objectives.workbench import Workbench
    from search.prepare import prepare

    prepared = prepare(spec)
    for what, fact, wanted in (("data", "data_hash", data_hash), ("model", "structure", structure)):
        if prepared.facts[fact] != wanted:
            raise RequestError(
                f"{what} {prepared.facts[what]} is not the {what} that the adapter was measured with ({fact} differs): "
                f"give that one with --{what}"
            )
    return Workbench(prepared.assignment).test(str(folder))

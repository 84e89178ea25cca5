"""Looks at a model, without a search: what can be targeted, what it costs, what an adapter is worth."""

from __future__ import annotations

from dataclasses import replace
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
    config = load_config(resolve(model), spec.trust_remote_code)
    kind = kind_of(config)
    return model, module_space(meta_model(config, kind), config, kind, spec.bands)


def modules_document(spec: SearchSpec, rank: int) -> dict[str, Any]:
    """What ``modules --json`` prints."""
    model, space = structure_of(spec)
    document = space.to_json(model)
    for reference in document["references"]:
        reference["parameters"] = space.parameters(Placement.of(reference["targets"], rank))
    return document | {"rank": rank}


def latency_document(spec: SearchSpec) -> dict[str, Any]:
    """What ``latency --json`` prints: the base model, every single group and every reference placement, measured."""
    import torch

    from objectives.backbone import attach
    from objectives.latency import LatencySettings, measure_pair
    from objectives.model import load_model, resolve
    from objectives.references import references
    from search.terminal import Progress

    model, space = structure_of(spec)
    if not space.groups:
        raise RequestError(f"model {model} has no module that an adapter can target")
    space.check_ranks(spec.ranks)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    base = load_model(resolve(model), space.kind, torch.bfloat16 if device == "cuda" else torch.float32, device)
    groups = [(group.name,) for group in space.groups] + [tuple(sorted(r.groups)) for r in references(space)]
    placements = [Placement.of(names, rank) for names in dict.fromkeys(groups) for rank in spec.ranks]
    encoder, settings = space.kind == "encoder", LatencySettings(max_seconds=3.0)
    profiles = []
    with Progress(len(placements), latency_axis="ttft" if encoder else "tpot") as progress:
        progress.phase("measuring the base model against itself")
        drift = measure_pair(base, base, settings, encoder=encoder, seed=spec.seed)
        for number, placement in enumerate(placements):
            progress.trial_started(number, placement.label)
            adapted = attach(base, space, placement, seed=spec.seed).get_base_model()
            profile = measure_pair(base, adapted, settings, encoder=encoder, seed=spec.seed)
            progress.trial_finished(number, placement.label, "complete", None, profile["ratio"], None, [])
            row = {"targets": list(placement.groups), "rank": placement.rank, "class": placement.label}
            profiles.append(row | profile | {"source": "measured"})
    return {
        "model": model,
        "engine": "transformers",
        "mode": "unmerged",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu, 1 thread",
        "base": drift["base"],
        "drift": {"ratio": drift["ratio"], "ratio_ci": drift["ratio_ci"]},
        "profiles": profiles,
    }


def test_adapter(spec: SearchSpec, folder: Path, data_hash: str, structure: str) -> dict[str, Any]:
    """Figures of the adapter in ``folder`` on the test split of ``spec``.

    Raises RequestError if data or model are not those of the two hashes.
    """
    from objectives.workbench import Workbench
    from search.prepare import prepare

    prepared = prepare(spec)
    for fact, wanted, given in (("data_hash", data_hash, spec.data), ("structure", structure, spec.model)):
        if prepared.facts[fact] != wanted:
            raise RequestError(f"{given} is not what the adapter was measured with ({fact} differs): give the original")
    return Workbench(replace(prepared.assignment, adapters=folder)).test(folder)

"""The ``latency`` command: profiles of one model's placements on one engine, without training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from objectives.errors import RequestError
from objectives.latency.settings import LatencySettings
from search.inspection import structure_of
from search.spec import SearchSpec

#: As many adapters share a batch where modes are compared.
MIXED_ADAPTERS = 4

if TYPE_CHECKING:
    from objectives.latency.engine import Engine
    from objectives.latency.profiling import Profiles, Shelf
    from objectives.modules import ModuleSpace


def latency_command(
    spec: SearchSpec, settings: LatencySettings, concurrencies: Sequence[int], storage: str, *, fresh: bool
) -> dict[str, Any]:
    """:func:`latency_document` with the profiles of the catalog at ``storage``, which keeps what is measured.

    ``fresh`` measures also what it has. Raises RequestError, and StoreError where the database refuses.
    """
    from objectives.latency.profiling import Shelf
    from search.catalog.profiles import profile_of, replace_profile
    from search.catalog.store import Catalog

    with closing(Catalog(storage)) as catalog:
        kept = (lambda key: None) if fresh else partial(profile_of, catalog)
        shelf = Shelf(kept, partial(replace_profile, catalog))
        return latency_document(spec, settings, concurrencies, shelf)


def latency_document(
    spec: SearchSpec,
    settings: LatencySettings,
    concurrencies: Sequence[int],
    shelf: Shelf | None = None,
) -> dict[str, Any]:
    """What ``latency --json`` prints: the base model and all placements, measured or predicted.

    Profiles are taken from ``shelf`` where it has them, and put there. Raises RequestError.
    """
    from dataclasses import replace

    from objectives.latency.profiling import profile_model
    from objectives.placement import BASE, Placement
    from search.progress import Progress

    model, space = structure_of(spec)
    if not space.groups:
        raise RequestError(f"model {model} has no module that an adapter can target")
    space.check_ranks(spec.ranks)
    profiles: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    bases: list[dict[str, Any]] = []
    modes: list[dict[str, Any]] = []
    notes: list[str] = []
    load = cache(partial(load_served, spec, model, space))  # once: a second copy of the model may not fit into memory
    with Progress(0) as progress:
        progress.phase("loading the model", 0.0)
        for position, concurrency in enumerate(concurrencies):

            def visited(placement: Placement, number: int, share: float, before: int = position) -> None:
                what = "base model against itself" if placement == BASE else placement.label
                progress.phase(f"round {number + 1}: {what}", (before + share) / len(concurrencies))

            chosen = replace(settings, concurrency=concurrency)
            with _fits(chosen), closing(open_engine(spec, model, space, chosen, load)) as opened:
                name, facts, unmerged = opened.name, opened.facts, opened.unmerged
                found = profile_model(
                    opened,
                    space,
                    spec.ranks,
                    chosen,
                    seed=spec.seed,
                    shelf=shelf,
                    visited=visited,
                )
                served, unmixed = _modes(opened, space, chosen, spec, found)
            modes += served
            notes = notes or unmixed  # at other numbers of requests it is as much
            bases.append(found.base)
            profiles += found.rows
            checks += [{**check, "concurrency": concurrency} for check in found.checks]
    errors = [check["error"] for check in checks]
    base = bases[0]
    return {
        "model": model,
        "engine": name,
        "mode": "unmerged",
        "unmerged": unmerged,
        "device": facts["device"],
        "facts": facts,
        "prompt_tokens": settings.prompt_tokens,
        "output_tokens": settings.output_tokens,
        "base": base["base"],
        "bases": [{**each["base"], "concurrency": each["concurrency"]} for each in bases],
        "drift": {key: base[key] for key in ("ratio", "ratio_ci", "settled", "concurrency")},
        "drifts": [{key: each[key] for key in ("ratio", "ratio_ci", "settled", "concurrency")} for each in bases],
        "modes": modes,
        "predictions": {"median_error": statistics.median(errors) if errors else None, "checks": checks},
        "profiles": profiles,
        "notes": notes,
    }


@contextmanager
def _fits(settings: LatencySettings) -> Iterator[None]:
    """Raises RequestError where requests of these settings do not fit into memory."""
    from objectives.device_errors import is_out_of_memory

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RequestError(
            f"--concurrency {settings.concurrency} with --prompt-tokens {settings.prompt_tokens} and --output-tokens "
            f"{settings.output_tokens} does not fit into memory: give less of them"
        ) from error


def _modes(
    engine: Engine, space: ModuleSpace, settings: LatencySettings, spec: SearchSpec, found: Profiles
) -> tuple[list[dict[str, Any]], list[str]]:
    """All groups with one adapter merged, one unmerged, and, where requests run at once, several adapters mixed.

    The other list says why there is no mixed one, where it cannot be on this engine or with this model.
    """
    from objectives.latency.engine import measure
    from objectives.placement import Placement

    every = Placement.of((group.name for group in space.groups), spec.ranks[0])
    unmerged = next(row for row in found.rows if row["targets"] == list(every.groups) and row["rank"] == every.rank)
    figures = ("ratio", "ratio_ci", "concurrency")
    notes = []
    modes = [
        # A merged adapter is the base model with other numbers, so this is the base model against itself.
        {"mode": "merged", "adapters": 1, **{key: found.base[key] for key in figures}},
        {"mode": "unmerged", "adapters": 1, **{key: unmerged[key] for key in figures}},
    ]
    if settings.concurrency > 1:
        adapters = min(settings.concurrency, MIXED_ADAPTERS)
        try:
            pair = engine.open_mixed(every, adapters, spec.seed)
        except RequestError as error:
            notes = [str(error)]
        else:
            mixed = measure(pair, settings, seed=spec.seed, engine=engine.name)
            modes.append({"mode": "mixed", "adapters": adapters, **{key: mixed[key] for key in figures}})
    return [{**mode, "targets": list(every.groups), "rank": every.rank} for mode in modes], notes


def load_served(spec: SearchSpec, model: str, space: ModuleSpace) -> Any:
    """The base model that engines in this process serve, on its device. Raises ModelError where it cannot be loaded."""
    import torch

    from objectives.model import load_base, load_config, resolve
    from objectives.quantised import check_quantised

    on_gpu = torch.cuda.is_available()
    dtype, device = (torch.bfloat16, "cuda") if on_gpu else (torch.float32, "cpu")
    folder = resolve(model, spec.trust_remote_code)
    check_quantised(load_config(folder, spec.trust_remote_code), folder)
    return load_base(folder, space.kind, dtype, device, trust_remote_code=spec.trust_remote_code)


def open_engine(
    spec: SearchSpec,
    model: str,
    space: ModuleSpace,
    settings: LatencySettings,
    load: Callable[[], Any] | None = None,
) -> Engine:
    """``load`` gives the base model to an engine in this process, for several of them to share one.

    Raises RequestError for an engine that does not exist, or that does not answer.
    """
    from objectives.model import context_length, resolve

    if settings.graphs and (spec.engine == "openai" or space.kind == "encoder"):
        why = "a server decides that itself" if spec.engine == "openai" else f"model {model} is an encoder"
        raise RequestError(f"--graphs is for decoding in this process, and {why}: leave the flag out")
    if spec.engine == "openai":
        from objectives.latency.server import ServerEngine

        assert spec.endpoint is not None  # the spec has seen to it
        if space.kind == "encoder":
            raise RequestError(
                f"model {model} is an encoder, which no completion server serves: use --engine transformers"
            )
        folder = resolve(model, spec.trust_remote_code)
        return ServerEngine(spec.endpoint, folder, space, settings, trust_remote_code=spec.trust_remote_code)
    import torch

    from objectives.latency.in_process import TransformersEngine

    on_gpu = torch.cuda.is_available()
    if settings.graphs and not on_gpu:
        raise RequestError("--graphs needs a CUDA device, and this machine has none: leave the flag out")
    if not on_gpu:
        torch.set_num_threads(1)
    base = load() if load else load_served(spec, model, space)
    needed = settings.prompt_tokens + (0 if space.kind == "encoder" else settings.output_tokens)
    if needed > (limit := context_length(base, space.kind)):
        raise RequestError(
            f"--prompt-tokens {settings.prompt_tokens} with --output-tokens {settings.output_tokens} are more than the "
            f"{limit} positions of model {model}: give fewer"
        )
    return TransformersEngine(base, space, settings)

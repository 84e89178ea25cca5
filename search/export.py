"""Take an adapter out of a search: a folder that PEFT loads, and the evidence beside it."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from objectives.adapter import adapted_layers, adapter_config, check_adapter
from objectives.errors import RequestError, StoreError
from objectives.latency.deployment import deployment
from search import outside
from search.catalog.records import SearchRecord, TrialRecord
from search.catalog.store import Catalog
from search.inspection import test_adapter
from search.model_card import model_card
from search.picked import picked_adapter
from search.result import result_document
from search.spec import SearchSpec

MANIFEST = "manifest.json"
#: Starts a server that delivers the measured latency.
SERVE = "serve.sh"
#: What a manifest tells for a measurement anew.
_VERIFIED = ("metric", "rank", "alpha", "adapter_sha256", "data_hash", "structure")


def export_adapter(catalog: Catalog, search: SearchRecord, pick: str, out: Path) -> dict[str, Any]:
    """Copy the picked trial's adapter to ``out``, whole or not at all, and return its manifest.

    Raises RequestError for an unknown pick, a trial without adapter, a changed adapter, a folder that holds
    something or an address; StoreError where the disk refuses.
    """
    out = outside.folder(out)
    document = result_document(catalog, search)
    with picked_adapter(catalog, search, document, pick) as (trial, source):
        manifest = _manifest(document, search, trial) | {"serving": _serving(source, document, search.name)}
        _write(source, manifest, out)
    return manifest


def _write(source: Path, manifest: dict[str, Any], out: Path) -> None:
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RequestError(f"--out {out} exists and is not an empty folder: choose another")
        out.parent.mkdir(parents=True, exist_ok=True)
        # A folder that is there may be a mount, a link or where a shell stands: it stays, and what is written begins
        # within, since nothing can be renamed from one file system to another.
        is_there = out.exists()
        aside = Path(tempfile.mkdtemp(prefix=".export-", dir=out if is_there else out.parent))
        try:
            partial = aside / "adapter"
            partial.mkdir()  # for whom the user's umask says, which that of mkdtemp is not
            for file in source.iterdir():
                shutil.copyfile(file, partial / file.name)
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (partial / "README.md").write_text(model_card(manifest), encoding="utf-8")
            if command := manifest["serving"]["command"]:
                (partial / SERVE).write_text(_serve_script(command), encoding="utf-8")
            if is_there:
                for file in sorted(partial.iterdir(), key=lambda file: file.name == MANIFEST):  # which says it is whole
                    file.replace(out / file.name)
            else:
                partial.replace(out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free space or choose another" if full else "choose another"
        raise StoreError(f"--out {out} cannot be written ({error.strerror}): {remedy}") from error


def _manifest(document: dict[str, Any], search: SearchRecord, trial: TrialRecord) -> dict[str, Any]:
    measurement = trial.measurement or {}
    return {
        "search": search.name,
        "trial": trial.number,
        "label": trial.placement.label,
        "targets": trial.groups,
        "rank": trial.rank,
        "alpha": search.alpha_at(trial.rank),
        "base_model": document["model"],
        "structure": document["provenance"]["structure"],
        "task": document["task"],
        "metric": document["metric"],
        "data": document["data"],
        "data_hash": document["provenance"]["data_hash"],
        "template": document["provenance"]["template"],
        "labels": document["provenance"]["labels"],
        "scoring": search.facts.get("scoring"),  # searches of older versions lack it
        "notes": document["notes"],
        "validation": _figures(measurement.get("validation")),
        "test": _figures(trial.test),
        "latency": measurement.get("latency"),
        "adapter_sha256": trial.adapter_sha256,
        "spec": search.spec,
        "provenance": document["provenance"],
    }


def _figures(evaluation: dict[str, Any] | None) -> dict[str, Any] | None:
    """Without the scores of single rows, which no reader of a manifest looks for."""
    return evaluation and {name: value for name, value in evaluation.items() if name != "scores"}


def _serving(adapter: Path, document: dict[str, Any], name: str) -> dict[str, Any]:
    """Raises RequestError if the adapter's configuration cannot be read."""
    provenance = document["provenance"]
    return deployment(
        adapter_config(adapter),
        adapted_layers(adapter),
        document["model"],
        name,
        model_type=provenance["model_type"],
        trusts_code=provenance["trust_remote_code"],
    )


def _serve_script(command: str) -> str:
    return f"""#!/bin/sh
# Serves base model and adapter with vLLM, wrapping only the layers that it names; not run where it was written.
cd "$(dirname "$0")" && exec {command}
"""


def verify_adapter(
    folder: Path, model: str | None, data: str | None, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Measure an exported adapter on the test split its search used, loaded by ``PeftModel.from_pretrained``.

    Returns {"metric", "recorded", "measured", "rows"}. Raises RequestError if there is no readable manifest, if the
    adapter was not tested or is not the one that was, if data or model are not those of the search, or if the search
    ran the model's own code, which is for who runs this to trust, and not for who wrote the manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        spec = SearchSpec.from_json(manifest["spec"])
        recorded = (manifest["test"] or {}).get("accuracy")
        needed = {} if recorded is None else {key: manifest[key] for key in _VERIFIED}
    except OSError as error:
        raise RequestError(
            f"{folder / MANIFEST} cannot be read ({error.strerror}): give the folder that `export` wrote"
        ) from error
    except RequestError as error:
        raise RequestError(f"{folder / MANIFEST} asks for what this version does not know: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{folder / MANIFEST} is not what `export` writes: export the adapter again") from error
    if recorded is None:
        raise RequestError(
            f"{folder} has no test figure to compare with, as the front of a search has once it has ended: export one "
            "of its trials then"
        )
    check_adapter(folder, needed["adapter_sha256"])
    config = adapter_config(folder)
    for key, named in (("r", "rank"), ("lora_alpha", "alpha")):
        if config.get(key) != needed[named]:  # which may well leave all labels as they are
            raise RequestError(
                f"{folder}/adapter_config.json has {key} {config.get(key)}, and the adapter was measured with "
                f"{needed[named]}: export it again"
            )
    spec = replace(spec, model=spec.model if model is None else model, data=spec.data if data is None else data)
    if spec.trust_remote_code and not trust_remote_code:
        raise RequestError(
            f"{folder / MANIFEST} was measured with the own Python code of model {spec.model}: read that, then pass "
            "--trust-remote-code to run it"
        )
    measured = test_adapter(spec, folder, needed["data_hash"], needed["structure"])
    return {
        "metric": needed["metric"],
        "recorded": recorded,
        "measured": measured["accuracy"],
        "rows": measured["rows"],
    }

"""Python that loads a search's models, for who reads a report, a model card or a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboards.format import plain


def base_class(provenance: Mapping[str, Any]) -> tuple[str, str]:
    """The class that loads a search's base model, and what it is told beside."""
    told = ", trust_remote_code=True" if provenance.get("trust_remote_code") else ""
    if provenance.get("kind") != "encoder":
        return "AutoModelForCausalLM", told
    # The checkpoint's own head, which the adapter replaces, may have other classes.
    classes = len(provenance["labels"])
    return "AutoModelForSequenceClassification", f", num_labels={classes}, ignore_mismatched_sizes=True{told}"


def adapted_model(base: str, provenance: Mapping[str, Any], folder: str) -> str:
    """Python that loads an exported adapter on its base model, in the precision that figures were taken in."""
    auto, told = base_class(provenance)
    if dtype := provenance.get("dtype"):  # searches of older versions lack it
        told += f', dtype="{dtype}"'
    return (
        f"from peft import PeftModel\nfrom transformers import {auto}\n\n"
        f"base = {auto}.from_pretrained({base!r}{told})\n"
        f'model = PeftModel.from_pretrained(base, "{folder}").eval()'
    )


def loading_code(document: dict[str, Any]) -> str:
    """As :func:`adapted_model`, for who exported to ``DIR``."""
    return adapted_model(plain(document["model"]), document.get("provenance") or {}, "DIR")

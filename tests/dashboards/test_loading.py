"""The code that a report and a model card show loads what the search loaded."""

from __future__ import annotations

from dashboards.loading import loading_code
from tests.dashboards import documents


def test_an_encoder_is_loaded_with_its_head() -> None:
    provenance = {"kind": "encoder", "labels": ["a", "b"]}
    assert loading_code(documents.document(model="it's/bert", provenance=provenance)).splitlines()[3:] == [
        'base = AutoModelForSequenceClassification.from_pretrained("it\'s/bert", num_labels=2, '
        "ignore_mismatched_sizes=True)",
        'model = PeftModel.from_pretrained(base, "DIR").eval()',
    ]
    assert "AutoModelForCausalLM" in loading_code(documents.document())


def test_a_model_is_loaded_as_the_search_loaded_it() -> None:
    provenance = {"kind": "causal", "labels": [], "dtype": "bfloat16", "trust_remote_code": True}
    assert loading_code(documents.document(model="acme/own", provenance=provenance)).splitlines()[3] == (
        "base = AutoModelForCausalLM.from_pretrained('acme/own', trust_remote_code=True, dtype=\"bfloat16\")"
    )

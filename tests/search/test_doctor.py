"""A home after a kill, examined and mended, by the command line."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine, text

from objectives.placement import Placement
from search.catalog import Catalog
from tests.commands import call, call_json
from tests.faults.replayed import FACTS, SPEC

MEASURED = {
    "validation": {"accuracy": 0.5, "accuracy_ci": [0.4, 0.6], "loss": 1.0, "standard_error": 0.05},
    "latency": {"ratio": 1.1},
}


def test_a_home_after_a_kill_is_told_and_mended(tmp_path: Path, tracking_uri: str) -> None:
    place = ["--home", str(tmp_path), "--tracking-uri", tracking_uri]
    catalog = Catalog(f"sqlite:///{tmp_path}/search.db")
    made = catalog.create_search("a", SPEC, FACTS)
    assert catalog.take(made.id) is None
    catalog.add_trial(made.id, 0, Placement.of(["o_proj"], 8), None)
    assert "a: running, process" in call("doctor", *place, code=1).stdout  # the outbox waits for its owner
    with create_engine(catalog.url).begin() as connection:
        connection.execute(text("UPDATE catalog_leases SET expires_at = '2020-01-01 00:00:00.000000'"))
    shown = call("doctor", "a", *place, code=1).stdout
    assert "a: running, run by nobody" in shown
    assert "problem: its process ended without a word, with trials [0] running" in shown
    assert "problem: MLflow has yet to hear of 1 records: `python -m search doctor --fix` sends them" in shown
    call("doctor", "b", *place, code=2)
    stray = tmp_path / "adapters" / made.id / "0009-left"
    stray.mkdir(parents=True)
    (document,) = call_json("doctor", "--fix", *place)
    assert (document["status"], document["holder"], document["problems"]) == ("interrupted", None, [])
    assert len(document["mended"]) == 1
    trial = catalog.trial(made.id, 0)
    assert (trial.lease, trial.attempts, catalog.backlog()) == (None, 2, 0)
    assert stray.is_dir(), "what a search that has not ended may still use is left alone"
    assert call_json("doctor", *place)[0]["problems"] == []

    assert catalog.take(made.id) is None
    catalog.record(made.id, 0, "complete", measurement=MEASURED, adapter=str(tmp_path / "gone"), adapter_sha256="00")
    catalog.set_status(made.id, "complete")
    catalog.release(made.id)
    shown = call("doctor", "--fix", *place, code=1).stdout
    assert "mended: 1 folders or files of no trial deleted: 0009-left" in shown
    assert f"problem: trial 0: adapter {tmp_path}/gone has no adapter_model.safetensors" in shown
    assert not stray.exists()
    catalog.close()

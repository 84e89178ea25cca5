"""Somebody renames or deletes in MLflow what a search that still runs writes to."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from search.catalog import Catalog
from search.catalog.outbox import backlog, pending
from search.mlflow_store import run_states
from search.tracking import Tracker
from tests.dashboards.documents import document
from tests.search.recorded import Reader, begin, end_trial, queue_once_more


def test_a_run_whose_id_a_kill_kept_from_the_catalog_is_found(
    catalog: Catalog, tracking_uri: str, tmp_path: Path
) -> None:
    search = begin(catalog)
    end_trial(catalog, search, 7)
    rows = pending(catalog)
    Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document()).drain()
    reader = Reader(tracking_uri)
    before = {run.info.run_id for run in reader.runs()}
    assert set(run_states(tracking_uri, [None], "demo")) == {search.id, f"{search.id}/7"}, "doctor finds it, too"
    begun_in = reader.experiment.experiment_id
    reader.client.rename_experiment(begun_in, "another")
    with create_engine(catalog.url).begin() as connection:
        connection.execute(text("UPDATE catalog_trials SET mlflow_run_id = NULL"))
    queue_once_more(catalog, rows)
    Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document()).drain()
    assert {run.info.run_id for run in reader.client.search_runs([begun_in])} == before
    assert catalog.trial(search.id, 7).mlflow_run_id in before


@pytest.mark.parametrize("deleted", ["parent", "experiment"])
def test_trials_follow_their_search_out_of_what_somebody_deleted(
    deleted: str, catalog: Catalog, tracking_uri: str, tmp_path: Path
) -> None:
    search = begin(catalog)
    tracker = Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document())
    end_trial(catalog, search, 7)
    tracker.drain()
    reader = Reader(tracking_uri)
    if deleted == "parent":
        reader.client.delete_run(reader.parent().info.run_id)
    else:  # which is not restored under its new name
        begun_in = reader.experiment.experiment_id
        reader.client.rename_experiment(begun_in, "another")
        reader.client.delete_experiment(begun_in)
    end_trial(catalog, search, 4)
    catalog.set_status(search.id, "complete")
    while tracker.drain():
        pass
    trials = reader.trials()
    assert sorted(trials) == [4, 7]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {reader.parent().info.run_id}
    assert {run.data.tags["front"] for run in trials.values()} == {"true"}
    assert backlog(catalog) == 0

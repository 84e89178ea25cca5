"""A search goes on in the experiment of MLflow that it began in, whatever somebody calls that by now."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import create_engine, text

from search.catalog import Catalog
from search.tracking import Tracker
from tests.dashboards.documents import document
from tests.search.recorded import Reader, begin, end_trial


def test_a_run_whose_id_a_kill_kept_from_the_catalog_is_found(
    catalog: Catalog, tracking_uri: str, tmp_path: Path
) -> None:
    search = begin(catalog)
    end_trial(catalog, search, 7)
    Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document()).drain()
    reader = Reader(tracking_uri)
    before = {run.info.run_id for run in reader.runs()}
    begun_in = reader.experiment.experiment_id
    reader.client.rename_experiment(begun_in, "another")
    with create_engine(catalog.url).begin() as connection:
        connection.execute(text("UPDATE catalog_trials SET mlflow_run_id = NULL"))
        connection.execute(text("UPDATE catalog_outbox SET delivered_at = NULL"))
    Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document()).drain()
    assert {run.info.run_id for run in reader.client.search_runs([begun_in])} == before
    assert catalog.trial(search.id, 7).mlflow_run_id in before

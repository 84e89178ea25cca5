"""An MLflow that cannot be had: it costs a search nothing, is told from a refusal, and is named without its secrets."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import requests

from objectives.errors import RequestError, StoreError
from search.catalog import Catalog
from search.catalog.outbox import pending
from search.mlflow_store import is_outage, open_store
from search.tracking import Tracker
from tests.dashboards.documents import document
from tests.search.recorded import begin, end_trial
from tests.waiting import wait_for


@pytest.fixture
def storage(sqlite: str) -> str:
    return sqlite


def test_an_outage_costs_the_search_nothing(catalog: Catalog, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search = begin(catalog)
    tracker = Tracker(catalog, "http://user:hunter2@127.0.0.1:1", tmp_path / "mlartifacts", lambda _: document())
    tracker.start()
    end_trial(catalog, search, 7)
    began = time.monotonic()
    assert tracker.stop(15) == 2
    assert time.monotonic() - began < 15
    first, second = pending(catalog)
    assert first.attempts >= 1
    assert first.error
    assert (second.attempts, second.error) == (0, None)
    assert "hunter2" not in first.error + caplog.text
    assert [record.message for record in caplog.records if record.name == "search.tracking"] == [
        f"MLflow takes nothing now, so results wait in the catalog: {first.error}"
    ]


def test_an_outage_may_be_as_long_as_it_likes(
    catalog: Catalog, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Seventeen hours of it: the pause between two attempts doubled until no float could hold it."""
    begin(catalog)
    tracker = Tracker(catalog, "http://127.0.0.1:1", tmp_path / "mlartifacts", lambda _: document())
    tracker._failures = 1023
    tracker.start()
    wait_for(lambda: tracker._failures >= 1024)
    began = time.monotonic()
    assert tracker.stop(15) == 1
    assert time.monotonic() - began < 10, "whatever is left of a pause"
    assert "Traceback" not in capfd.readouterr().err


def test_who_ends_while_another_process_is_at_it_waits_for_a_turn(
    catalog: Catalog, tracking_uri: str, tmp_path: Path
) -> None:
    begin(catalog)
    tracker = Tracker(catalog, tracking_uri, tmp_path / "mlartifacts", lambda _: document())
    with closing(Catalog(catalog.url)) as other, ThreadPoolExecutor(1) as pool:
        with other.sole("tracking") as held:
            assert held
            left = pool.submit(tracker.stop, 30)
            with pytest.raises(TimeoutError):
                left.result(0.1)
        assert left.result() == 0


@pytest.mark.parametrize("uri", ["./mlruns", "file:///home/mlruns", "ftp://u:secret@host/x", ""])
def test_a_tracking_uri_of_no_known_kind(uri: str, catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as refusal:
        Tracker(catalog, uri, tmp_path, lambda _: {})
    assert str(refusal.value) == (
        f"tracking URI {uri.replace('u:secret', '***')!r} is neither a database nor a server, where MLflow 3 keeps its "
        "runs: write it like sqlite:///folder/mlflow.db or http://host:5000."
    )


def test_what_a_user_set_of_mlflow_stays_but_for_its_own_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry inside MLflow's client could make a run twice."""
    for name, value in (("REQUEST_TIMEOUT", "7"), ("REQUEST_MAX_RETRIES", "5")):
        monkeypatch.setenv(f"MLFLOW_HTTP_{name}", value)
    open_store("http://127.0.0.1:1")
    assert [os.environ[f"MLFLOW_HTTP_{name}"] for name in ("REQUEST_TIMEOUT", "REQUEST_MAX_RETRIES")] == ["7", "0"]


def answered(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    return response


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (OSError(28, "No space left on device"), True),
        (StoreError("the disk is full"), True),
        (TimeoutError(), True),
        (KeyError("accuracy"), False),
        (mlflow.MlflowException("down"), True),
        (mlflow.MlflowException("wait", error_code=mlflow.protos.databricks_pb2.TEMPORARILY_UNAVAILABLE), True),
        (mlflow.MlflowException("who?", error_code=mlflow.protos.databricks_pb2.PERMISSION_DENIED), True),
        (mlflow.MlflowException("odd", error_code=mlflow.protos.databricks_pb2.INVALID_PARAMETER_VALUE), False),
        (requests.HTTPError("an adapter too large for a proxy", response=answered(413)), False),
        (requests.HTTPError("the bucket behind the server is away", response=answered(500)), True),
        (requests.ConnectionError("nobody there"), True),
    ],
)
def test_an_outage_is_told_from_a_refusal(error: Exception, outage: bool) -> None:
    assert is_outage(error) is outage

"""MLflow, fed from the catalog's outbox by a thread: a copy for people, whose outage costs a search nothing.

Rows are delivered in order. A row that MLflow itself cannot take now (down, slow, disk full) stops the pass; one that
only this row is to blame for lets the others pass. Both stay pending and are tried again, with a growing pause.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from objectives.errors import RequestError
from objectives.secrets import redacted, said
from search.catalog import Catalog, OutboxRecord, SearchRecord
from search.catalog.connect import is_same_database, parse
from search.catalog.outbox import backlog, delivered, pending, queue_again, undelivered
from search.home import Home
from search.mlflow_agreement import disagreement
from search.mlflow_runs import MlflowRuns
from search.mlflow_store import is_outage, run_states
from search.result import result_document

POLL_S = 1.0
LONGEST_PAUSE_S = 60.0
_BATCH = 100
_SCHEMES = {"http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks"}

_log = logging.getLogger(__name__)


class Tracker:
    """Delivers the outbox of the catalog's searches to one MLflow. What MLflow raises is no error: it is tried again.

    Processes on one catalog take turns, so they should also share the folders that trials name their adapters in.
    """

    def __init__(
        self,
        catalog: Catalog,
        tracking_uri: str,
        artifact_root: Path,
        document: Callable[[str], dict[str, Any]],
        only: str | None = None,
        flags: str = "",
    ) -> None:
        """`document` gives the result of a search by its id, as ``run --json`` prints it.

        `only` searches that keep this as their MLflow, and those that keep none, are delivered; by default all.
        By `flags` commands that are printed for people find the catalog.
        `artifact_root` holds adapters and figures, unless `tracking_uri` is a server, which keeps them itself.
        Raises RequestError for a tracking URI of a kind that MLflow does not take, and for the catalog's own database.
        """
        refuse_unknown_kind(tracking_uri)
        if is_same_database(parse(catalog.url), tracking_uri):
            raise RequestError(
                f"tracking URI {redacted(tracking_uri)!r} is the database of the catalog, whose tables cannot stand "
                "beside MLflow's: give MLflow a database of its own."
            )
        self._catalog = catalog
        self._uri = tracking_uri
        self._only = only
        self._uncompared: str | None = None
        self._connect: Callable[[], MlflowRuns] = lambda: MlflowRuns(
            catalog, tracking_uri, artifact_root, document, flags
        )
        self._runs: MlflowRuns | None = None
        self._failures = 0
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._deadline: float | None = None

    def start(self, compare: str | None = None) -> None:
        """Begins to deliver, in a daemon thread. The thread migrates MLflow's own database first if it is new.

        Before all else it compares MLflow with the catalog on the search whose id is ``compare``, and queues again what
        MLflow has not, or has otherwise.
        """
        self._uncompared = compare
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> int:
        """Delivers what is left, for at most so many seconds; returns how many rows are still pending."""
        self._deadline = time.monotonic() + timeout_s
        if self._thread is None:
            self._work()
        else:
            self._wake.set()
            self._thread.join(timeout_s)
        return backlog(self._catalog, self._only)

    def drain(self) -> int:
        """Delivers what is pending, unless another process is at it; returns how many rows it delivered."""
        sent = refused = 0
        try:
            if self._uncompared is None and not backlog(self._catalog, self._only):
                return 0
            with self._catalog.sole("tracking") as held:
                if held and self._uncompared is not None:
                    self._compare(self._uncompared)
                    self._uncompared = None
                # What was refused stays pending, and comes first.
                while held and (rows := pending(self._catalog, refused + _BATCH, self._only)[refused:]):
                    for row in rows:
                        if self._deliver(row):
                            sent += 1
                        else:
                            refused += 1
            failed = refused > 0
        except Exception as error:
            failed = True
            # Once an outage: its every retry would only repeat this.
            level = logging.DEBUG if self._failures else logging.WARNING
            _log.log(level, "MLflow takes nothing now, so results wait in the catalog: %s", said(error))
        self._failures = self._failures + 1 if failed else 0
        return sent

    def _compare(self, search_id: str) -> None:
        search = self._catalog.search_of(search_id)
        found = disagreement(self._catalog, search, run_states(self._uri, [search.mlflow_experiment_id], search.name))
        if found.all:
            queue_again(self._catalog, search_id, found.all)

    def _deliver(self, row: OutboxRecord) -> bool:
        try:
            if self._runs is None:
                self._runs = self._connect()
            self._runs.deliver(row)
        except Exception as error:
            undelivered(self._catalog, row.id, said(error))
            if self._runs is None or is_outage(error):
                raise
            self._runs = None  # somebody may have deleted the experiment, which is restored when it is opened
            return False
        delivered(self._catalog, row.id)
        return True

    def _work(self) -> None:
        while self._deadline is None:
            self.drain()
            self._wake.wait(min(POLL_S * 2 ** min(self._failures, 10), LONGEST_PAUSE_S))  # a float's powers end
            self._wake.clear()
        self.drain()
        # Another process may be at it: its end, or its turn, is near.
        while not self._failures and backlog(self._catalog, self._only) and time.monotonic() < self._deadline:
            time.sleep(0.1)
            self.drain()


def tracker_of(catalog: Catalog, home: Home) -> Tracker:
    """Of the searches that write to the home's MLflow."""

    def document(search_id: str) -> dict[str, Any]:
        return result_document(catalog, catalog.search_of(search_id))

    flags = home.flags(anywhere=True)
    return Tracker(catalog, home.mlflow(), home.mlflow_artifacts, document, only=home.mlflow_kept(), flags=flags)


def refuse_unknown_kind(tracking_uri: str) -> None:
    """Raises RequestError for a tracking URI that MLflow does not take."""
    if re.split(r"[:+]", tracking_uri, maxsplit=1)[0] not in _SCHEMES:
        raise RequestError(
            f"tracking URI {redacted(tracking_uri)!r} is neither a database nor a server, where MLflow 3 keeps its "
            "runs: write it like sqlite:///folder/mlflow.db or http://host:5000."
        )


def page_of(server: str, searches: Sequence[SearchRecord]) -> str:
    """Where a browser finds the first of the searches that MLflow has heard of; the server itself if it has of none.

    Without user and password, for which a browser asks.
    """
    server = re.sub(r"//\S*@", "//", server)
    for search in searches:
        if search.mlflow_run_id:
            # Without the workflow MLflow 3 opens runs as evaluations of an agent.
            run = f"experiments/{search.mlflow_experiment_id}/runs/{search.mlflow_run_id}"
            return f"{server.rstrip('/')}/#/{run}?workflowType=machine_learning"
    return server

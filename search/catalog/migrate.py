"""Brings a database to the newest schema, whoever comes first."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from objectives.errors import StoreError
from search.catalog.connect import WRITES, shown, sole

#: Optuna keeps its own Alembic history in the same database, in a table of the default name.
VERSION_TABLE = "catalog_version"
#: Held by whatever of this process migrates a database, MLflow's too: Alembic keeps what it does in globals, so that
#: two at once, in threads of searches of a notebook, end in errors of its own.
MIGRATING = threading.Lock()


def config(connection: Connection | None = None) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings


def migrate(engine: Engine) -> None:
    """Safe under concurrent first starts; a migration and its record share one transaction.

    Raises StoreError if a newer version of this program wrote the database.
    """
    scripts = ScriptDirectory.from_config(config())
    if _revision(engine) == scripts.get_current_head():
        return
    with sole(engine, "migrate"):
        if engine.dialect.name == "sqlite":
            # A lasting property of the file. Set under the lock, since setting it ignores the busy timeout.
            with engine.connect().execution_options(begin=None) as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        revision = _revision(engine)
        if revision is not None and revision not in {script.revision for script in scripts.walk_revisions()}:
            raise StoreError(
                f"database {shown(engine.url)!r} was written by a newer version of this program (schema {revision}): "
                "upgrade the program, or choose another --home."
            )
        with MIGRATING, engine.execution_options(**WRITES).begin() as connection:
            command.upgrade(config(connection), "head")


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return context.get_current_revision()

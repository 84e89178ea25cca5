"""Alembic runs this file. `migrate` hands it a connection, inside a transaction."""

from __future__ import annotations

from alembic import context

from search.catalog.migrate import VERSION_TABLE
from search.catalog.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()

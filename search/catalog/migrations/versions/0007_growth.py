"""What is asked for every few seconds, or by every night, among years of searches, nights and submissions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_searches = sa.table(
    "catalog_searches", sa.column("id", sa.String), sa.column("spec", sa.JSON), sa.column("series", sa.String)
)
_INDEXES = {
    "ix_catalog_searches_series_created_at": ("catalog_searches", ["series", "created_at"]),
    "ix_catalog_nights_status_tick": ("catalog_nights", ["status", "tick"]),
    "ix_catalog_submissions_status_submitted_at": ("catalog_submissions", ["status", "submitted_at"]),
}


def upgrade() -> None:
    op.add_column("catalog_searches", sa.Column("series", sa.String(100)))
    connection = op.get_bind()
    for search_id, spec in connection.execute(sa.select(_searches.c.id, _searches.c.spec)).all():
        if series := spec.get("series"):
            connection.execute(_searches.update().where(_searches.c.id == search_id).values(series=series))
    for name, (table, columns) in _INDEXES.items():
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, (table, _) in _INDEXES.items():
        op.drop_index(name, table)
    op.drop_column("catalog_searches", "series")

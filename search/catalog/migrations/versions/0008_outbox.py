"""What was delivered leaves the outbox, which grew with every search."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_INDEX = "ix_catalog_outbox_delivered_at_id"


def upgrade() -> None:
    op.execute("DELETE FROM catalog_outbox WHERE delivered_at IS NOT NULL")
    op.drop_index(_INDEX, "catalog_outbox")
    # SQLite before 3.35 drops no column, so that there the table is made anew.
    with op.batch_alter_table("catalog_outbox", table_kwargs={"sqlite_autoincrement": True}) as table:
        table.drop_column("delivered_at")


def downgrade() -> None:
    op.add_column("catalog_outbox", sa.Column("delivered_at", sa.DateTime(timezone=True)))
    op.create_index(_INDEX, "catalog_outbox", ["delivered_at", "id"])

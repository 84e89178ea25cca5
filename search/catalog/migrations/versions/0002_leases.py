"""One owner of a search at a time, and which owner runs a trial."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "catalog_leases",
        sa.Column("search_id", sa.String(32), nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("search_id", name="pk_catalog_leases"),
        sa.ForeignKeyConstraint(["search_id"], ["catalog_searches.id"], name="fk_catalog_leases_search_id"),
    )
    op.add_column("catalog_trials", sa.Column("lease", sa.String(32)))
    op.add_column("catalog_trials", sa.Column("late", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("catalog_trials", "late")
    op.drop_column("catalog_trials", "lease")
    op.drop_table("catalog_leases")

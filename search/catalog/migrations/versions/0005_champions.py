"""The champions of series of searches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "catalog_champions",
        sa.Column("search_id", sa.String(32), nullable=False),
        sa.Column("series", sa.String(100), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("champion_search", sa.String(32), nullable=False),
        sa.Column("champion_trial", sa.Integer(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("search_id", name="pk_catalog_champions"),
        sa.ForeignKeyConstraint(["search_id"], ["catalog_searches.id"], name="fk_catalog_champions_search_id"),
        sa.ForeignKeyConstraint(
            ["champion_search"], ["catalog_searches.id"], name="fk_catalog_champions_champion_search"
        ),
    )
    op.create_index("ix_catalog_champions_series_decided_at", "catalog_champions", ["series", "decided_at"])


def downgrade() -> None:
    op.drop_table("catalog_champions")

"""Searches, trials, latency profiles and the outbox.

Types are spelled out, not taken from the models: a migration describes the past, and models move on.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "catalog_searches",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("base", sa.JSON()),
        _moment("created_at"),
        _moment("ended_at", nullable=True),
        sa.Column("elapsed_s", sa.Double(), nullable=False),
        sa.Column("mlflow_experiment_id", sa.String(64)),
        sa.Column("mlflow_run_id", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name="pk_catalog_searches"),
        sa.UniqueConstraint("name", name="uq_catalog_searches_name"),
    )
    op.create_table(
        "catalog_trials",
        sa.Column("search_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(16), nullable=False),
        sa.Column("reference", sa.Text()),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("measurement", sa.JSON()),
        sa.Column("test", sa.JSON()),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("adapter", sa.Text()),
        sa.Column("adapter_sha256", sa.String(64)),
        _moment("asked_at"),
        _moment("ended_at", nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("mlflow_run_id", sa.String(64)),
        sa.PrimaryKeyConstraint("search_id", "number", name="pk_catalog_trials"),
        sa.ForeignKeyConstraint(["search_id"], ["catalog_searches.id"], name="fk_catalog_trials_search_id"),
    )
    op.create_index("ix_catalog_trials_search_id_digest", "catalog_trials", ["search_id", "digest"], unique=True)
    op.create_table(
        "catalog_latency_profiles",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("profile", sa.JSON(), nullable=False),
        _moment("created_at"),
        sa.PrimaryKeyConstraint("key", name="pk_catalog_latency_profiles"),
    )
    op.create_table(
        "catalog_outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("search_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("trial", sa.Integer()),
        _moment("created_at"),
        _moment("delivered_at", nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_catalog_outbox"),
        sa.ForeignKeyConstraint(["search_id"], ["catalog_searches.id"], name="fk_catalog_outbox_search_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_catalog_outbox_delivered_at_id", "catalog_outbox", ["delivered_at", "id"])


def downgrade() -> None:
    for table in ("catalog_outbox", "catalog_latency_profiles", "catalog_trials", "catalog_searches"):
        op.drop_table(table)

"""Schedules and their nights."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "catalog_schedules",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("cron", sa.String(255), nullable=False),
        sa.Column("timezone", sa.String(64), nullable=False),
        sa.Column("misfire", sa.String(8), nullable=False),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("notify", sa.Text()),
        sa.Column("paused", sa.Boolean(), nullable=False),
        _moment("created_at"),
        _moment("next_at"),
        sa.PrimaryKeyConstraint("name", name="pk_catalog_schedules"),
    )
    op.create_table(
        "catalog_nights",
        sa.Column("schedule", sa.String(200), nullable=False),
        _moment("tick"),
        sa.Column("search", sa.String(255), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("result", sa.Text()),
        sa.Column("owner", sa.String(64)),
        _moment("heartbeat_at", nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _moment("started_at", nullable=True),
        _moment("ended_at", nullable=True),
        sa.Column("seconds", sa.Double()),
        sa.Column("steps", sa.Integer()),
        sa.PrimaryKeyConstraint("schedule", "tick", name="pk_catalog_nights"),
        sa.ForeignKeyConstraint(["schedule"], ["catalog_schedules.name"], name="fk_catalog_nights_schedule"),
    )


def downgrade() -> None:
    for table in ("catalog_nights", "catalog_schedules"):
        op.drop_table(table)

"""Settings that searches of earlier versions could not choose, with what they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BEFORE = {"alpha": "2r", "label_weight": 0.0}

_searches = sa.table("catalog_searches", sa.column("id", sa.String), sa.column("spec", sa.JSON))


def upgrade() -> None:
    _rewrite(lambda spec: _BEFORE | spec)


def downgrade() -> None:
    _rewrite(lambda spec: {key: value for key, value in spec.items() if key not in _BEFORE})


def _rewrite(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    connection = op.get_bind()
    for row in connection.execute(sa.select(_searches)).all():
        connection.execute(_searches.update().where(_searches.c.id == row.id).values(spec=change(row.spec)))

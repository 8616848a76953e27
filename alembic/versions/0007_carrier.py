"""leases with an owner, ranks by priority, pauses

Revision: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_OLD_PRIORITY = 80
_FIRST_OF_ALL = "'1970-01-01 00:00:00'"


def upgrade() -> None:
    """Apply; what waits already keeps its order, behind new clinical work by 80 minutes at most."""
    op.create_table(
        "pauses",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("lane", sa.String(length=48), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pauses")),
    )
    with op.batch_alter_table("pauses", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_pauses_lane"), ["lane"], unique=False)
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        priority = sa.Column("priority", sa.Integer(), server_default=sa.text(str(_OLD_PRIORITY)), nullable=False)
        batch_op.add_column(priority)
    for table, ranked in (("jobs", ["state", "rank_at"]), ("deliveries", ["state", "destination", "rank_at"])):
        _add(table)
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.create_index(f"ix_{table}_rank", ranked, unique=False)


def _add(table: str) -> None:
    with op.batch_alter_table(table, schema=None) as batch_op:
        batch_op.add_column(sa.Column("lease_owner", sa.String(length=64), nullable=True))
        rank_at = sa.Column("rank_at", sa.DateTime(), server_default=sa.text(_FIRST_OF_ALL), nullable=False)
        batch_op.add_column(rank_at)
    rows = sa.table(table, sa.column("rank_at"), sa.column("first_due_at"))
    op.execute(rows.update().values(rank_at=rows.c.first_due_at))


def downgrade() -> None:
    """Take back."""
    for table in ("deliveries", "jobs"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_index(f"ix_{table}_rank")
            batch_op.drop_column("rank_at")
            batch_op.drop_column("lease_owner")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("priority")
    op.drop_table("pauses")

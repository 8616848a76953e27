"""objects found again after a restore, and the daily constancy runs

Revision: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply: two new tables, nothing of the old ones is touched."""
    op.create_table(
        "recovered_objects",
        sa.Column("sop_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("found_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sop_uid", name=op.f("pk_recovered_objects")),
    )
    op.create_table(
        "constancy_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("asked_by", sa.String(length=64), nullable=False),
        sa.Column("phantom_sha256", sa.String(length=64), nullable=False),
        sa.Column("bundle_hash", sa.String(length=64), nullable=False),
        sa.Column("settings_hash", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("started_at", sa.DateTime(), nullable=False),
        sa.Column("ended_at", sa.DateTime(), nullable=True),
        sa.Column("measures", sa.JSON(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_constancy_runs")),
        sa.UniqueConstraint("study_uid", name=op.f("uq_constancy_runs_study_uid")),
    )
    with op.batch_alter_table("constancy_runs", schema=None) as batch_op:
        batch_op.create_index("ix_constancy_runs_day", ["day"], unique=False)


def downgrade() -> None:
    """Take back; what the two tables held is gone."""
    with op.batch_alter_table("constancy_runs", schema=None) as batch_op:
        batch_op.drop_index("ix_constancy_runs_day")
    op.drop_table("constancy_runs")
    op.drop_table("recovered_objects")

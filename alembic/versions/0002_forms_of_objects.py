"""forms of objects

Revision: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A job may have several objects of one kind; those that are there have the plain form."""
    with op.batch_alter_table("objects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("variant", sa.String(length=16), server_default=sa.text("''"), nullable=False))
        batch_op.drop_constraint(batch_op.f("uq_objects_job_id_kind"), type_="unique")
        batch_op.create_unique_constraint(batch_op.f("uq_objects_job_id_kind_variant"), ["job_id", "kind", "variant"])


def downgrade() -> None:
    """Back to one object of a kind; the database refuses where a job has two by now."""
    with op.batch_alter_table("objects", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_objects_job_id_kind_variant"), type_="unique")
        batch_op.create_unique_constraint(batch_op.f("uq_objects_job_id_kind"), ["job_id", "kind"])
        batch_op.drop_column("variant")

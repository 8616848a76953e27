"""how far the intake journal has come

Revision: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "intake_position",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("applied", big, nullable=False),
        sa.Column("secured", big, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_intake_position")),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("intake_position")

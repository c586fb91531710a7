"""Addresses that groups keep while their heads change."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("groups") as batch_op:
        batch_op.add_column(sa.Column("endpoint", sa.Text(), nullable=True))
    with op.batch_alter_table("instances") as batch_op:
        batch_op.add_column(sa.Column("endpoint", sa.Text(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("holds", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("instances") as batch_op:
        batch_op.drop_column("holds")
        batch_op.drop_column("endpoint")
    with op.batch_alter_table("groups") as batch_op:
        batch_op.drop_column("endpoint")

"""How important each group is; what those that wait wait for, and on how many hosts room is kept for them."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("groups", sa.Column("waiting_why", sa.String(64), nullable=False, server_default=""))
    op.add_column("groups", sa.Column("waiting_kept", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("groups", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("groups") as batch_op:
        for name in ("priority", "waiting_kept", "waiting_why"):
            batch_op.drop_column(name)

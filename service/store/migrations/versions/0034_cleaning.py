"""Whose data a machine of bare metal may hold, and how far its cleaning is."""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("hosts") as batch_op:
        batch_op.add_column(sa.Column("served", sa.Text(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("cleaning", sa.String(64), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("cleaning_reason", sa.Text(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("cleaning_count", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("cleaning_until", sa.BigInteger(), nullable=False, server_default="0"))
    # Of machines that have a member now, it is known whose.
    op.execute(
        "UPDATE hosts SET served = (SELECT max(g.project) FROM claims c JOIN groups g ON g.uuid = c.group_uuid"
        " WHERE c.host_uuid = hosts.uuid)"
        " WHERE EXISTS (SELECT 1 FROM claims c JOIN groups g ON g.uuid = c.group_uuid WHERE c.host_uuid = hosts.uuid)"
    )


def downgrade() -> None:
    with op.batch_alter_table("hosts") as batch_op:
        for name in ("cleaning_until", "cleaning_count", "cleaning_reason", "cleaning", "served"):
            batch_op.drop_column(name)

"""What members were told and say of their engines; how often a group was started, apart from its start epoch."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("groups") as batch_op:
        batch_op.add_column(sa.Column("starts", sa.Integer(), nullable=False, server_default="0"))
    # Until now the epoch rose with each start and with nothing else.
    op.execute("UPDATE groups SET starts = start_epoch")
    with op.batch_alter_table("instances") as batch_op:
        batch_op.add_column(sa.Column("told_epoch", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("last_answer_at", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("engine_restarts", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("silent_since", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("instances") as batch_op:
        batch_op.drop_column("silent_since")
        batch_op.drop_column("engine_restarts")
        batch_op.drop_column("last_answer_at")
        batch_op.drop_column("told_epoch")
    with op.batch_alter_table("groups") as batch_op:
        batch_op.drop_column("starts")

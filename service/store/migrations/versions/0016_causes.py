"""What a host itself said of a member's failure, and which reason that is behind."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("groups", "instances"):
        with op.batch_alter_table(table) as batch_op:
            batch_op.add_column(sa.Column("cause", sa.Text(), nullable=False, server_default=""))
            batch_op.add_column(sa.Column("cause_of", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    for table in ("instances", "groups"):
        with op.batch_alter_table(table) as batch_op:
            batch_op.drop_column("cause_of")
            batch_op.drop_column("cause")

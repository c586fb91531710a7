"""By what bare metal starts, and whether it holds that to signatures."""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("hosts") as batch_op:
        for name in ("firmware", "secure_boot"):
            batch_op.add_column(sa.Column(name, sa.String(64), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("hosts") as batch_op:
        batch_op.drop_column("secure_boot")
        batch_op.drop_column("firmware")

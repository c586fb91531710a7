"""The NUMA cells that members are pinned to, and will be once they have moved."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("instances") as batch_op:
        batch_op.add_column(sa.Column("cells", sa.Text(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("target_cells", sa.Text(), nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("instances") as batch_op:
        batch_op.drop_column("target_cells")
        batch_op.drop_column("cells")

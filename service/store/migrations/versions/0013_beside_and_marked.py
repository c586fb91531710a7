"""What each guest takes beside its claim, and how far a host's mark had come for sure."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("host_resources", sa.Column("beside", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("hosts", sa.Column("marked", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("hosts", "marked")
    op.drop_column("host_resources", "beside")

"""What a host itself said behind the reason of its status."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("hosts", sa.Column("status_cause", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("hosts", "status_cause")

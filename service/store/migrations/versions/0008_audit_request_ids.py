"""Audit rows name the call by the server's own request id; the one that the caller chose stands beside it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.add_column(sa.Column("client_request_id", sa.Text(), nullable=False, server_default=""))
    # Up to here it was the caller's.
    op.execute("UPDATE audit SET client_request_id = request_id, request_id = ''")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_request_id"), ["request_id"], unique=False)


def downgrade() -> None:
    op.execute("UPDATE audit SET request_id = client_request_id")
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_request_id"))
        batch_op.drop_column("client_request_id")

"""What every deploy asks for and hardly ever finds is found without a look through whole tables."""

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        op.f("ix_hosts_ahead"),
        "hosts",
        ["ahead"],
        sqlite_where=sa.text("ahead = 1"),
        postgresql_where=sa.text("ahead"),
    )
    op.create_index(op.f("ix_quarantine_group_uuid"), "quarantine", ["group_uuid"])
    op.create_index(op.f("ix_group_apart_other_uuid"), "group_apart", ["other_uuid"])


def downgrade() -> None:
    op.drop_index(op.f("ix_group_apart_other_uuid"), "group_apart")
    op.drop_index(op.f("ix_quarantine_group_uuid"), "quarantine")
    op.drop_index(op.f("ix_hosts_ahead"), "hosts")

"""Devices that were out of service as their host was taken out of the fleet."""

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "left_devices",
        sa.Column("host_uuid", sa.String(32), nullable=False),
        sa.Column("hypervisor", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("ids", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("left_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("host_uuid", "hypervisor", "key", name=op.f("pk_left_devices")),
    )


def downgrade() -> None:
    op.drop_table("left_devices")

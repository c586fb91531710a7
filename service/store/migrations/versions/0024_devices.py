"""Devices of hosts, who has claimed which, and what each member has."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("functions", sa.Text(), nullable=False),
        sa.Column("cell", sa.Integer(), nullable=False),
        sa.Column("iommu_group", sa.Integer(), nullable=False),
        sa.Column("virtual_of", sa.String(length=64), nullable=False),
        sa.Column("clean", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("quarantine", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_devices_host_uuid")),
        sa.PrimaryKeyConstraint("host_uuid", "key", name=op.f("pk_devices")),
    )
    op.create_table(
        "device_claims",
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("instance_uuid", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("group_uuid", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_device_claims_host_uuid")),
        sa.PrimaryKeyConstraint("host_uuid", "key", name=op.f("pk_device_claims")),
    )
    with op.batch_alter_table("instances") as batch_op:
        batch_op.add_column(sa.Column("devices", sa.Text(), nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("instances") as batch_op:
        batch_op.drop_column("devices")
    op.drop_table("device_claims")
    op.drop_table("devices")

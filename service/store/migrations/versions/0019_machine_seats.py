"""Who sits on machines that are given out as a whole."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "machine_seats",
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("instance_uuid", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("group_uuid", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("former", sa.Text(), nullable=False),
        sa.Column("seed", sa.LargeBinary(), nullable=False),
        sa.Column("started", sa.Boolean(), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.Column("spec_hash", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("resources", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("reported_at", sa.BigInteger(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_machine_seats_host_uuid")),
        sa.PrimaryKeyConstraint("host_uuid", "instance_uuid", "attempt", name=op.f("pk_machine_seats")),
    )
    op.create_index(op.f("ix_machine_seats_key"), "machine_seats", ["key"])


def downgrade() -> None:
    op.drop_table("machine_seats")

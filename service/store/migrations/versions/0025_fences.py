"""Hosts that are switched off by their BMCs."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "fences",
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("open_host", sa.String(length=32), nullable=True),
        sa.Column("cause", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("machine", sa.String(length=64), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("orders", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_fences_host_uuid")),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_fences")),
        sa.UniqueConstraint("open_host", name=op.f("uq_fences_open_host")),
    )
    op.create_index(op.f("ix_fences_host_uuid_asked_at"), "fences", ["host_uuid", "asked_at"])
    op.create_table(
        "fence_verdicts",
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("rule", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_fence_verdicts_host_uuid")),
        sa.PrimaryKeyConstraint("host_uuid", name=op.f("pk_fence_verdicts")),
    )
    op.create_table(
        "fencing_lease",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fencing_lease")),
    )
    lease = sa.table("fencing_lease", *(sa.column(name) for name in ("id", "owner", "epoch", "lease_until")))
    op.bulk_insert(lease, [{"id": 1, "owner": "", "epoch": 0, "lease_until": 0}])


def downgrade() -> None:
    for name in ("fencing_lease", "fence_verdicts", "fences"):
        op.drop_table(name)

"""Ownership: what this database is, which hypervisor each host is, what was let go, what is held.

Of a database with machines the cluster's id stays what they bear: it is filled in at the next start. What older
versions had let go without seeing it gone is known by the claims that still stand for it.
"""

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("database", sa.String(length=32), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("generation_offset", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.create_table(
        "retired",
        sa.Column("instance_uuid", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("group_uuid", sa.String(length=32), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("seen_gone", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("instance_uuid", "attempt", "host_uuid", name=op.f("pk_retired")),
    )
    op.create_index(op.f("ix_retired_host_uuid_seen_gone"), "retired", ["host_uuid", "seen_gone"])
    op.create_index(op.f("ix_retired_at"), "retired", ["at"])
    op.create_table(
        "quarantine",
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("holding", sa.String(length=64), nullable=False),
        sa.Column("group_uuid", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("removal", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("host_uuid", "key", name=op.f("pk_quarantine")),
    )
    with op.batch_alter_table("hosts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("hypervisor", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("claim_ordered", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("ahead", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.create_unique_constraint(batch_op.f("uq_hosts_hypervisor"), ["hypervisor"])
    _what_was_before()


def downgrade() -> None:
    with op.batch_alter_table("hosts", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_hosts_hypervisor"), type_="unique")
        batch_op.drop_column("ahead")
        batch_op.drop_column("claim_ordered")
        batch_op.drop_column("hypervisor")
    for table in ("quarantine", "retired", "installation"):
        op.drop_table(table)


def _what_was_before() -> None:
    connection = op.get_bind()
    now = time.time_ns() // 1_000_000
    if connection.scalar(sa.text("SELECT count(*) FROM hosts")):
        connection.execute(
            sa.text(
                "INSERT INTO installation (id, database, cluster, generation_offset, created_at) "
                "VALUES (1, :database, '', 0, :now)"
            ),
            {"database": uuid.uuid4().hex, "now": now},
        )
    # Claims of attempts that are over: their machines may still be there.
    connection.execute(
        sa.text(
            "INSERT INTO retired (instance_uuid, attempt, host_uuid, group_uuid, why, at, seen_gone) "
            "SELECT DISTINCT c.instance_uuid, c.attempt, c.host_uuid, c.group_uuid, :why, :now, :no FROM claims c "
            "WHERE NOT EXISTS (SELECT 1 FROM instances i WHERE i.uuid = c.instance_uuid AND i.attempt = c.attempt "
            "AND (i.host_uuid = c.host_uuid OR i.target_host_uuid = c.host_uuid) AND i.status <> 'Removed')"
        ),
        {"why": "its attempt was over before records were kept", "now": now, "no": False},
    )
    # Members that were removed: a request that was on its way may bring their machine back.
    connection.execute(
        sa.text(
            "INSERT INTO retired (instance_uuid, attempt, host_uuid, group_uuid, why, at, seen_gone) "
            "SELECT i.uuid, i.attempt, i.host_uuid, i.group_uuid, :why, :now, :no FROM instances i "
            "WHERE i.status = 'Removed' AND i.host_uuid <> '' AND NOT EXISTS (SELECT 1 FROM retired r WHERE "
            "r.instance_uuid = i.uuid AND r.attempt = i.attempt AND r.host_uuid = i.host_uuid)"
        ),
        {"why": "its member was removed before records were kept", "now": now, "no": False},
    )

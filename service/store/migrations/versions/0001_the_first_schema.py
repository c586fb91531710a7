"""The first schema"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "addresses",
        sa.Column("zone_uuid", sa.String(length=32), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("instance_uuid", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("zone_uuid", "address", name=op.f("pk_addresses")),
        sa.UniqueConstraint("instance_uuid", "attempt", name=op.f("uq_addresses_instance_uuid_attempt")),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "events",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("group_uuid", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_events")),
        sa.UniqueConstraint("group_uuid", "sequence", name=op.f("uq_events_group_uuid_sequence")),
    )
    op.create_table(
        "groups",
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("exclusive_hosts", sa.Boolean(), nullable=False),
        sa.Column("phase", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("placement", sa.Text(), nullable=True),
        sa.Column("start_epoch", sa.Integer(), nullable=False),
        sa.Column("go", sa.Boolean(), nullable=False),
        sa.Column("served", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.BigInteger(), nullable=False),
        sa.Column("running_since", sa.BigInteger(), nullable=False),
        sa.Column("restarting", sa.Boolean(), nullable=False),
        sa.Column("excluded_hosts", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("deadline_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_groups")),
    )
    with op.batch_alter_table("groups", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_groups_due_at"), ["due_at"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_groups_project_created_at_uuid"), ["project", "created_at", "uuid"], unique=False
        )

    op.create_table(
        "model_services",
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_model_services")),
    )
    op.create_table(
        "requests",
        sa.Column("principal", sa.String(length=256), nullable=False),
        sa.Column("method", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("body_hash", sa.String(length=64), nullable=False),
        sa.Column("group_uuid", sa.String(length=32), nullable=False),
        sa.Column("after_revision", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("principal", "method", "request_id", name=op.f("pk_requests")),
    )
    op.create_table(
        "zones",
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_zones")),
    )
    op.create_table(
        "hosts",
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("zone_uuid", sa.String(length=32), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("status_reason", sa.Text(), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("virt_type", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["zone_uuid"], ["zones.uuid"], name=op.f("fk_hosts_zone_uuid")),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_hosts")),
    )
    with op.batch_alter_table("hosts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_hosts_zone_uuid"), ["zone_uuid"], unique=False)

    op.create_table(
        "instances",
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("group_uuid", sa.String(length=32), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("host_name", sa.Text(), nullable=False),
        sa.Column("zone_uuid", sa.String(length=32), nullable=False),
        sa.Column("machine_uuid", sa.String(length=36), nullable=False),
        sa.Column("service_port", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("mac", sa.Text(), nullable=False),
        sa.Column("unknown_since", sa.BigInteger(), nullable=False),
        sa.Column("deadline_at", sa.BigInteger(), nullable=False),
        sa.Column("boot_timeout_ms", sa.BigInteger(), nullable=False),
        sa.Column("stop_grace_ms", sa.BigInteger(), nullable=False),
        sa.Column("was_resumed", sa.Boolean(), nullable=False),
        sa.Column("stop_asked", sa.Boolean(), nullable=False),
        sa.Column("joining", sa.Boolean(), nullable=False),
        sa.Column("leaving", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["group_uuid"], ["groups.uuid"], name=op.f("fk_instances_group_uuid")),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_instances")),
    )
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_instances_group_uuid"), ["group_uuid"], unique=False)
        batch_op.create_index(batch_op.f("ix_instances_host_uuid"), ["host_uuid"], unique=False)

    op.create_table(
        "claims",
        sa.Column("instance_uuid", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("resource", sa.String(length=64), nullable=False),
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("group_uuid", sa.String(length=32), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_claims_amount_positive")),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_claims_host_uuid")),
        sa.PrimaryKeyConstraint("instance_uuid", "attempt", "resource", name=op.f("pk_claims")),
    )
    with op.batch_alter_table("claims", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_claims_group_uuid"), ["group_uuid"], unique=False)
        batch_op.create_index(batch_op.f("ix_claims_host_uuid"), ["host_uuid"], unique=False)

    op.create_table(
        "host_resources",
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("resource", sa.String(length=64), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("usable", sa.BigInteger(), nullable=False),
        sa.Column("foreign_used", sa.BigInteger(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("used >= 0", name=op.f("ck_host_resources_used_not_negative")),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_host_resources_host_uuid")),
        sa.PrimaryKeyConstraint("host_uuid", "resource", name=op.f("pk_host_resources")),
    )

    op.bulk_insert(
        sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger)),
        [{"name": "revision", "value": 0}, {"name": "compacted_revision", "value": 0}],
    )


def downgrade() -> None:
    op.drop_table("host_resources")
    with op.batch_alter_table("claims", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_claims_host_uuid"))
        batch_op.drop_index(batch_op.f("ix_claims_group_uuid"))

    op.drop_table("claims")
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_instances_host_uuid"))
        batch_op.drop_index(batch_op.f("ix_instances_group_uuid"))

    op.drop_table("instances")
    with op.batch_alter_table("hosts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_hosts_zone_uuid"))

    op.drop_table("hosts")
    op.drop_table("zones")
    op.drop_table("requests")
    op.drop_table("model_services")
    with op.batch_alter_table("groups", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_groups_project_created_at_uuid"))
        batch_op.drop_index(batch_op.f("ix_groups_due_at"))

    op.drop_table("groups")
    op.drop_table("events")
    op.drop_table("counters")
    op.drop_table("addresses")

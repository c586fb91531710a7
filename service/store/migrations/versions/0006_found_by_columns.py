"""Anti-affinity and catalogue entries of members in columns of their own; settings of the whole fleet."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_MANY = 1_000


def upgrade() -> None:
    op.create_table(
        "settings",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_settings")),
    )
    op.create_table(
        "group_apart",
        sa.Column("group_uuid", sa.String(length=32), nullable=False),
        sa.Column("other_uuid", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["group_uuid"], ["groups.uuid"], name=op.f("fk_group_apart_group_uuid_groups")),
        sa.PrimaryKeyConstraint("group_uuid", "other_uuid", name=op.f("pk_group_apart")),
    )
    op.add_column("instances", sa.Column("model_service_uuid", sa.String(length=32), nullable=False, server_default=""))
    op.create_index("ix_instances_model_service_uuid", "instances", ["model_service_uuid"])
    _copy_rules()
    _copy_entries()


def downgrade() -> None:
    op.drop_index("ix_instances_model_service_uuid", table_name="instances")
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.drop_column("model_service_uuid")
    op.drop_table("group_apart")
    op.drop_table("settings")


def _copy_rules() -> None:
    """The rows that a group's specification asks for, of every group that is there."""
    connection = op.get_bind()
    apart = sa.table("group_apart", sa.column("group_uuid"), sa.column("other_uuid"))
    for uuid, spec in connection.execute(sa.text("SELECT uuid, spec FROM groups ORDER BY uuid")).all():
        others = sorted(set(json.loads(spec)["placement"]["anti_affinity_groups"]))
        if others:
            connection.execute(apart.insert(), [{"group_uuid": uuid, "other_uuid": other} for other in others])


def _copy_entries() -> None:
    """Each member's catalogue entry, read from its specification."""
    connection = op.get_bind()
    members = sa.table("instances", sa.column("uuid"), sa.column("model_service_uuid"))
    set_entry = (
        members.update().where(members.c.uuid == sa.bindparam("of")).values(model_service_uuid=sa.bindparam("entry"))
    )
    found = [
        {"of": uuid, "entry": json.loads(spec)["model_service_uuid"]}
        for uuid, spec in connection.execute(sa.text("SELECT uuid, spec FROM instances ORDER BY uuid")).all()
    ]
    for start in range(0, len(found), _MANY):
        connection.execute(set_entry, found[start : start + _MANY])

"""Fleet and catalogue that change at run time"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STAMPED = ("zones", "hosts", "model_services")


def _stamps() -> list[sa.Column[Any]]:
    return [
        sa.Column("version", sa.BigInteger(), nullable=False, server_default="1"),
        sa.Column("created_at", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("updated_at", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("configured", sa.Text(), nullable=False, server_default=""),
    ]


def upgrade() -> None:
    for table in _STAMPED:
        with op.batch_alter_table(table, schema=None) as batch_op:
            for column in _stamps():
                batch_op.add_column(column)
            if table == "model_services":
                batch_op.add_column(sa.Column("image_uuid", sa.String(length=32), nullable=False, server_default=""))
    with op.batch_alter_table("model_services", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_services_image_uuid"), ["image_uuid"], unique=False)
    op.create_table(
        "images",
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        *_stamps(),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_images")),
    )
    op.create_table(
        "model_service_versions",
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("uuid", "version", name=op.f("pk_model_service_versions")),
    )
    op.create_table(
        "fleet_events",
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("zone_uuid", sa.String(length=32), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_fleet_events")),
    )
    op.bulk_insert(
        sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger)),
        [{"name": "fleet_revision", "value": 0}],
    )


def downgrade() -> None:
    op.execute("DELETE FROM counters WHERE name = 'fleet_revision'")
    op.drop_table("fleet_events")
    op.drop_table("model_service_versions")
    op.drop_table("images")
    with op.batch_alter_table("model_services", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_model_services_image_uuid"))
        batch_op.drop_column("image_uuid")
    for table in _STAMPED:
        with op.batch_alter_table(table, schema=None) as batch_op:
            for column in ("configured", "updated_at", "created_at", "version"):
                batch_op.drop_column(column)

"""Clusters with a name and a zone; until now one was there for as long as a host named it."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "clusters",
        sa.Column("uuid", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("zone_uuid", sa.String(length=32), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("configured", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["zone_uuid"], ["zones.uuid"], name=op.f("fk_clusters_zone_uuid_zones")),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_clusters")),
    )
    op.create_index(op.f("ix_clusters_zone_uuid"), "clusters", ["zone_uuid"])
    _named_by_hosts()


def downgrade() -> None:
    op.drop_index(op.f("ix_clusters_zone_uuid"), table_name="clusters")
    op.drop_table("clusters")


def _named_by_hosts() -> None:
    """A row for each cluster that a host names, in the zone of its oldest host; its uuid is its name until then."""
    connection = op.get_bind()
    table = sa.table(
        "clusters",
        *(sa.column(n) for n in ("uuid", "name", "zone_uuid", "document", "version", "created_at", "updated_at")),
        sa.column("configured"),
    )
    hosts = connection.execute(
        sa.text("SELECT zone_uuid, document, created_at, updated_at FROM hosts ORDER BY created_at, uuid")
    )
    found: dict[str, dict[str, object]] = {}
    for zone, document, created, updated in hosts.all():
        uuid = json.loads(document).get("cluster_uuid", "")
        if uuid and uuid not in found:
            plain = {"uuid": uuid, "name": uuid, "zone_uuid": zone}
            found[uuid] = {
                **plain,
                "document": json.dumps(plain),
                "version": 1,
                "created_at": created,
                "updated_at": updated,
                "configured": "",
            }
    if found:
        connection.execute(table.insert(), list(found.values()))

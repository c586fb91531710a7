"""Whether hosts keep groups to themselves on the network, and addresses that somebody else has."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("hosts") as batch_op:
        batch_op.add_column(sa.Column("isolation", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "foreign_addresses",
        sa.Column("zone_uuid", sa.String(length=32), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("seen_by", sa.String(length=64), nullable=False),
        sa.Column("hardware_address", sa.String(length=64), nullable=False),
        sa.Column("how", sa.String(length=64), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("zone_uuid", "address", "seen_by", name=op.f("pk_foreign_addresses")),
    )
    op.create_index(op.f("ix_foreign_addresses_seen_by"), "foreign_addresses", ["seen_by"])


def downgrade() -> None:
    op.drop_table("foreign_addresses")
    with op.batch_alter_table("hosts") as batch_op:
        batch_op.drop_column("isolation")

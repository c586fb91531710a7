"""Room that is made for a group: what is planned, who makes it, and the seats that are kept meanwhile."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bookings",
        sa.Column("instance_uuid", sa.String(32), nullable=False),
        sa.Column("host_uuid", sa.String(32), nullable=False),
        sa.Column("resource", sa.String(64), nullable=False),
        sa.Column("room", sa.String(32), nullable=False),
        sa.Column("group_uuid", sa.String(32), nullable=False),
        sa.Column("for_group", sa.String(32), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_bookings_amount_positive")),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_bookings_host_uuid_hosts")),
        sa.PrimaryKeyConstraint("instance_uuid", "host_uuid", "resource", name=op.f("pk_bookings")),
    )
    op.create_index(op.f("ix_bookings_host_uuid"), "bookings", ["host_uuid"])
    op.create_index(op.f("ix_bookings_room"), "bookings", ["room"])
    with op.batch_alter_table("host_resources") as batch_op:
        batch_op.add_column(sa.Column("booked", sa.BigInteger(), nullable=False, server_default="0"))
    with op.batch_alter_table("groups") as batch_op:
        batch_op.add_column(sa.Column("room", sa.Text()))
    with op.batch_alter_table("instances") as batch_op:
        batch_op.add_column(sa.Column("room", sa.String(32), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("room_order", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    with op.batch_alter_table("instances") as batch_op:
        batch_op.drop_column("room_order")
        batch_op.drop_column("room")
    with op.batch_alter_table("groups") as batch_op:
        batch_op.drop_column("room")
    with op.batch_alter_table("host_resources") as batch_op:
        batch_op.drop_column("booked")
    op.drop_index(op.f("ix_bookings_room"), table_name="bookings")
    op.drop_index(op.f("ix_bookings_host_uuid"), table_name="bookings")
    op.drop_table("bookings")

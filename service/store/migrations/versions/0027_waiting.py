"""Groups that wait for hosts, and how often room was given back."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_TIMES = ("waiting_since", "waiting_looked", "looked_at", "ends_at")


def upgrade() -> None:
    op.add_column("groups", sa.Column("waiting", sa.Text(), nullable=True))
    for name in _TIMES:
        op.add_column("groups", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index(op.f("ix_groups_waiting_since"), "groups", ["waiting_since"])
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "room_given_back", "value": 0}])


def downgrade() -> None:
    counters = sa.table("counters", sa.column("name", sa.String))
    op.execute(sa.delete(counters).where(counters.c.name == "room_given_back"))
    op.drop_index(op.f("ix_groups_waiting_since"), table_name="groups")
    with op.batch_alter_table("groups") as batch_op:
        for name in (*_TIMES, "waiting"):
            batch_op.drop_column(name)

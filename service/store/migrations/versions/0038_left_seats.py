"""What is kept of seats on machines that were given up."""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("machine_seats", sa.Column("unanswered", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "left_seats",
        sa.Column("host_uuid", sa.String(32), nullable=False),
        sa.Column("instance_uuid", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("group_uuid", sa.String(32), nullable=False),
        sa.Column("keys", sa.Text(), nullable=False),
        sa.Column("unanswered", sa.Boolean(), nullable=False),
        sa.Column("served", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("left_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_left_seats_host_uuid")),
        sa.PrimaryKeyConstraint("host_uuid", "instance_uuid", "attempt", name=op.f("pk_left_seats")),
    )


def downgrade() -> None:
    op.drop_table("left_seats")
    op.drop_column("machine_seats", "unanswered")

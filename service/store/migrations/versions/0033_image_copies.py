"""Copies of images on hosts: how far they have come, and which this installation has made."""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "image_copies",
        sa.Column("host_uuid", sa.String(32), sa.ForeignKey("hosts.uuid"), primary_key=True),
        sa.Column("volume", sa.String(128), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("whole", sa.Boolean(), nullable=False),
        sa.Column("withdrawn_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("began_done", sa.BigInteger(), nullable=False),
        sa.Column("rate", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("owned_until", sa.BigInteger(), nullable=False),
    )
    with op.batch_alter_table("instances") as batch_op:
        batch_op.add_column(sa.Column("staging", sa.Text()))
    with op.batch_alter_table("hosts") as batch_op:
        batch_op.add_column(sa.Column("images", sa.Text(), nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("hosts") as batch_op:
        batch_op.drop_column("images")
    with op.batch_alter_table("instances") as batch_op:
        batch_op.drop_column("staging")
    op.drop_table("image_copies")

"""Live moves: where a member is on its way to, and claims of one attempt on two hosts."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ONE_HOST = ["instance_uuid", "attempt", "resource"]
MANY_HOSTS = [*ONE_HOST, "host_uuid"]


def upgrade() -> None:
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.add_column(sa.Column("move", sa.String(length=64), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("target_host_uuid", sa.String(length=32), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("target_host_name", sa.Text(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("move_deadline_at", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.create_index(batch_op.f("ix_instances_target_host_uuid"), ["target_host_uuid"], unique=False)
    _claims_key(MANY_HOSTS)


def downgrade() -> None:
    _claims_key(ONE_HOST)
    with op.batch_alter_table("instances", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_instances_target_host_uuid"))
        for column in ("move_deadline_at", "target_host_name", "target_host_uuid", "move"):
            batch_op.drop_column(column)


def _claims_key(columns: list[str]) -> None:
    """Another primary key for the claims. SQLite cannot change one: there the table is made anew and copied."""
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("pk_claims", "claims", type_="primary")
        op.create_primary_key("pk_claims", "claims", columns)
        return
    names = "instance_uuid, attempt, resource, host_uuid, group_uuid, amount"
    op.rename_table("claims", "claims_before")
    for index in ("ix_claims_host_uuid", "ix_claims_group_uuid"):
        op.drop_index(index, table_name="claims_before")
    op.create_table(
        "claims",
        sa.Column("instance_uuid", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("resource", sa.String(length=64), nullable=False),
        sa.Column("host_uuid", sa.String(length=32), nullable=False),
        sa.Column("group_uuid", sa.String(length=32), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_claims_amount_positive")),
        sa.ForeignKeyConstraint(["host_uuid"], ["hosts.uuid"], name=op.f("fk_claims_host_uuid_hosts")),
        sa.PrimaryKeyConstraint(*columns, name=op.f("pk_claims")),
    )
    op.execute(f"INSERT INTO claims ({names}) SELECT {names} FROM claims_before")
    op.drop_table("claims_before")
    op.create_index("ix_claims_host_uuid", "claims", ["host_uuid"])
    op.create_index("ix_claims_group_uuid", "claims", ["group_uuid"])

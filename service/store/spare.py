"""How many hosts hold nothing, for groups that leave some empty."""

from __future__ import annotations

from sqlalchemy import Connection, func, or_, select, text

from service.domain.cleaning import CleaningState
from service.domain.fleet import HostState, HostStatus
from service.store import schema
from service.store.engine import SPARE_LOCK

_CLAIMS, _RESOURCES = schema.claims, schema.host_resources
_SPARE = (
    select(func.count())
    .select_from(schema.hosts)
    .where(
        schema.hosts.c.state == HostState.ENABLED.value,
        schema.hosts.c.status == HostStatus.CONNECTED.value,
        schema.hosts.c.cleaning == CleaningState.OPEN.value,
        ~select(_CLAIMS.c.host_uuid).where(_CLAIMS.c.host_uuid == schema.hosts.c.uuid).exists(),
        ~select(_RESOURCES.c.host_uuid)
        .where(
            _RESOURCES.c.host_uuid == schema.hosts.c.uuid,
            or_(_RESOURCES.c.foreign_used > 0, _RESOURCES.c.booked > 0),
        )
        .exists(),
    )
)


def spare_hosts(connection: Connection) -> int:
    """How many hosts take claims and hold nothing, with the claims of this transaction counted.

    Whoever asks waits for the others that have asked: two that each leave a spare host must not count the same one.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SPARE_LOCK})
    return int(connection.scalar(_SPARE) or 0)

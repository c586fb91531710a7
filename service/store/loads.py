"""What hosts carry by the rows of members and claims, counted where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from service.domain.groups import InstanceStatus
from service.store import schema
from service.store.statement import Statement, among

_MEMBERS, _CLAIMS = schema.instances, schema.claims
_SEATED = Statement(
    select(_MEMBERS.c.host_uuid, func.count().label("n"))
    .where(among(_MEMBERS.c.host_uuid, "of"), _MEMBERS.c.status != InstanceStatus.REMOVED.value)
    .group_by(_MEMBERS.c.host_uuid)
)
_ARRIVING = Statement(
    select(_MEMBERS.c.target_host_uuid.label("host_uuid"), func.count().label("n"))
    .where(among(_MEMBERS.c.target_host_uuid, "of"))
    .group_by(_MEMBERS.c.target_host_uuid)
)
_CURRENT = (
    select(_MEMBERS.c.uuid)
    .where(
        _MEMBERS.c.uuid == _CLAIMS.c.instance_uuid,
        _MEMBERS.c.attempt == _CLAIMS.c.attempt,
        or_(_MEMBERS.c.host_uuid == _CLAIMS.c.host_uuid, _MEMBERS.c.target_host_uuid == _CLAIMS.c.host_uuid),
        _MEMBERS.c.status != InstanceStatus.REMOVED.value,
    )
    .exists()
)
_STALE = Statement(
    select(_CLAIMS.c.host_uuid, _CLAIMS.c.instance_uuid, _CLAIMS.c.attempt)
    .where(among(_CLAIMS.c.host_uuid, "of"), ~_CURRENT)
    .distinct()
)


@dataclass(frozen=True, slots=True)
class HostLoad:
    """What the store knows a host to carry: seated members, and claims of attempts that are over."""

    members: int = 0
    stale_claims: int = 0


def of_hosts(connection: Connection, uuids: Sequence[str]) -> Mapping[str, HostLoad]:
    """What these hosts carry."""
    if not uuids:
        return {}
    counted = {r.host_uuid: int(r.n) for r in _SEATED.all(connection, {"of": uuids})}
    for row in _ARRIVING.all(connection, {"of": uuids}):
        counted[row.host_uuid] = counted.get(row.host_uuid, 0) + int(row.n)
    over: dict[str, int] = {}
    for row in _STALE.all(connection, {"of": uuids}):
        over[row.host_uuid] = over.get(row.host_uuid, 0) + 1
    return {uuid: HostLoad(counted.get(uuid, 0), over.get(uuid, 0)) for uuid in uuids}

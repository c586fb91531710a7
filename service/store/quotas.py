"""Tenants' quotas. Usage is never kept: it is the sum of the tenant's claims, read under the lock of its quota rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from service.domain.tenants import Quota
from service.errors import QuotaExceeded
from service.store import schema
from service.store.statement import Statement

_LOCK = Statement(
    update(schema.quotas)
    .where(schema.quotas.c.project == bindparam("of"))
    .values(generation=schema.quotas.c.generation + 1)
    .returning(schema.quotas.c.resource, schema.quotas.c.limit)
)
_CLAIMS = schema.claims
# A member counts once. One that is moved live has claims on two hosts, and one that was placed anew keeps its old claim
# until its old host was seen without it; neither is its tenant's doing.
_ONCE = (
    select(_CLAIMS.c.instance_uuid, _CLAIMS.c.resource, func.max(_CLAIMS.c.amount).label("amount"))
    .join(schema.groups, schema.groups.c.uuid == _CLAIMS.c.group_uuid)
    .where(schema.groups.c.project == bindparam("of"))
    .group_by(_CLAIMS.c.instance_uuid, _CLAIMS.c.resource)
    .subquery()
)
_USED = select(_ONCE.c.resource, func.sum(_ONCE.c.amount).label("amount")).group_by(_ONCE.c.resource)


def put(connection: Connection, quotas: Iterable[Quota]) -> None:
    """Make these the only quotas. A limit below what is used already refuses new claims and ends none."""
    connection.execute(delete(schema.quotas))
    rows = [
        {"project": quota.project, "resource": resource, "limit": limit, "generation": 0}
        for quota in quotas
        for resource, limit in sorted(quota.limits.items())
    ]
    if rows:
        connection.execute(insert(schema.quotas), rows)


def check(connection: Connection, project: str, wanted: Mapping[str, int]) -> None:
    """Raises QuotaExceeded where `wanted` (a named vector) would bring the project above a limit."""
    compare(connection, project, lock(connection, project), wanted)


def lock(connection: Connection, project: str) -> Mapping[str, int]:
    """The limits of the project, by which nobody else is judged until this transaction ends.

    The rows are written, so that two gangs of one project wait for each other: the second one reads the sum with
    the first one's claims in it. A plain SELECT would let both pass.
    """
    return {resource: int(limit) for resource, limit in _LOCK.all(connection, {"of": project})}


def foresee(connection: Connection, project: str, wanted: Mapping[str, int]) -> None:
    """As `check`, without a lock: for plans that write nothing."""
    rows = connection.execute(
        select(schema.quotas.c.resource, schema.quotas.c.limit).where(schema.quotas.c.project == project)
    )
    compare(connection, project, {row.resource: int(row.limit) for row in rows}, wanted)


def compare(connection: Connection, project: str, limits: Mapping[str, int], wanted: Mapping[str, int]) -> None:
    """See `check`; `limits`: those of the project."""
    if not limits:
        return
    sums = connection.execute(_USED, {"of": project})
    used = {row.resource: int(row.amount) for row in sums}
    for resource, limit in sorted(limits.items()):
        total = used.get(resource, 0) + wanted.get(resource, 0)
        if wanted.get(resource, 0) and total > limit:
            raise QuotaExceeded(f"project {project}", resource, limit, total, used.get(resource, 0))

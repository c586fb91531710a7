"""What projects use, counted where it is asked for: their groups, claims and quotas. Nothing of it is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import Connection, Select, distinct, func, select

from service.domain.groups import GroupPhase, InstanceStatus
from service.domain.specs import NodeSpec
from service.domain.tenants import ProjectClaims
from service.store import schema
from service.store.claims import OF_HOST
from service.store.codec import decode_known
from service.store.statement import Statement, among

_GROUPS, _INSTANCES, _CLAIMS = schema.groups, schema.instances, schema.claims
_OVER = tuple(
    phase.value for phase in (GroupPhase.CLEANING, GroupPhase.FAILED, GroupPhase.DELETING, GroupPhase.DELETED)
)


_WHOSE = (
    select(_CLAIMS.c.host_uuid, _GROUPS.c.project)
    .join(_GROUPS, _GROUPS.c.uuid == _CLAIMS.c.group_uuid)
    .where(among(_CLAIMS.c.host_uuid, "of"))
)
_MEMBERS_THERE = Statement(
    _WHOSE.add_columns(func.count(distinct(_CLAIMS.c.instance_uuid)).label("n")).group_by(
        _CLAIMS.c.host_uuid, _GROUPS.c.project
    )
)
_AMOUNTS_THERE = Statement(
    _WHOSE.add_columns(_CLAIMS.c.resource, func.sum(_CLAIMS.c.amount).label("amount"))
    .where(OF_HOST)
    .group_by(_CLAIMS.c.host_uuid, _GROUPS.c.project, _CLAIMS.c.resource)
)


def projects(connection: Connection) -> frozenset[str]:
    """Every project that has a quota, a group that is not deleted, or a claim."""
    having = (
        select(schema.quotas.c.project),
        select(_GROUPS.c.project).where(_GROUPS.c.phase != GroupPhase.DELETED.value),
        select(_GROUPS.c.project).where(_GROUPS.c.uuid.in_(select(_CLAIMS.c.group_uuid))),
    )
    return frozenset(name for query in having for name in connection.scalars(query.distinct()))


def counts(connection: Connection, of: Collection[str] | None = None) -> Mapping[str, tuple[int, int]]:
    """Project -> how many groups that are not deleted it has, and how many members of these are not removed."""
    of_groups = _of(
        select(_GROUPS.c.project, func.count().label("n"))
        .where(_GROUPS.c.phase != GroupPhase.DELETED.value)
        .group_by(_GROUPS.c.project),
        of,
    )
    of_members = _of(
        select(_GROUPS.c.project, func.count().label("n"))
        .join(_INSTANCES, _INSTANCES.c.group_uuid == _GROUPS.c.uuid)
        .where(_GROUPS.c.phase != GroupPhase.DELETED.value, _INSTANCES.c.status != InstanceStatus.REMOVED.value)
        .group_by(_GROUPS.c.project),
        of,
    )
    members = {row.project: int(row.n) for row in connection.execute(of_members)}
    return {row.project: (int(row.n), members.get(row.project, 0)) for row in connection.execute(of_groups)}


def claimed(connection: Connection, of: Collection[str] | None = None) -> Mapping[str, Mapping[str, int]]:
    """Project -> what its members claim, as `quotas.check` counts it: each member once, on however many hosts."""
    once = _of(
        select(_GROUPS.c.project, _CLAIMS.c.resource, func.max(_CLAIMS.c.amount).label("amount"))
        .join(_GROUPS, _GROUPS.c.uuid == _CLAIMS.c.group_uuid)
        .where(OF_HOST)
        .group_by(_GROUPS.c.project, _CLAIMS.c.instance_uuid, _CLAIMS.c.resource),
        of,
    ).subquery()
    sums = select(once.c.project, once.c.resource, func.sum(once.c.amount).label("amount"))
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for row in connection.execute(sums.group_by(once.c.project, once.c.resource)):
        found[row.project][row.resource] = int(row.amount)
    return found


def waiting(connection: Connection, of: Collection[str] | None = None) -> Mapping[str, Sequence[NodeSpec]]:
    """Project -> the members that were accepted and have no claim yet."""
    query = _of(
        select(_GROUPS.c.project, _INSTANCES.c.spec)
        .join(_GROUPS, _GROUPS.c.uuid == _INSTANCES.c.group_uuid)
        .where(
            _INSTANCES.c.status == InstanceStatus.PENDING.value,
            _GROUPS.c.phase.not_in(_OVER),
            ~select(_CLAIMS.c.instance_uuid).where(_CLAIMS.c.instance_uuid == _INSTANCES.c.uuid).exists(),
        ),
        of,
    )
    found: dict[str, list[NodeSpec]] = defaultdict(list)
    for row in connection.execute(query):
        found[row.project].append(decode_known(NodeSpec, row.spec))
    return found


def limits(connection: Connection, of: Collection[str] | None = None) -> Mapping[str, Mapping[str, int]]:
    """Project -> its quota."""
    table = schema.quotas
    query = select(table.c.project, table.c.resource, table.c.limit)
    if of is not None:
        query = query.where(table.c.project.in_(of))
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for row in connection.execute(query):
        found[row.project][row.resource] = int(row.limit)
    return found


def on_hosts(connection: Connection, hosts: Sequence[str]) -> Mapping[str, tuple[ProjectClaims, ...]]:
    """Host uuid -> what each project's members claim there, ordered by project."""
    counted = _MEMBERS_THERE.all(connection, {"of": hosts}) if hosts else []
    amounts: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for row in _AMOUNTS_THERE.all(connection, {"of": hosts}) if hosts else ():
        amounts[row.host_uuid, row.project][row.resource] = int(row.amount)
    found: dict[str, list[ProjectClaims]] = defaultdict(list)
    for row in sorted(counted, key=lambda row: row.project):
        found[row.host_uuid].append(ProjectClaims(row.project, int(row.n), amounts[row.host_uuid, row.project]))
    return {host: tuple(claims) for host, claims in found.items()}


def _of(query: Select[*tuple[object, ...]], projects_of: Collection[str] | None) -> Select[*tuple[object, ...]]:
    """The query of these projects alone; None: of all."""
    return query if projects_of is None else query.where(_GROUPS.c.project.in_(projects_of))

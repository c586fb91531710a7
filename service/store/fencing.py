"""Fences by BMCs, what is thought of silent hosts, and the lease of the process that judges them, as rows.

Every write of the process that judges says for which epoch of its lease it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, delete, func, insert, select, update

from service.domain.fencing import HOUR_MS, OPEN, Fence, FenceCause, FenceState, Rule, Verdict
from service.domain.groups import InstanceStatus
from service.domain.presets import Scope
from service.store import fleet_events, schema
from service.store.fleet_events import FleetChange
from service.store.statement import Statement, among

_FENCES, _VERDICTS, _LEASE = schema.fences, schema.fence_verdicts, schema.fencing_lease
_INSTANCES, _GROUPS = schema.instances, schema.groups
_TOGETHER = frozenset({Scope.HEAD.value, Scope.GROUP.value})
"""Engines whose members cannot do without each other."""
_OPEN = Statement(select(_FENCES).where(_FENCES.c.open_host.is_not(None)).order_by(_FENCES.c.asked_at, _FENCES.c.uuid))
_OWNERS = Statement(select(_LEASE.c.owner).where(_LEASE.c.lease_until > bindparam("now")))
_LAST = (
    select(_FENCES.c.host_uuid, func.max(_FENCES.c.asked_at).label("at"))
    .where(among(_FENCES.c.host_uuid, "of"))
    .group_by(_FENCES.c.host_uuid)
    .subquery()
)
_NEWEST = Statement(
    select(_FENCES)
    .join(_LAST, (_FENCES.c.host_uuid == _LAST.c.host_uuid) & (_FENCES.c.asked_at == _LAST.c.at))
    .order_by(case((_FENCES.c.open_host.is_not(None), 1), else_=0), _FENCES.c.uuid)
)
_FENCE = Statement(select(_FENCES).where(_FENCES.c.uuid == bindparam("of")))
_OPEN_OF = Statement(select(_FENCES).where(_FENCES.c.open_host == bindparam("host")))
_LATELY = Statement(
    select(func.count().label("n")).where(
        among(_FENCES.c.cause, "causes"),
        _FENCES.c.asked_at > bindparam("since"),
        ~((_FENCES.c.state == FenceState.WITHDRAWN.value) & (_FENCES.c.orders == 0)),
    )
)
_THERE, _ELSEWHERE = _INSTANCES.alias(), _INSTANCES.alias()
_ANSWERS = Statement(
    select(_THERE.c.host_uuid, _GROUPS.c.spec, func.max(_ELSEWHERE.c.last_answer_at).label("at"))
    .join(_ELSEWHERE, _ELSEWHERE.c.group_uuid == _THERE.c.group_uuid)
    .join(_GROUPS, _GROUPS.c.uuid == _THERE.c.group_uuid)
    .where(
        among(_THERE.c.host_uuid, "hosts"),
        _THERE.c.status == InstanceStatus.RUNNING.value,
        _THERE.c.beside.is_(False),
        ~among(_ELSEWHERE.c.host_uuid, "hosts"),
        _ELSEWHERE.c.last_answer_at > 0,
    )
    .group_by(_THERE.c.host_uuid, _GROUPS.c.uuid, _GROUPS.c.spec)
)
_ALL_VERDICTS = Statement(select(_VERDICTS))
_SOME_VERDICTS = Statement(select(_VERDICTS).where(among(_VERDICTS.c.host_uuid, "of")))


# --- the lease -------------------------------------------------------------------------------------------------------


def take_lease(connection: Connection, owner: str, now: int, lease_ms: int, leases_as_of: int) -> int:
    """The epoch under which the owner may judge and order until `now + lease_ms`; 0: another one may."""
    row = connection.execute(select(_LEASE).where(_LEASE.c.id == 1).with_for_update()).one()
    if row.owner != owner and row.lease_until > leases_as_of:
        return 0
    epoch = int(row.epoch) + int(row.owner != owner)
    values = {"owner": owner, "epoch": epoch, "lease_until": now + lease_ms}
    connection.execute(update(_LEASE).where(_LEASE.c.id == 1).values(values))
    return epoch


def renew_lease(connection: Connection, epoch: int, now: int, lease_ms: int) -> bool:
    """Whether the epoch is the present one, which then holds until `now + lease_ms`."""
    mine = update(_LEASE).where(_LEASE.c.id == 1, _LEASE.c.epoch == epoch).values(lease_until=now + lease_ms)
    return connection.execute(mine).rowcount == 1


def end_lease(connection: Connection, owner: str) -> None:
    """The owner judges no more: whoever comes next need not wait."""
    connection.execute(update(_LEASE).where(_LEASE.c.id == 1, _LEASE.c.owner == owner).values(lease_until=0))


def lease_owners(connection: Connection, now: int) -> tuple[str, ...]:
    """Who has the lease now: one, or nobody."""
    return tuple(_OWNERS.scalars(connection, {"now": now}))


# --- fences ----------------------------------------------------------------------------------------------------------


def open_fences(connection: Connection) -> tuple[Fence, ...]:
    """All that are under way, the oldest first."""
    return tuple(_fence(row) for row in _OPEN.all(connection))


def fence(connection: Connection, uuid: str) -> Fence | None:
    """One fence; None where its host has left the fleet."""
    row = _FENCE.first(connection, {"of": uuid})
    return None if row is None else _fence(row)


def open_of(connection: Connection, host: str) -> Fence | None:
    """The host's fence that is under way."""
    row = _OPEN_OF.first(connection, {"host": host})
    return None if row is None else _fence(row)


def add(connection: Connection, one: Fence, zone: str) -> None:
    """Record a fence. The caller has the host's row locked, and has seen that none is under way."""
    values = {**asdict(one), "host_uuid": one.host, "open_host": one.host if one.state in OPEN else None}
    del values["host"]
    connection.execute(insert(_FENCES).values(values))
    fleet_events.append(connection, FleetChange.HOST, one.host, zone, one.asked_at)


def put(connection: Connection, one: Fence, zone: str, now: int) -> None:
    """Record how far it has come."""
    values = {
        "state": one.state.value,
        "reason": one.reason,
        "orders": one.orders,
        "ended_at": one.ended_at,
        "open_host": one.host if one.state in OPEN else None,
    }
    connection.execute(update(_FENCES).where(_FENCES.c.uuid == one.uuid).values(values))
    fleet_events.append(connection, FleetChange.HOST, one.host, zone, now)


def lately(connection: Connection, causes: Sequence[FenceCause], now: int) -> int:
    """How many fences of these causes were asked for in the last hour and not withdrawn before anything was sent. One
    that lies ahead, since the clock was set back, counts."""
    of = [cause.value for cause in causes]
    return int(_LATELY.scalar(connection, {"causes": of, "since": now - HOUR_MS}))


def newest(connection: Connection, hosts: Sequence[str]) -> Mapping[str, Fence]:
    """The last fence of each of these hosts."""
    return {row.host_uuid: _fence(row) for row in _NEWEST.all(connection, {"of": hosts})} if hosts else {}


def answers(connection: Connection, hosts: Sequence[str]) -> Mapping[str, int]:
    """When a model last answered its canary rightly, in ms since the epoch, that cannot do without its members on these
    hosts, by the word of a member that is on another one."""
    if not hosts:
        return {}
    found: dict[str, int] = {}
    for row in _ANSWERS.all(connection, {"hosts": hosts}):
        if json.loads(row.spec).get("scope") in _TOGETHER:
            found[row.host_uuid] = max(found.get(row.host_uuid, 0), int(row.at))
    return found


# --- verdicts --------------------------------------------------------------------------------------------------------


def verdicts(connection: Connection, hosts: Sequence[str] | None = None) -> Mapping[str, Verdict]:
    """What is thought of the hosts that are silent."""
    rows = _ALL_VERDICTS.all(connection) if hosts is None else _SOME_VERDICTS.all(connection, {"of": hosts})
    return {row.host_uuid: Verdict(Rule(row.rule), row.reason) for row in rows}


def set_verdict(connection: Connection, host: str, zone: str, verdict: Verdict | None, now: int) -> None:
    """Record what is thought of a silent host; None: it is silent no more."""
    connection.execute(delete(_VERDICTS).where(_VERDICTS.c.host_uuid == host))
    if verdict is not None:
        values = {"host_uuid": host, "rule": verdict.rule.value, "reason": verdict.reason, "since": now}
        connection.execute(insert(_VERDICTS).values(values))
    fleet_events.append(connection, FleetChange.HOST, host, zone, now)


def forget_old(connection: Connection, before: int) -> None:
    """Forget fences that ended before then; what was done stands in the audit as well."""
    connection.execute(delete(_FENCES).where(_FENCES.c.open_host.is_(None), _FENCES.c.ended_at < before))


def _fence(row: Row[Any]) -> Fence:
    return Fence(
        row.uuid,
        row.host_uuid,
        FenceCause(row.cause),
        FenceState(row.state),
        row.machine,
        row.principal,
        row.reason,
        int(row.orders),
        int(row.asked_at),
        int(row.ended_at),
    )

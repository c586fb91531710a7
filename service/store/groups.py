"""Rows of groups and instances, and the lease columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from service.domain.devices import HeldDevice
from service.domain.difference import difference
from service.domain.endpoints import Endpoint
from service.domain.groups import (
    Failure,
    Group,
    GroupPhase,
    GroupStatus,
    Instance,
    InstanceStatus,
    MoveStage,
    PlacementRecord,
    RoomWish,
    Update,
    Waiting,
)
from service.domain.leaving import Eviction
from service.domain.shapes import Shapes
from service.domain.specs import GroupSpec, MayWait, NodeSpec
from service.domain.staging import Staging
from service.errors import AlreadyExists, NotFound
from service.failpoints import failpoint
from service.store import hints, schema
from service.store.codec import decode, decode_known, encode
from service.store.group_counts import counts as counts
from service.store.statement import Statement, among
from service.store.waiting import waits

_GROUP_PLAIN = (
    "uuid", "project", "principal", "reason", "start_epoch", "starts", "go", "served", "failures", "retry_at",
    "running_since", "restarting", "sequence", "version", "cause", "cause_of",
    "revision", "deadline_at", "ends_at", "priority", "created_at", "updated_at",
)  # fmt: skip
_INSTANCE_PLAIN = (
    "uuid", "group_uuid", "reason", "host_uuid", "host_name", "zone_uuid", "machine_uuid", "service_port", "attempt",
    "restarts", "address", "mac", "unknown_since", "deadline_at", "boot_timeout_ms", "stop_grace_ms", "was_resumed",
    "stop_asked", "joining", "leaving", "beside", "target_host_uuid", "target_host_name", "move_deadline_at",
    "moved_at", "room", "room_order", "pauses", "paused_at", "told_epoch", "last_answer_at", "engine_restarts",
    "silent_since", "guest_boot", "endpoint", "holds", "last_lines", "created_at", "updated_at", "cause", "cause_of",
)  # fmt: skip


class Lease(NamedTuple):
    """One that was taken. `left_behind`: its owner let it run out instead of giving it back: it has died or hangs."""

    uuid: str
    epoch: int
    left_behind: bool = False


class Held(NamedTuple):
    """Who has the lease of a group that is made: `until` (ms)."""

    owner: str = ""
    until: int = 0


class Freed(NamedTuple):
    """The group's lease is given back: when somebody has to look at it again (ms; None: never)."""

    due_at: int | None


_GROUP_PARTS = {"failure": Failure, "placement": PlacementRecord, "room": RoomWish, "waiting": Waiting,
                "endpoint": Endpoint, "may_wait": MayWait, "eviction": Eviction, "shapes": Shapes}  # fmt: skip
_INSTANCE_CELLS = ("cells", "target_cells")  # as JSON
_INSTANCE_JSON = ("devices", "staging")
_AS_IT_WAS = object()
_HELD_DEVICES = tuple[HeldDevice, ...]

# Statements that every worker runs all the time are made once: making one takes longer than SQLite needs to run it.
_GROUPS, _INSTANCES = schema.groups, schema.instances
_ONE = select(_GROUPS).where(_GROUPS.c.uuid == bindparam("of"))
_GROUP, _GROUP_LOCKED = Statement(_ONE), Statement(_ONE.with_for_update())
_SOME_GROUPS = Statement(select(_GROUPS).where(among(_GROUPS.c.uuid, "of")))
_MEMBERS = Statement(
    select(
        *(
            _INSTANCES.c[name]
            for name in (*_INSTANCE_PLAIN, "spec", "status", "move", *_INSTANCE_JSON, *_INSTANCE_CELLS)
        )
    )
    .where(among(_INSTANCES.c.group_uuid, "of"))
    .order_by(_INSTANCES.c.beside, _INSTANCES.c.rank)
)
_THAT_GROUP = update(_GROUPS).where(_GROUPS.c.uuid == bindparam("of"))
_THAT_MEMBER = update(_INSTANCES).where(_INSTANCES.c.uuid == bindparam("of"))
_GROUP_WORDS = ("phase", "status", "excluded_hosts", "rollout", *_GROUP_PARTS, *waits(None))
_RESPECIFY_GROUP = Statement(_THAT_GROUP, ("name", "spec"))
SAVE_INSTANCE = Statement(_THAT_MEMBER, (*_INSTANCE_PLAIN, "status", "move", *_INSTANCE_JSON, *_INSTANCE_CELLS))
_RESPECIFY_INSTANCE = Statement(_THAT_MEMBER, ("spec",))
_SET_DUE = Statement(_THAT_GROUP.values(due_at=bindparam("at")))
_HASTEN = Statement(
    update(_GROUPS)
    .where(among(_GROUPS.c.uuid, "of"), _GROUPS.c.due_at > bindparam("now"))
    .values(due_at=bindparam("now"))
)
_FREE = Statement(
    select(_GROUPS.c.uuid, _GROUPS.c.owner)
    .where(_GROUPS.c.due_at <= bindparam("now"), _GROUPS.c.lease_until <= bindparam("leases"))
    .order_by(_GROUPS.c.due_at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_TAKE = Statement(
    update(_GROUPS)
    .where(_GROUPS.c.uuid == bindparam("of"), _GROUPS.c.lease_until <= bindparam("leases"))
    .values(owner=bindparam("by"), epoch=_GROUPS.c.epoch + 1, lease_until=bindparam("until"))
    .returning(_GROUPS.c.epoch)
)
_HELD = _THAT_GROUP.where(_GROUPS.c.epoch == bindparam("mine"))
_RENEW = Statement(_HELD.where(_GROUPS.c.lease_until > 0).values(lease_until=bindparam("until")))
_FREED = _HELD.values(lease_until=0, owner="", due_at=bindparam("at"))
_GIVE_BACK = Statement(_FREED)
_GIVE_BACK_UNCHANGED = Statement(_FREED.where(_GROUPS.c.version == bindparam("seen")))
_ARRIVING = Statement(
    select(_INSTANCES.c.uuid, _INSTANCES.c.group_uuid, _INSTANCES.c.attempt).where(
        _INSTANCES.c.target_host_uuid == bindparam("host")
    )
)
_OVER = (GroupPhase.CLEANING, GroupPhase.FAILED, GroupPhase.DELETING, GroupPhase.DELETED)
_OWNERS = Statement(select(_GROUPS.c.owner).where(_GROUPS.c.lease_until > bindparam("now")).distinct())
_APART = schema.group_apart
_KEEPING_APART = Statement(
    select(_APART.c.group_uuid, _APART.c.other_uuid)
    .join(_GROUPS, _GROUPS.c.uuid == _APART.c.group_uuid)
    .where(_GROUPS.c.phase != GroupPhase.DELETED.value)
)
_WITHOUT_SEATS = Statement(
    select(_INSTANCES.c.group_uuid)
    .join(_GROUPS, _GROUPS.c.uuid == _INSTANCES.c.group_uuid)
    .where(
        _INSTANCES.c.status == InstanceStatus.PENDING.value,
        _GROUPS.c.project == bindparam("of"),
        *(_GROUPS.c.phase != phase.value for phase in _OVER),
    )
    .distinct()
)
_ADD_MEMBER = Statement(
    insert(_INSTANCES),
    (*_INSTANCE_PLAIN, "rank", "spec", "model_service_uuid", "status", "move", *_INSTANCE_JSON, *_INSTANCE_CELLS),
)
_ADD_GROUP = Statement(
    insert(_GROUPS), (*_GROUP_PLAIN, *_GROUP_WORDS, "name", "spec", "epoch", "exclusive_hosts", "due_at", "owner",
                      "lease_until")
)  # fmt: skip
_ON_HOST = Statement(
    select(_INSTANCES.c.uuid, _INSTANCES.c.group_uuid, _INSTANCES.c.attempt, _INSTANCES.c.status).where(
        _INSTANCES.c.host_uuid == bindparam("host"), _INSTANCES.c.status != InstanceStatus.REMOVED.value
    )
)


def load(connection: Connection, uuid: str, *, lock: bool = False) -> Group:
    """The group with its members in rank order; `lock`: no other transaction changes it meanwhile. Raises NotFound."""
    row = (_GROUP_LOCKED if lock else _GROUP).first(connection, {"of": uuid})
    if row is None:
        raise NotFound("instance group", uuid)
    return _group(row, _members(connection, [uuid]).get(uuid, ()))


def load_many(connection: Connection, uuids: Sequence[str]) -> tuple[Group, ...]:
    """Those of the groups that exist, in the order asked for."""
    if not uuids:
        return ()
    rows = {row.uuid: row for row in _SOME_GROUPS.all(connection, {"of": uuids})}
    members = _members(connection, uuids)
    return tuple(_group(rows[u], members.get(u, ())) for u in uuids if u in rows)


def forget_deleted(connection: Connection, uuid: str) -> None:
    """Remove the rows of a deleted group, whose uuid becomes another's; its events stay.

    Raises AlreadyExists where there is no such group any more: somebody else was faster.
    """
    connection.execute(_APART.delete().where(_APART.c.group_uuid == uuid))
    connection.execute(_INSTANCES.delete().where(_INSTANCES.c.group_uuid == uuid))
    gone = _GROUPS.delete().where(_GROUPS.c.uuid == uuid, _GROUPS.c.phase == GroupPhase.DELETED.value)
    if connection.execute(gone).rowcount != 1:
        raise AlreadyExists("instance group", uuid)


def unfinished(connection: Connection) -> tuple[str, ...]:
    """The uuids of all groups that are not over."""
    over = _GROUPS.c.phase.in_((GroupPhase.DELETED.value, GroupPhase.FAILED.value))
    return tuple(connection.scalars(select(_GROUPS.c.uuid).where(~over)))


def create(connection: Connection, group: Group, *, due_at: int, held: Held | None = None) -> None:
    """Insert the group and its members. `held`: its lease, of which nobody else has to hear."""
    owner, until = held or Held()
    if not owner:
        hints.group_is_due(connection, group.uuid)
    values = {**_group_values(group), "name": group.spec.name, "spec": encode(group.spec), "epoch": group.epoch}
    alone = group.spec.placement.exclusive_hosts
    _ADD_GROUP.run(
        connection, {**values, "exclusive_hosts": alone, "due_at": due_at, "owner": owner, "lease_until": until}
    )
    others = sorted(set(group.spec.placement.anti_affinity_groups))
    if others:
        connection.execute(insert(_APART), [{"group_uuid": group.uuid, "other_uuid": other} for other in others])
    _insert_members(connection, group.instances)


def save(connection: Connection, before: Group, after: Group, freed: Freed | None = None) -> None:
    """Write what changed between the two. The caller holds the row's lock, and the lease where it is given back."""
    if after.spec != before.spec:
        _RESPECIFY_GROUP.run(connection, {"of": after.uuid, "name": after.spec.name, "spec": encode(after.spec)})
    values = saved(before, after, freed)
    save_group(tuple(values)).run(connection, {"of": after.uuid, **values})
    changed, gone = difference(before, after)
    _insert_members(connection, [new for _, old, new in changed if old is None])
    if gone:
        connection.execute(schema.instances.delete().where(schema.instances.c.uuid.in_([m.uuid for m in gone])))
    others = [(old, new) for _, old, new in changed if old is not None]
    SAVE_INSTANCE.many(connection, [{"of": new.uuid, **instance_values(new)} for _, new in others])
    respecified = [new for old, new in others if old.spec != new.spec]
    _RESPECIFY_INSTANCE.many(connection, [{"of": m.uuid, "spec": encode(m.spec)} for m in respecified])


def due(connection: Connection, uuid: str, at: int | None) -> None:
    """Set when the group needs a look next, and tell all replicas; None: never again."""
    hints.group_is_due(connection, uuid)
    _SET_DUE.run(connection, {"of": uuid, "at": at})


def hasten(connection: Connection, uuids: Sequence[str], now: int) -> None:
    """Something was noticed about these groups: look at them now instead of when they are due."""
    if uuids:
        _HASTEN.run(connection, {"of": uuids, "now": now})


def without_seats(connection: Connection, project: str) -> tuple[Group, ...]:
    """Groups of the project with members that were accepted and have no claim."""
    return load_many(connection, sorted(_WITHOUT_SEATS.scalars(connection, {"of": project})))


def take_due(
    connection: Connection, owner: str, now: int, lease_ms: int, limit: int, *, leases_as_of: int | None = None
) -> tuple[Lease, ...]:
    """Lease up to `limit` due groups that nobody holds, oldest due first.

    `leases_as_of`: the time (ms) by which leases are judged, where it is not `now`.
    """
    leases = now if leases_as_of is None else leases_as_of
    taken = []
    for uuid, before in _FREE.all(connection, {"now": now, "leases": leases, "most": limit}):
        failpoint("lease.found")
        epoch = _TAKE.scalar(connection, {"of": uuid, "leases": leases, "by": owner, "until": now + lease_ms})
        if epoch is not None:
            failpoint("lease.taken")
            taken.append(Lease(uuid, epoch, bool(before)))
    return tuple(taken)


def renew(connection: Connection, uuid: str, epoch: int, until: int) -> bool:
    """Prolong the lease; False where a later epoch has it, or it was given back."""
    return _RENEW.run(connection, {"of": uuid, "mine": epoch, "until": until}) == 1


def owners(connection: Connection, now: int) -> frozenset[str]:
    """Everybody who holds a lease at `now`."""
    return frozenset(_OWNERS.scalars(connection, {"now": now}))


def end_leases(connection: Connection, owner: str) -> None:
    """The owner has certainly ended: whoever looks next takes its groups, with the next epoch."""
    connection.execute(update(_GROUPS).where(_GROUPS.c.owner == owner).values(lease_until=0))


def give_back(connection: Connection, uuid: str, epoch: int, due_at: int | None, seen_version: int | None) -> bool:
    """End the lease and set when the group is due next.

    False, and nothing is written, where a later epoch has it or the group changed since `seen_version` (None: any).
    """
    values = {"of": uuid, "mine": epoch, "at": due_at}
    if seen_version is None:
        return _GIVE_BACK.run(connection, values) == 1
    return _GIVE_BACK_UNCHANGED.run(connection, {**values, "seen": seen_version}) == 1


def keeping_apart(connection: Connection) -> Mapping[str, frozenset[str]]:
    """Group uuid -> the groups that it is to be apart from, of every group that has such a rule and is not deleted."""
    found: dict[str, set[str]] = {}
    for row in _KEEPING_APART.all(connection):
        found.setdefault(row.group_uuid, set()).add(row.other_uuid)
    return {uuid: frozenset(others) for uuid, others in found.items()}


def on_host(connection: Connection, host_uuid: str) -> tuple[tuple[str, str, int, str], ...]:
    """`(instance, group, attempt, status)` of every member that is seated on the host now."""
    rows = _ON_HOST.all(connection, {"host": host_uuid})
    return tuple((r.uuid, r.group_uuid, r.attempt, r.status) for r in rows)


def arriving(connection: Connection, host_uuid: str) -> tuple[tuple[str, str, int], ...]:
    """`(instance, group, attempt)` of every member that is being moved live to the host."""
    rows = _ARRIVING.all(connection, {"host": host_uuid})
    return tuple((r.uuid, r.group_uuid, r.attempt) for r in rows)


def _insert_members(connection: Connection, members: Sequence[Instance]) -> None:
    rows = [
        {"rank": m.rank, "spec": encode(m.spec), "model_service_uuid": m.spec.model_service_uuid, **instance_values(m)}
        for m in members
    ]
    _ADD_MEMBER.many(connection, rows)


def _members(connection: Connection, uuids: Sequence[str]) -> dict[str, tuple[Instance, ...]]:
    found: dict[str, list[Instance]] = {}
    for row in _MEMBERS.all(connection, {"of": uuids}):
        plain: dict[str, Any] = dict(zip(_INSTANCE_PLAIN, row, strict=False))
        if row.cells != "[]" or row.target_cells != "[]":
            plain |= {name: tuple(json.loads(getattr(row, name))) for name in _INSTANCE_CELLS}
        if row.devices != "[]":
            plain["devices"] = decode(_HELD_DEVICES, row.devices)
        if row.staging:
            plain["staging"] = decode_known(Staging, row.staging)
        plain |= {"status": InstanceStatus(row.status), "move": MoveStage(row.move)}
        found.setdefault(row.group_uuid, []).append(Instance(spec=decode_known(NodeSpec, row.spec), **plain))
    return {uuid: tuple(members) for uuid, members in found.items()}


def _group(row: Row[Any], members: tuple[Instance, ...]) -> Group:
    plain = {name: getattr(row, name) for name in _GROUP_PLAIN}
    parts: dict[str, Any] = {
        n: decode_known(kind, text) for n, kind in _GROUP_PARTS.items() if (text := getattr(row, n))
    }
    return Group(
        spec=decode_known(GroupSpec, row.spec),
        phase=GroupPhase(row.phase),
        status=GroupStatus(row.status),
        update=decode_known(Update, row.rollout) if row.rollout else None,
        excluded_hosts=tuple(json.loads(row.excluded_hosts)),
        epoch=row.epoch,
        instances=members,
        **parts,
        **plain,
    )


@cache
def save_group(names: tuple[str, ...]) -> Statement:
    """Writes these columns of the group `of`."""
    return Statement(_THAT_GROUP, names)


def saved(before: Group, after: Group, freed: Freed | None) -> dict[str, Any]:
    """By column, what is to be written of the group's own row; its specification is written by itself."""
    left = {} if freed is None else {"owner": "", "lease_until": 0, "due_at": freed.due_at}
    values = _group_values(after, before).items()
    return {**{name: value for name, value in values if value is not _AS_IT_WAS}, **left}


def _group_values(group: Group, before: Group | None = None) -> dict[str, Any]:
    """By column; of what is large, as a placement is, _AS_IT_WAS where it is the very one that it was before."""

    def written(name: str) -> object:
        part = getattr(group, name)
        if before is not None and part is getattr(before, name):
            return _AS_IT_WAS
        return encode(part) if part else None

    return {
        "phase": group.phase.value,
        "status": group.status.value,
        "rollout": written("update"),
        **{name: written(name) for name in _GROUP_PARTS},
        **waits(group.waiting),
        "excluded_hosts": json.dumps(group.excluded_hosts),
        **{name: getattr(group, name) for name in _GROUP_PLAIN},
    }


def instance_values(member: Instance) -> dict[str, Any]:
    pinned = {name: json.dumps(getattr(member, name)) for name in _INSTANCE_CELLS}
    staging = encode(member.staging) if member.staging else None
    words = {"status": member.status.value, "move": member.move.value, "staging": staging}
    devices = {"devices": encode(member.devices, _HELD_DEVICES)}
    return {**words, **pinned, **devices, **{name: getattr(member, name) for name in _INSTANCE_PLAIN}}

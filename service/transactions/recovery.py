"""Writes what a plan of recovery says: one transaction a group, with claims, addresses, records and events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from service.domain.fleet import Host, HostState, Zone
from service.domain.groups import Group, GroupPhase, GroupStatus, Instance, Seat
from service.domain.ownership import Installation
from service.domain.specs import MachineType
from service.errors import Conflict, WrongState
from service.lifecycle.members import S
from service.planning.translate import claimed
from service.store import catalog, claims, cleanings, clock, fleet, groups, ownership, retired
from service.store.addresses import keep_addresses
from service.store.connection import Connection
from service.store.device_picks import found, pick
from service.transactions.changes import accepted, commit, time_lost
from service.transactions.found_state import as_if_known
from service.transactions.recovery_plan import Act, GroupChange, Known, RecoveryPlan, plan
from service.transactions.surveys import Survey


def known(connection: Connection, installation: Installation, surveys: Iterable[Survey]) -> Known:
    """What the database has that a plan needs. `installation`: what the database is, or is to become."""
    machines = [m for s in surveys for m in s.machines if m.identity.cluster == installation.cluster]
    shown = {m.identity.group for m in machines}
    found = groups.load_many(connection, sorted(shown | set(groups.unfinished(connection))))
    return Known(
        installation=installation,
        generation=ownership.generation(connection),
        ahead=bool(ownership.ahead(connection)),
        groups={group.uuid: group for group in found},
        retired=retired.retired_of(connection, sorted({m.identity.instance for m in machines})),
        versions=frozenset(catalog.every_version(connection)),
    )


def write(connection: Connection, change: GroupChange, now: int) -> Group:
    """Carry out one change of a plan that was made from what the database has now. Returns the group as stored.

    Raises ClaimLost where a host has no room for what it holds, or an address is somebody else's; then nothing is kept.
    """
    for entry in change.entries:
        catalog.restore_version(connection, entry, now)
    after = change.group
    if change.act is Act.CREATE:
        before = accepted(connection, _bare(after), now)
    else:
        before = groups.load(connection, after.uuid, lock=True)
    held = claims.seats_of(connection, after.uuid)
    if change.act is Act.END:
        over = {key: hosts for key, hosts in held.items() if key not in change.standing}
        ended = [(instance, attempt, host) for (instance, attempt), hosts in over.items() for host in hosts]
        return commit(connection, before, _carried(before, after), ended, now)
    zones = fleet.zones(connection)
    after = replace(after, instances=tuple(_with_devices(connection, change, m) for m in after.instances))
    seated = [m for m in after.instances if m.uuid in change.changed and m.host_uuid]
    new = [m for m in seated if m.host_uuid not in held.get((m.uuid, m.attempt), frozenset())]
    ownership.adopt(connection, [(m.host_uuid, m.machine_uuid) for m in seated])
    hosts = fleet.hosts(connection, sorted({m.host_uuid for m in new}))
    seats = [_seat(m, hosts[m.host_uuid]) for m in new]
    claims.take(connection, after.uuid, seats, there=True)
    served = {m.host_uuid for m in new if m.spec.type is MachineType.BARE_METAL}
    cleanings.serve(connection, served, after.project, there=True)
    pick(connection, after.uuid, seats)
    for emptied in (h for h in hosts.values() if h.state is HostState.MAINTENANCE):
        # By an older word it was drained. It is not empty, and nobody would move these: to have it so, drain it anew.
        fleet.set_state(connection, emptied, HostState.DISABLED, now)
    keep_addresses(connection, [(m.zone_uuid, m.address, m.uuid, m.attempt) for m in new if _planned(zones, m)])
    stored = commit(connection, as_if_known(before, after), _carried(before, after), (), now)
    groups.due(connection, after.uuid, 0)
    return stored


def adopt(
    connection: Connection, installation: Installation, surveys: Sequence[Survey], silent: Sequence[str], uuid: str
) -> Group:
    """Recover one group on a running service, from fresh looks at its hosts: `corral recover` for this group alone.

    `silent`: names of hosts of which there is no fresh look. Raises WrongState, which says why not; Conflict where a
    host has no room for what it holds, or an address is somebody else's.
    """
    now = clock.now(connection)
    found = plan(
        known(connection, installation, surveys), surveys, dict.fromkeys(silent, "it does not answer"), now, only=uuid
    )
    for problem in found.problems:
        if problem.group == uuid:
            raise WrongState(f"group {uuid}", f"not to be adopted ({problem.why})", "machines that tell all of it")
    if not found.changes:
        raise WrongState(f"group {uuid}", "not held", "machines of it that this database lacks, on hosts that answer")
    change = found.changes[0]
    if change.act is Act.CORRECT and change.group.go and not groups.load(connection, uuid, lock=True).go:
        raise WrongState(f"group {uuid}", "being started, while a machine of it runs", "it to run, or to be deleted")
    try:
        return write(connection, change, now)
    except claims.ClaimLost as reason:
        raise Conflict(f"group {uuid} cannot be adopted now: {reason}") from reason


def settle_identity(
    connection: Connection,
    installation: Installation,
    plan: RecoveryPlan,
    now: int,
    looked_at: Iterable[str] | None = None,
) -> None:
    """The database is this installation from now on, and has come further than its hosts have seen.

    `looked_at`: uuids of the hosts whose machines the plan was made from; None before there is a plan. Where that
    database was an older copy, nobody is placed until the hosts that did not answer were looked at too, or are off.
    """
    ownership.become(connection, installation, now)
    if plan.above:
        ownership.lift(connection, plan.above)
    if looked_at is not None:
        seen = frozenset(looked_at)
        unseen = set(fleet.hosts(connection)) - seen if plan.above else ()
        ownership.all_known(connection, seen, unseen)
        if plan.above:
            time_lost(connection, now)


def _with_devices(connection: Connection, change: GroupChange, member: Instance) -> Instance:
    """The member with what is known of the devices that its machine was seen with."""
    if member.uuid not in change.changed or not member.devices:
        return member
    return replace(member, devices=found(connection, member.host_uuid, [d.key for d in member.devices]))


def _bare(group: Group) -> Group:
    """The group as it was accepted: the events that follow tell what became of it."""
    waiting = tuple(replace(_seatless(m), status=S.PENDING, was_resumed=False) for m in group.instances)
    return replace(
        group, instances=waiting, phase=GroupPhase.PLANNING, status=GroupStatus.DEPLOYING, running_since=0,
        served=False, reason="", sequence=0, version=0, revision=0, epoch=0,
    )  # fmt: skip


def _seatless(member: Instance) -> Instance:
    return replace(member, host_uuid="", host_name="", cells=(), devices=(), machine_uuid="", address="", mac="")


def _carried(before: Group, after: Group) -> Group:
    """The group as it is to be, with the counters of its present row."""
    return replace(
        after, sequence=before.sequence, version=before.version, revision=before.revision, epoch=before.epoch
    )


def _seat(member: Instance, host: Host) -> Seat:
    return Seat(
        instance_uuid=member.uuid,
        rank=member.rank,
        name=member.spec.name,
        host_uuid=member.host_uuid,
        host_name=member.host_name,
        zone_uuid=member.zone_uuid,
        resources=claimed(member.spec, host),
        attempt=member.attempt,
        cells=member.cells,
        devices=member.devices,
    )


def _planned(zones: Mapping[str, Zone], member: Instance) -> bool:
    zone = zones.get(member.zone_uuid)
    return bool(member.address) and zone is not None and zone.network.plans_addresses

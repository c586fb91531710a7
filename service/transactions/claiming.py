"""A plan becomes claims: hosts, addresses, neighbours and the change of the group in one transaction, or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import NamedTuple

from service.domain.fleet import Host as FleetHost
from service.domain.groups import (
    Group,
    GroupPhase,
    Instance,
    InstanceStatus,
    PlacementRecord,
    Seat,
)
from service.domain.kept_rules import lost_to_racks
from service.domain.network import mac_address
from service.domain.specs import MachineType
from service.drivers.base import MachineIdentity
from service.failpoints import failpoint
from service.lifecycle.effects import Dispatch, effects
from service.lifecycle.facts import MoveClaimed, Observation, Observed, Placed
from service.lifecycle.transitions import advance, advance_all
from service.lifecycle.updating import first, second
from service.planning.devices import wanted as wanted_devices
from service.planning.group_rules import spares_are_kept, stays
from service.planning.translate import seat, total
from service.store import bookings, claims, cleanings, fleet, groups, ownership, quotas, rare, spare
from service.store.addresses import take_planned
from service.store.connection import Connection
from service.store.device_picks import pick
from service.store.rare import Rare
from service.store.standing import Seats
from service.transactions.changes import LeaseLost, commit


class HeldBack(Exception):
    """These members may run somewhere already, unknown to this database: an operator decides first. The message says
    what about, in words safe for callers."""


def held_back(connection: Connection, group: Group, instances: Iterable[str]) -> None:
    """Raises HeldBack where a second machine of one of these members might come of placing it (ARCHITECTURE, I1, I16).

    That is while some host has seen what this database does not know, or may have, and while a machine of the member is
    in quarantine.
    """
    ahead, held = ownership.in_the_way(connection, group.uuid)
    if ahead:
        raise HeldBack(
            f"nobody is placed while the database is older than what hosts have seen ({', '.join(ahead[:3])}): "
            "an operator recovers it, or claims them"
        )
    for instance in sorted(set(instances) & set(held)):
        rank = next(m.rank for m in group.instances if m.uuid == instance)
        raise HeldBack(
            f"model_services[{rank}] has a machine in quarantine, beside which no other is made: "
            "an operator adopts or removes it"
        )


class Claimed(NamedTuple):
    """The group as it is stored, and the (instance, attempt) for which this very commit says that a create may have
    been sent."""

    group: Group
    dispatched: frozenset[tuple[str, int]] = frozenset()


def claim(
    connection: Connection,
    cluster: str,
    planned: Group,
    placement: PlacementRecord,
    now: int,
    *,
    alone: bool = False,
    dispatch: bool = False,
) -> Claimed:
    """Commit the claims of the whole gang, its addresses and the change of the group, or nothing.

    `planned`: the group, or that gang of it, as the plan was made for it. `alone`: inside `Store.claiming(alone=True)`.
    `dispatch`: where creates follow at once, the commit says as well that they may have been sent.
    Raises HeldBack; QuotaExceeded; ClaimLost where a host or address is no longer free, or a neighbour is there that
    must not be; LeaseLost where a later epoch has the group. A group that changed meanwhile is returned as it is,
    unclaimed; so is one with a member that has another host since, as by a live move: the rules within the group were
    planned without that.
    """
    stored, seated, some = _stored(connection, planned)
    if stored.epoch != planned.epoch:
        raise LeaseLost(planned.uuid)
    before = _same_gang(stored, planned)
    waiting = {(m.uuid, m.attempt) for m in before.instances if m.status is InstanceStatus.PENDING}
    some = some or rare.rare(connection, before.uuid, before.project, sorted(instance for instance, _ in waiting))
    if some.held:
        held_back(connection, before, {instance for instance, _ in waiting})
    planned_for = {(s.instance_uuid, s.attempt) for s in placement.assignments}
    if before.phase is not GroupPhase.PLANNING or waiting != planned_for:
        return Claimed(stored)
    if _seated(before) != _seated(planned):
        return Claimed(stored)
    failpoint("claim.checked")
    # A member that lost its seat gets one again, whatever the quota is by now: its tenant has not asked for more.
    if some.quota:
        quotas.check(connection, before.project, total(s.resources for s in placement.assignments if s.attempt == 1))
    _hold_racks(connection, before, [s.host_uuid for s in placement.assignments])
    beside = claims.take(connection, before.uuid, placement.assignments, alone=alone, booked=some.booked)
    _serve(connection, before, placement.assignments)
    wants = wanted_devices(before.instances, placement.assignments, before.spec.placement.numa)
    picked = pick(connection, before.uuid, placement.assignments, wants)
    failpoint("claim.picked")
    host_of = {s.instance_uuid: s.host_uuid for s in placement.assignments}
    taken = set(host_of.values())
    _check_neighbours(connection, before, taken, beside)
    _check_labels(connection, before, taken)
    _check_clusters(connection, before, host_of)
    _check_racks(connection, before, host_of, whole=True)
    _check_spare_hosts(connection, before)
    failpoint("claim.alone")
    seats = _addressed(connection, cluster, before.uuid, picked)
    failpoint("claim.addressed")
    after = advance(stored, Placed(replace(placement, assignments=seats)), now)
    sent = _to_be_sent(after, planned_for, now) if dispatch else frozenset()
    after = advance_all(after, [Observed(*key, Observation.DISPATCHED) for key in sorted(sent)], now)
    return Claimed(
        commit(connection, stored, after, (), now, seats=_with(seated, placement), anew=not some.retired), sent
    )


def _stored(connection: Connection, planned: Group) -> tuple[Group, Seats | None, Rare | None]:
    """The group, locked, and its claims and what is rare about its members where that was read. Where it is the version
    that was planned for it is not read again, unless it has a gang beside it or members of which something may have
    been heard since, which makes no new version."""
    fresh = planned.update is None and all(m.status is InstanceStatus.PENDING for m in planned.instances)
    if fresh and (found := rare.with_stand(connection, planned, sorted(m.uuid for m in planned.instances))):
        return planned, *found
    return groups.load(connection, planned.uuid, lock=True), None, None


def _with(seated: Seats | None, placement: PlacementRecord) -> Seats | None:
    """The claims that a group has once those of the placement were taken."""
    if seated is None:
        return None
    taken = {
        (seat.instance_uuid, seat.attempt): seat.host_uuid
        for seat in placement.assignments
        if any(seat.claimed.values())
    }
    return {**seated, **{key: seated.get(key, frozenset()) | {host} for key, host in taken.items()}}


def _to_be_sent(group: Group, placed: Set[tuple[str, int]], now: int) -> frozenset[tuple[str, int]]:
    """Those that were just placed, where the next that is to be done about them is to dispatch their creates."""
    due = {uuid for effect in effects(group, now) if isinstance(effect, Dispatch) for uuid in effect.instance_uuids}
    return frozenset(key for key in placed if key[0] in due)


def _serve(connection: Connection, group: Group, seats: Sequence[Seat]) -> None:
    """Machines of bare metal that members get have served their project from now on. Raises ClaimLost."""
    whole = {m.uuid for m in group.instances if m.spec.type is MachineType.BARE_METAL}
    if hosts := {seat.host_uuid for seat in seats if seat.instance_uuid in whole}:
        cleanings.serve(connection, hosts, group.project)


def claim_move(
    connection: Connection,
    planned: Group,
    member: Instance,
    target: FleetHost,
    now: int,
    *,
    pinned: tuple[int, ...] = (),
    alone: bool = False,
) -> Group:
    """Commit the claim on the host that the member is to be moved to live, beside the one that it has. `pinned`: to
    these of its cells.

    Raises HeldBack, ClaimLost where that host is no longer free or has a neighbour that must not be, LeaseLost. A
    member that does not wait for a target any more is left alone, and so is one whose fellows are on other hosts than
    planned for.
    """
    before = groups.load(connection, planned.uuid, lock=True)
    if before.epoch != planned.epoch:
        raise LeaseLost(planned.uuid)
    held_back(connection, before, {member.uuid})
    fact = MoveClaimed(member.uuid, member.attempt, target.uuid, target.name, pinned)
    after = advance(before, fact, now)
    gang = _same_gang(before, planned)
    if after == before or _seated(gang) != _seated(planned):
        return before
    if member.room and not bookings.open_rooms(connection, [member.room], now):
        return before  # nobody wants the room any more, and the member is told so next
    # What an earlier move of this attempt to that host has left, if anything, is of the same machine.
    claims.leave(connection, [(member.uuid, member.attempt, target.uuid)])
    _hold_racks(connection, gang, [target.uuid])
    beside = claims.take(connection, before.uuid, [seat(member, target, pinned)], alone=alone)
    _check_neighbours(connection, before, {target.uuid}, beside)
    _check_labels(connection, before, {target.uuid})
    _check_clusters(connection, before, {member.uuid: target.uuid})
    _check_racks(connection, gang, {member.uuid: target.uuid}, whole=False)
    return commit(connection, before, after, (), now)


def _same_gang(stored: Group, planned: Group) -> Group:
    """Of a group with two gangs, that one for which the plan was made."""
    beside = second(stored) if planned.instances and all(m.beside for m in planned.instances) else None
    return beside or first(stored)


def _seated(group: Group) -> frozenset[tuple[str, int, str, str]]:
    return frozenset((m.uuid, m.attempt, m.host_uuid, m.target_host_uuid) for m in group.instances)


def _check_neighbours(connection: Connection, group: Group, hosts: set[str], beside: claims.Beside) -> None:
    """The rules between groups, once the hosts' rows are locked: another gang may have come since the plan was made.
    `beside`: of other groups' rules, which may be about this one.

    Raises ClaimLost.
    """
    policy = group.spec.placement
    own = policy.exclusive_hosts or policy.anti_affinity_groups or policy.affinity_groups
    if not (own or beside.alone or beside.apart):
        return
    away = set(policy.anti_affinity_groups)
    if beside.apart:
        away |= {other for other, others in groups.keeping_apart(connection).items() if group.uuid in others}
    here = claims.seated(connection, hosts)
    for host_uuid in sorted(hosts):
        others = {(uuid, exclusive) for _, uuid, exclusive in here.get(host_uuid, ()) if uuid != group.uuid}
        neighbours = {uuid for uuid, _ in others}
        if others and (policy.exclusive_hosts or any(exclusive for _, exclusive in others)):
            raise claims.ClaimLost(f"host {host_uuid} is wanted by one group alone and shared with another")
        if neighbours & away:
            raise claims.ClaimLost(f"host {host_uuid} has a group that this one is to be apart from")
        if not neighbours >= set(policy.affinity_groups):
            raise claims.ClaimLost(f"host {host_uuid} has no member of a group that this one is to be near to")


def _check_labels(connection: Connection, group: Group, taken: set[str]) -> None:
    """A host's labels may have changed since the plan was made. Raises ClaimLost."""
    wanted = group.spec.placement.required_host_labels
    for uuid, host in sorted(fleet.hosts(connection, sorted(taken)).items()) if wanted else ():
        for label in wanted:
            if not host.has_label(label.key, label.values):
                raise claims.ClaimLost(f"host {uuid} has not the label {label.key} that this group must have")


def _check_clusters(connection: Connection, group: Group, host_of: Mapping[str, str]) -> None:
    """A host's cluster may have changed since the plan was made. `host_of`: by the member's uuid. Raises ClaimLost."""
    wanted = {m.uuid: m.spec.cluster_uuid for m in group.instances if m.uuid in host_of and m.spec.cluster_uuid}
    hosts = fleet.hosts(connection, sorted({host_of[uuid] for uuid in wanted})) if wanted else {}
    for uuid, cluster in sorted(wanted.items()):
        if hosts[host_of[uuid]].cluster_uuid != cluster:
            raise claims.ClaimLost(f"host {host_of[uuid]} is not in the cluster {cluster} that a member must be in")


def _hold_racks(connection: Connection, group: Group, taken: Sequence[str]) -> None:
    """Nobody gives another rack to these hosts, nor to those that the group is on, while rules about racks are looked
    at. In the order in which claims lock hosts."""
    if _has_rack_rules(group):
        claims.hold(
            connection, {*taken, *(uuid for m in group.instances for uuid in (m.host_uuid, m.target_host_uuid))}
        )


def _check_racks(connection: Connection, group: Group, host_of: Mapping[str, str], *, whole: bool) -> None:
    """A host's rack may have changed since the plan was made. `host_of`: by the uuid of each member that comes;
    `whole`: these are all that were to be placed. Raises ClaimLost."""
    if not _has_rack_rules(group):
        return
    seats = {(uuid, host) for (uuid, _), there in claims.seats_of(connection, group.uuid).items() for host in there}
    staying = {m.uuid: m for m in group.instances if stays(m)}
    kept = bookings.booked(connection, staying)
    seats |= {(uuid, host) for uuid, (host, _) in kept.items()}
    hosts = fleet.hosts(connection, sorted({host for _, host in seats}))
    # One that moves comes from where it is; one that is placed comes from nowhere.
    before = [
        (staying[uuid], hosts[host])
        for uuid, host in seats
        if uuid in staying and host in hosts and host_of.get(uuid) != host
    ]
    after = [(member, host) for member, host in before if member.uuid not in host_of]
    after += [(group.instance(uuid), hosts[host]) for uuid, host in host_of.items()]
    if lost := lost_to_racks(group, before, after, whole=whole):
        raise claims.ClaimLost(f"hosts are in other racks than planned for: {'; '.join(lost)}")


def _has_rack_rules(group: Group) -> bool:
    policy = group.spec.placement
    return bool(policy.max_per_rack or policy.min_racks or policy.max_racks or policy.same_rack or policy.survive)


def _check_spare_hosts(connection: Connection, group: Group) -> None:
    """Another gang may have come to a spare host since the plan was made. Raises ClaimLost."""
    wanted = group.spec.placement.spare_hosts
    if wanted and spares_are_kept(group) and (left := spare.spare_hosts(connection)) < wanted:
        raise claims.ClaimLost(f"{left} hosts would be left empty, and this group leaves {wanted}")


def _addressed(connection: Connection, cluster: str, group_uuid: str, seats: Sequence[Seat]) -> tuple[Seat, ...]:
    """The seats with the machines' uuids, and with addresses and macs where their zones plan addresses."""
    by_zone: dict[str, list[tuple[str, int]]] = {}
    for one in seats:
        by_zone.setdefault(one.zone_uuid, []).append((one.instance_uuid, one.attempt))
    addresses = take_planned(connection, by_zone)
    return tuple(
        replace(
            one,
            machine_uuid=MachineIdentity(cluster, group_uuid, one.instance_uuid, one.attempt).machine_uuid,
            address=addresses.get(one.instance_uuid, ""),
            mac=mac_address(addresses.get(one.instance_uuid, ""), one.instance_uuid),
        )
        for one in seats
    )

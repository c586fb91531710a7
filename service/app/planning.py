"""Between the fleet's rows and the planner: snapshot and request out, Decision in. Pure translation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address

from placement.constraints import EVERYTHING, Apart, AtMost, Constraint, Near, Scope, Selector
from placement.model import Decision, Explanation, Flavour, Host, Member, Node, Request, Snapshot, Strategy
from service.app.changes import LeaseLost, commit
from service.drivers.base import MachineIdentity
from service.errors import NoCapacity, Unsatisfiable
from service.facts import MoveClaimed, Placed, Seat
from service.failpoints import failpoint
from service.fleet import MEMORY, VCPU, ModelService, Zone
from service.fleet import Host as FleetHost
from service.lifecycle import advance
from service.model import (
    Failure,
    Group,
    GroupPhase,
    Instance,
    InstanceStatus,
    NodeSpec,
    PlacementRecord,
    SeatAssignment,
)
from service.store import claims, fleet, groups, quotas
from service.store.claims import Size
from service.store.connection import Connection

TYPE_LABEL = "corral.type"
GROUP_LABEL = "corral.group"
MOST_FLAVOURS = 16
APART_LABEL = "corral.apart."
"""With a group's uuid behind it: borne by members of groups that are to be apart from that group."""


def demand(node: NodeSpec) -> dict[str, int]:
    """What one member claims: `vcpu` (count), `memory` (bytes) and `gpu.<model>` (count)."""
    vector = {VCPU: node.cpu_num, MEMORY: node.memory_size}
    for gpu in node.gpus:
        name = f"gpu.{gpu.model or 'any'}"
        vector[name] = vector.get(name, 0) + gpu.count
    return vector


def total(vectors: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of named vectors."""
    sums: dict[str, int] = {}
    for vector in vectors:
        for name, amount in vector.items():
            sums[name] = sums.get(name, 0) + amount
    return sums


def snapshot(
    hosts: Mapping[str, FleetHost],
    seated: Mapping[str, Sequence[tuple[str, str, bool]]],
    apart: Mapping[str, frozenset[str]] | None = None,
    sizes: Mapping[Size, int] | None = None,
) -> Snapshot:
    """The fleet as the planner sees it. `seated`: host uuid -> (instance, group, exclusive) of everything claimed.

    `apart`: group uuid -> groups that it is to be apart from. `sizes`: see `flavours`.
    """
    seen_hosts = tuple(seen(host, seated.get(host.uuid, ()), apart or {}) for host in hosts.values())
    return Snapshot(seen_hosts, flavours(sizes or {}))


def flavours(sizes: Mapping[Size, int]) -> tuple[Flavour, ...]:
    """What room is measured by: the sizes that this fleet is asked for most. `sizes`: how often each is seen.

    `least_lost_value` puts a gang where the room that is left is worth least, and room is worth the members that still
    fit in it. Measured by the gang's own sizes alone, a gang without GPUs would not mind to fill hosts that have some,
    and one of many vCPUs would leave memory that nobody can use. So every size of which members run counts, and what
    the catalogue gives by default, which is what comes next. The most frequent sixteen keep the value table small.
    """
    often = sorted(sizes, key=lambda size: (-sizes[size], size))[:MOST_FLAVOURS]
    return tuple(Flavour(dict(size)) for size in sorted(often))


def catalogue_sizes(entries: Iterable[ModelService]) -> Counter[Size]:
    """What the catalogue's entries ask for by default; each counts as one member."""
    return Counter(((MEMORY, entry.default_memory), (VCPU, entry.default_cpu)) for entry in entries)


def seen(host: FleetHost, seats: Sequence[tuple[str, str, bool]], apart: Mapping[str, frozenset[str]]) -> Host:
    """A host as the planner sees it. `seats`: (instance, group, exclusive) of everything claimed; `apart`: as above."""
    return Host(
        id=host.uuid,
        zone=host.zone_uuid,
        capacity=host.usable,
        used={
            name: host.used.get(name, 0) + host.foreign.get(name, 0)
            for name in {*host.used, *host.foreign}
            if name in host.usable
        },
        rack=host.rack or None,
        labels={**host.labels, TYPE_LABEL: host.machine_type},
        schedulable=host.schedulable,
        members=tuple(
            Member(id=instance, labels=_member_labels(group, apart), exclusive=exclusive)
            for instance, group, exclusive in seats
        ),
    )


def _member_labels(group: str, apart: Mapping[str, frozenset[str]]) -> dict[str, str]:
    return {GROUP_LABEL: group, **{APART_LABEL + other: "yes" for other in sorted(apart.get(group, ()))}}


def request(group: Group, fleet_now: Snapshot | None = None) -> Request:
    """The group's pending members as one gang; those that are seated stay where they are.

    `fleet_now`: groups in it that are to be apart from this one are kept away from, whichever came first.
    """
    policy = group.spec.placement
    labels = {GROUP_LABEL: group.uuid}
    staying = {
        m.uuid: m.target_host_uuid or m.host_uuid
        for m in group.instances
        if m.host_uuid and m.status not in (InstanceStatus.PENDING, InstanceStatus.REMOVED)
    }
    rules: list[Constraint] = []
    if policy.max_per_host:
        rules.append(AtMost(EVERYTHING, policy.max_per_host, Scope.HOST))
    if policy.max_per_rack:
        rules.append(AtMost(EVERYTHING, policy.max_per_rack, Scope.RACK))
    mine = Selector(labels=labels)
    rules += [Near(mine, Selector(labels={GROUP_LABEL: other})) for other in policy.affinity_groups]
    rules += [Apart(mine, Selector(labels={GROUP_LABEL: other})) for other in policy.anti_affinity_groups]
    shunned = APART_LABEL + group.uuid
    if fleet_now is not None and any(shunned in m.labels for h in fleet_now.hosts for m in h.members):
        rules.append(Apart(mine, Selector(labels={shunned: "yes"})))
    return Request(
        nodes=tuple(
            Node(
                id=m.uuid,
                demand=demand(m.spec),
                zone=m.spec.zone_uuid or None,
                labels=labels,
                host_labels={TYPE_LABEL: (m.spec.type.value,)},
                exclusive=policy.exclusive_hosts,
            )
            for m in group.instances
            if m.status is InstanceStatus.PENDING
        ),
        strategy=Strategy(policy.strategy.value),
        constraints=tuple(rules),
        excluded_hosts=frozenset(group.excluded_hosts),
        staying=staying,
    )


def read_fleet(connection: Connection) -> tuple[Mapping[str, FleetHost], Snapshot]:
    """All hosts, and the snapshot made of them, read in full; `FleetReader` gives the same and reads what changed."""
    hosts = fleet.hosts(connection)
    sizes = catalogue_sizes(fleet.model_services(connection).values())
    for of_host in claims.sizes(connection).values():
        sizes.update(of_host)
    return hosts, snapshot(hosts, claims.seated(connection), groups.keeping_apart(connection), sizes)


def record(
    group: Group, decision: Decision, hosts: Mapping[str, FleetHost], duration_ms: float, tries: int
) -> PlacementRecord:
    """The Decision as it is stored and told."""
    places = {a.node: a.host for a in decision.assignments}
    return PlacementRecord(
        assignments=tuple(
            SeatAssignment(
                instance_uuid=m.uuid,
                rank=m.rank,
                name=m.spec.name,
                host_uuid=places[m.uuid],
                host_name=hosts[places[m.uuid]].name,
                zone_uuid=hosts[places[m.uuid]].zone_uuid,
                resources=demand(m.spec),
            )
            for m in group.instances
            if m.uuid in places
        ),
        strategy=group.spec.placement.strategy,
        objective=float(decision.objective or 0),
        lower_bound=float(decision.lower_bound or 0),
        upper_bound=float(decision.upper_bound or 0),
        proof=decision.proof.value,
        stage=decision.stage,
        duration_ms=duration_ms,
        claim_tries=tries,
    )


def failure(explanation: Explanation | None, group: Group, fleet_now: Snapshot) -> Failure:
    """Why the gang was not placed, as the group keeps it; nodes are named as `model_services[<rank>]`.

    What the planner calls permanent leaves out hosts that are closed or do not answer, and those come back: only where
    every host is open can it never fit.
    """
    if explanation is not None and explanation.permanent and not all(h.schedulable for h in fleet_now.hosts):
        explanation = replace(explanation, permanent=None)
    permanent = explanation is not None and explanation.permanent is True
    code = Unsatisfiable.reason if permanent else NoCapacity.reason
    if explanation is None:
        return Failure(code, "no placement was found in the time allowed")
    names = {m.uuid: f"model_services[{m.rank}]" for m in group.instances}
    message = explanation.message
    for uuid, name in names.items():
        message = message.replace(uuid, name)
    nearest = explanation.nearest
    told = replace(
        explanation,
        message=message,
        funnels=tuple(replace(f, node=names.get(f.node, f.node)) for f in explanation.funnels),
        nearest=replace(nearest, node=names.get(nearest.node, nearest.node)) if nearest else None,
    )
    return Failure(code, message, told)


def claim(
    connection: Connection,
    cluster: str,
    planned: Group,
    placement: PlacementRecord,
    now: int,
    *,
    alone: bool = False,
) -> Group:
    """Commit the claims of the whole gang, its addresses and the change of the group, or nothing.

    `planned`: the group as the plan was made for it. `alone`: inside `Store.claiming(alone=True)`.
    Raises QuotaExceeded, ClaimLost where a host or address is no longer free or a neighbour is there that must not be,
    LeaseLost where a later epoch has the group. A group that changed meanwhile is returned as it is, unclaimed; so is
    one of which a member took another host, as a live move does: the rules within the group were planned without it.
    """
    before = groups.load(connection, planned.uuid, lock=True)
    if before.epoch != planned.epoch:
        raise LeaseLost(planned.uuid)
    waiting = {m.uuid: m for m in before.instances if m.status is InstanceStatus.PENDING}
    if before.phase is not GroupPhase.PLANNING or set(waiting) != {s.instance_uuid for s in placement.assignments}:
        return before
    if _seated(before) != _seated(planned):
        return before
    failpoint("claim.checked")
    quotas.check(connection, before.project, total(s.resources for s in placement.assignments))
    claims.take(
        connection,
        before.uuid,
        [
            claims.ClaimRequest(s.instance_uuid, waiting[s.instance_uuid].attempt, s.host_uuid, s.resources)
            for s in placement.assignments
        ],
        alone=alone,
    )
    _check_neighbours(connection, before, {s.host_uuid for s in placement.assignments})
    failpoint("claim.alone")
    seats = _seats(connection, cluster, before, waiting, placement)
    failpoint("claim.addressed")
    after = advance(before, Placed(placement, seats), now)
    return commit(connection, before, after, (), now)


def move_request(group: Group, member: Instance, fleet_now: Snapshot, targets: frozenset[str]) -> Request:
    """The member alone, on one of `targets` (host uuids); its fellows stay where they are."""
    leaving = replace(member, status=InstanceStatus.PENDING, host_uuid="")
    others = tuple(m for m in group.instances if m.uuid != member.uuid and m.status is not InstanceStatus.PENDING)
    asked = request(replace(group, instances=(*others, leaving)), fleet_now)
    return replace(asked, excluded_hosts=frozenset(h.id for h in fleet_now.hosts) - targets)


def claim_move(
    connection: Connection, planned: Group, member: Instance, target: FleetHost, now: int, *, alone: bool = False
) -> Group:
    """Commit the claim on the host that the member is to be moved to live, beside the one that it has.

    Raises ClaimLost where that host is no longer free or has a neighbour that must not be, LeaseLost. A member that
    does not wait for a target any more is left alone, and so is one whose fellows are on other hosts than planned for.
    """
    before = groups.load(connection, planned.uuid, lock=True)
    if before.epoch != planned.epoch:
        raise LeaseLost(planned.uuid)
    fact = MoveClaimed(member.uuid, member.attempt, target.uuid, target.name)
    after = advance(before, fact, now)
    if after == before or _seated(before) != _seated(planned):
        return before
    wanted = claims.ClaimRequest(member.uuid, member.attempt, target.uuid, demand(member.spec))
    claims.take(connection, before.uuid, [wanted], alone=alone)
    _check_neighbours(connection, before, {target.uuid})
    return commit(connection, before, after, (), now)


def _seated(group: Group) -> frozenset[tuple[str, int, str, str]]:
    return frozenset((m.uuid, m.attempt, m.host_uuid, m.target_host_uuid) for m in group.instances)


def _check_neighbours(connection: Connection, group: Group, hosts: set[str]) -> None:
    """The rules between groups, once the hosts' rows are locked: another gang may have come since the plan was made.

    Raises ClaimLost.
    """
    policy = group.spec.placement
    away = set(policy.anti_affinity_groups)
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


def _seats(
    connection: Connection,
    cluster: str,
    group: Group,
    waiting: Mapping[str, Instance],
    placement: PlacementRecord,
) -> Mapping[str, Seat]:
    zones = fleet.zones(connection)
    by_zone: dict[str, list[tuple[str, int]]] = {}
    for seat in placement.assignments:
        by_zone.setdefault(seat.zone_uuid, []).append((seat.instance_uuid, waiting[seat.instance_uuid].attempt))
    addresses: dict[str, str] = {}
    for zone_uuid, wanted in sorted(by_zone.items()):
        if plans_addresses(zones[zone_uuid]):
            addresses |= claims.take_addresses(connection, zone_uuid, zones[zone_uuid].network, wanted)
    return {
        seat.instance_uuid: Seat(
            host_uuid=seat.host_uuid,
            host_name=seat.host_name,
            zone_uuid=seat.zone_uuid,
            machine_uuid=MachineIdentity(
                cluster, group.uuid, seat.instance_uuid, waiting[seat.instance_uuid].attempt
            ).machine_uuid,
            address=addresses.get(seat.instance_uuid, ""),
            mac=mac_address(addresses.get(seat.instance_uuid, ""), seat.instance_uuid),
        )
        for seat in placement.assignments
    }


def plans_addresses(zone: Zone) -> bool:
    """Whether members get static addresses of the zone's pool."""
    return bool(zone.network.subnet and zone.network.first_address)


def mac_address(address: str, instance_uuid: str) -> str:
    """Locally administered; made of the address where there is one, because a reused address with a new mac costs
    neighbours 25 to 35 s of stale ARP (measured)."""
    low = int(ip_address(address)) & 0xFFFFFFFF if address else int(instance_uuid[:8], 16)
    first = 0x52 if address else 0x56
    octets = (first, 0x54, *low.to_bytes(4, "big"))
    return ":".join(f"{octet:02x}" for octet in octets)

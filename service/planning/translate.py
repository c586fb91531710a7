"""Between the fleet's rows and the planner: snapshot and request out, Decision in. Pure translation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from placement.constraints import Apart, Selector
from placement.model import Decision, Flavour, Host, Node, Request, Snapshot, Status, Strategy
from placement.modes.moves import Neighbours
from service.domain.amounts import in_words
from service.domain.catalog import ModelService
from service.domain.devices import Device
from service.domain.fleet import GPU, MEMORY, VCPU, Size
from service.domain.fleet import Host as FleetHost
from service.domain.groups import Failure, Group, Instance, InstanceStatus, PlacementRecord, Seat
from service.domain.specs import MachineType, NodeSpec, PlacementPolicy
from service.errors import NoCapacity, Undecided, Unsatisfiable
from service.planning import bare_metal, cells, confinement, group_rules, images, unseen
from service.planning.devices import devices_given, hosts_named, models, together
from service.planning.devices import pools as stand
from service.planning.residents import APART_LABEL, GROUP_LABEL, Pinned, residents

TYPE_LABEL = "corral.type"
CLUSTER_LABEL = "corral.cluster"
MOST_FLAVOURS = 16
UNDECIDED = "no placement was found in the time that the search had, and none was ruled out"
ANY_GPU = "gpu"
"""All devices of a host together, as the planner counts them; no host can have a model without a name."""
_NONE_PINNED: Pinned = {}


def demand(node: NodeSpec) -> dict[str, int]:
    """What a placed member claims: `vcpu` (count), `memory` (bytes) and `gpu.<model>` (count); of one that never was
    placed `ANY_GPU` instead of the models that it leaves open."""
    vector = {VCPU: node.cpu_num, MEMORY: node.memory_size}
    for gpu in node.held_gpus:
        name = f"{GPU}{gpu.model}" if gpu.model else ANY_GPU
        vector[name] = vector.get(name, 0) + gpu.count
    return vector


def wish(node: NodeSpec) -> dict[str, int]:
    """What a member asks for that is to be placed, wherever it was before."""
    return demand(replace(node, devices=()) if node.devices else node)


def claimed(node: NodeSpec, host: FleetHost) -> dict[str, int]:
    """What a placed member claims of its host: what it asks for, and of bare metal all that there is."""
    return dict(bare_metal.size(host)) if host.bare_metal else demand(node)


def _asked(node: NodeSpec, with_total: bool) -> dict[str, int]:
    """What the planner is asked for. `with_total`: some member of the gang takes devices of any model, so every member
    also takes as many of them all together.

    That says all: the devices of a host can be given out exactly if no model is asked for more than is there, and all
    members together for no more than there are of all models.
    """
    asked = wish(node)
    if with_total and node.gpus:
        asked[ANY_GPU] = sum(gpu.count for gpu in node.gpus)
    return asked


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
    pinned: Mapping[str, Pinned] | None = None,
    devices: Mapping[str, Sequence[Device]] | None = None,
) -> Snapshot:
    """The fleet as the planner sees it. `seated`: host uuid -> (instance, group, exclusive) of everything claimed.

    `apart`: group uuid -> groups that it is to be apart from. `sizes`: see `flavours`. `pinned`, `devices`: of each
    host.
    """
    graded = bare_metal.grades(hosts.values())
    seen_hosts = tuple(
        seen(
            host,
            seated.get(host.uuid, ()),
            apart or {},
            graded,
            (pinned or {}).get(host.uuid, {}),
            (devices or {}).get(host.uuid, ()),
        )
        for host in hosts.values()
    )
    return Snapshot(seen_hosts, flavours(sizes or {}, graded))


def flavours(sizes: Mapping[Size, int], graded: Mapping[Size, int] | None = None) -> tuple[Flavour, ...]:
    """What room is measured by: the sizes that this fleet is asked for most. `sizes`: how often each is seen; `graded`:
    see `bare_metal.grades`.

    The strategy `least_lost_value` puts a gang where the room that it takes is worth least, and room is worth the
    members that would fit in it. Measured by the gang's own sizes alone, a gang without GPUs would fill hosts that have
    some, and one of many vCPUs would leave memory that nobody can use. So every size that members have counts, and each
    size that the catalogue gives by default, which is likely to come next. Only the sixteen most frequent are taken,
    which keeps the table of values small.
    """
    often = sorted(sizes, key=lambda size: (-sizes[size], size))[:MOST_FLAVOURS]
    return (*(Flavour(dict(size)) for size in sorted(often)), *bare_metal.flavours(graded or {}))


def catalogue_sizes(entries: Iterable[ModelService]) -> Counter[Size]:
    """What the catalogue's entries ask for by default; each counts as one member."""
    return Counter(((MEMORY, entry.default_memory), (VCPU, entry.default_cpu)) for entry in entries)


def seen(
    host: FleetHost,
    seats: Sequence[tuple[str, str, bool]],
    apart: Mapping[str, frozenset[str]],
    graded: Mapping[Size, int] | None = None,
    pinned: Pinned = _NONE_PINNED,
    devices: Sequence[Device] = (),
    was: Host | None = None,
) -> Host:
    """A host as the planner sees it. `seats`: (instance, group, exclusive) of everything claimed; `apart`: as above;
    `graded`: see `bare_metal.grades`; `devices`: its own; `was`: as it was seen before, whose members that are the same
    are not made again."""
    used = {
        name: host.used.get(name, 0) + host.foreign.get(name, 0) + host.booked.get(name, 0)
        for name in {*host.used, *host.foreign}
        if name in host.allocatable
    }
    known = [name for name in host.allocatable if name.startswith(GPU)]
    whole = {ANY_GPU: sum(host.allocatable[name] for name in known)} if known else {}
    # What is used beyond a lowered capacity takes nothing from the other models.
    taken = {ANY_GPU: sum(min(used.get(name, 0), host.allocatable[name]) for name in known)} if known else {}
    capacity, taken = {**host.allocatable, **whole}, {**used, **taken}
    pools, holds = stand(host, devices, pinned) if not host.bare_metal else ((), {})
    if host.bare_metal:
        capacity = bare_metal.capacity(capacity, (graded or {}).get(bare_metal.size(host), bare_metal.WHOLE))
        taken = capacity if any(taken.values()) or seats else {}
    return Host(
        id=host.uuid,
        zone=host.zone_uuid,
        capacity=capacity,
        used=taken,
        rack=host.rack or None,
        labels=_labels(host),
        schedulable=host.schedulable,
        members=tuple(residents(host, seats, apart, pinned, holds, was)),
        cells=cells.seen(host),
        pools=pools,
    )


def _labels(host: FleetHost) -> dict[str, str]:
    cluster = {CLUSTER_LABEL: host.cluster_uuid} if host.cluster_uuid else {}
    own = {**host.machine_labels, **images.labels(host), **confinement.labels(host), TYPE_LABEL: host.machine_type}
    return {**host.labels, **own, **cluster}


def beside(hosts: Iterable[FleetHost]) -> dict[str, int]:
    """What a member takes of a host beside what it claims: the most on any host that is open."""
    most: dict[str, int] = {}
    for host in hosts:
        for name, amount in host.beside.items() if host.schedulable else ():
            most[name] = max(amount, most.get(name, 0))
    return most


def request(group: Group, fleet_now: Snapshot | None = None, hosts: Mapping[str, FleetHost] | None = None) -> Request:
    """The group's pending members as one gang; those that are seated stay where they are.

    `fleet_now`: groups in it that are to be apart from this one are kept away from, whichever came first. `hosts`: the
    same fleet's rows. A member needs room for what it claims and for what its hypervisor takes beside.
    """
    more = beside((hosts or {}).values())
    policy = group.spec.placement
    labels = {GROUP_LABEL: group.uuid}
    staying = {m.uuid: m.target_host_uuid or m.host_uuid for m in group.instances if group_rules.stays(m)}
    rules = [*group_rules.within(group), *group_rules.between(group, _members)]
    shunned = APART_LABEL + group.uuid
    if fleet_now is not None and any(shunned in m.labels for h in fleet_now.hosts for m in h.members):
        rules.append(Apart(_members(group.uuid), Selector(labels={shunned: "yes"})))
    pending = [m for m in group.instances if m.status is InstanceStatus.PENDING]
    of_any_model = any(not gpu.model for m in pending for gpu in m.spec.gpus)
    return Request(
        nodes=tuple(
            Node(
                id=m.uuid,
                demand=_taken_of_host(m.spec, of_any_model, more),
                zone=m.spec.zone_uuid or _zone_of_endpoint(group, m),
                labels=labels,
                host_labels=_host_labels(m.spec, policy),
                exclusive=policy.exclusive_hosts,
                cells=cells.asked(policy.numa, m.spec),
                devices=together(m.spec, policy.numa),
            )
            for m in pending
        ),
        strategy=Strategy(policy.strategy.value),
        constraints=tuple(rules),
        excluded_hosts=frozenset(group.excluded_hosts) | kept_for_others(group, hosts or {}),
        staying=staying,
    )


def kept_for_others(group: Group, hosts: Mapping[str, FleetHost]) -> frozenset[str]:
    """Machines that may hold what members of another project have left there: until they were cleaned, none for it."""
    if not any(m.spec.type is MachineType.BARE_METAL for m in group.instances):
        return frozenset()
    return frozenset(uuid for uuid, host in hosts.items() if host.bare_metal and not host.open_to(group.project))


def _zone_of_endpoint(group: Group, member: Instance) -> str | None:
    """Where a surge's head has to be: the group's address is one of that zone's."""
    leads = member.beside and member.rank == 0 and group.endpoint is not None
    return group.endpoint.zone_uuid if leads and group.endpoint is not None else None


def _taken_of_host(node: NodeSpec, with_total: bool, more: Mapping[str, int]) -> dict[str, int]:
    """What a node takes of a host in the planner's eyes. `more`: what a hypervisor takes beside."""
    asked = _asked(node, with_total)
    return bare_metal.demand(asked) if node.type is MachineType.BARE_METAL else total((asked, more))


def _members(group: str) -> Selector:
    """The members of the group with this uuid."""
    return Selector(labels={GROUP_LABEL: group})


def _host_labels(node: NodeSpec, policy: PlacementPolicy) -> dict[str, tuple[str, ...]]:
    """What a host must be for the node to go there."""
    wanted = {one.key: one.values for one in policy.required_host_labels if bare_metal.asks(node.type, one.key)}
    wanted |= {**confinement.asked(node), TYPE_LABEL: (node.type.value,)}
    if node.cluster_uuid:
        wanted[CLUSTER_LABEL] = (node.cluster_uuid,)
    return wanted


def seat(member: Instance, host: FleetHost, pinned: tuple[int, ...] = ()) -> Seat:
    """The member's seat on the host, before anything is claimed. `pinned`: to these of its cells."""
    return Seat(
        instance_uuid=member.uuid,
        rank=member.rank,
        name=member.spec.name,
        host_uuid=host.uuid,
        host_name=host.name,
        zone_uuid=host.zone_uuid,
        resources=claimed(member.spec, host),
        attempt=member.attempt,
        cells=pinned,
    )


def record(
    group: Group,
    decision: Decision,
    hosts: Mapping[str, FleetHost],
    duration_ms: float,
    tries: int,
    fleet_now: Snapshot | None = None,
) -> PlacementRecord:
    """The Decision as it is stored and told. `fleet_now`: what it was made for, needed where devices of any model are
    wanted together."""
    places = {a.node: a.host for a in decision.assignments}
    landing = [m for m in group.instances if m.uuid in places]
    numa = group.spec.placement.numa
    settled = models(landing, decision.assignments, fleet_now, numa) if fleet_now is not None else {}
    devices = devices_given(landing, places, hosts, settled)
    pinned = cells.given(landing, decision.assignments, hosts, numa)
    return PlacementRecord(
        assignments=tuple(
            seat(
                replace(m, spec=replace(m.spec, devices=devices.get(m.uuid, ()))),
                hosts[places[m.uuid]],
                pinned.get(m.uuid, ()),
            )
            for m in landing
        ),
        strategy=group.spec.placement.strategy,
        objective=float(decision.objective or 0),
        lower_bound=float(decision.lower_bound or 0),
        upper_bound=float(decision.upper_bound or 0),
        proof=decision.proof.value,
        stage=decision.stage,
        duration_ms=duration_ms,
        claim_tries=tries,
        penalty=decision.penalty,
        penalty_bound=decision.penalty_bound,
        alternative=group.shapes.chosen if group.shapes is not None else 0,
        passed_over=group.shapes.passed_over if group.shapes is not None else (),
    )


def failure(
    decision: Decision, group: Group, fleet_now: Snapshot, hosts: Mapping[str, FleetHost] | None = None
) -> Failure:
    """Why the gang was not placed, as the group keeps it; nodes are named as `model_services[<rank>]`.

    A search that ended without an answer has not said no, nor has one while hosts may yet answer. What the planner
    calls permanent counts each host as open and empty; one of which nobody knows yet what it has may be large enough,
    and one that is to be cleaned will be there.
    `hosts`: the same fleet's rows.
    """
    if decision.status is Status.UNKNOWN:
        return Failure(Undecided.reason, UNDECIDED)
    explanation = decision.explanation
    if explanation is not None and explanation.permanent and not all(any(h.capacity.values()) for h in fleet_now.hosts):
        explanation = replace(explanation, permanent=None)
    kept = kept_for_others(group, hosts or {})
    if explanation is not None and kept:
        explanation = replace(explanation, permanent=None)
    permanent = explanation is not None and explanation.permanent is True
    if not permanent and (waits := unseen.waits_for(hosts or {})):
        return Failure(Undecided.reason, unseen.told(waits))
    code = Unsatisfiable.reason if permanent else NoCapacity.reason
    if explanation is None:
        return Failure(code, "no placement exists")
    explanation = bare_metal.told(explanation)
    rules = group_rules.rules_named(explanation, group)
    names = {m.uuid: f"model_services[{m.rank}]" for m in group.instances}
    message = explanation.message
    for uuid, name in names.items():
        message = message.replace(uuid, name)
    for short in explanation.shortages:
        message = message.replace(f"{short.missing} {short.resource}", in_words(short.resource, short.missing))
    explanation = hosts_named(explanation, fleet_now, hosts or {})
    nearest = explanation.nearest
    told = replace(
        explanation,
        message=message,
        funnels=tuple(replace(f, node=names.get(f.node, f.node)) for f in explanation.funnels),
        nearest=replace(nearest, node=names.get(nearest.node, nearest.node)) if nearest else None,
    )
    return Failure(code, message + rules + bare_metal.to_be_cleaned(len(kept)), told)


def move_request(
    group: Group, member: Instance, fleet_now: Snapshot, hosts: Mapping[str, FleetHost], targets: frozenset[str]
) -> Request:
    """The member alone, on one of `targets` (host uuids); its fellows stay where they are. `hosts`: see `request`."""
    # It runs with the devices that it has, wherever it goes.
    spec = replace(member.spec, gpus=member.spec.held_gpus, devices=())
    leaving = replace(member, spec=spec, status=InstanceStatus.PENDING, host_uuid="")
    others = tuple(m for m in group.instances if m.uuid != member.uuid and m.status is not InstanceStatus.PENDING)
    asked = request(replace(group, instances=(*others, leaving)), fleet_now, hosts)
    return replace(asked, excluded_hosts=frozenset(h.id for h in fleet_now.hosts) - targets)


def neighbours(
    group: Group, movable: frozenset[str], fleet_now: Snapshot, hosts: Mapping[str, FleetHost]
) -> Neighbours | None:
    """The members of a group that may move, each in its zone and at the cost of its memory; None where there are none.

    `movable`: uuids of seated members. The others stay, and count for the group's rules. `hosts`: see `request`.
    """
    if not movable:
        return None
    members = {m.uuid: m for m in group.instances if m.uuid in movable}
    seats = tuple(
        replace(m, status=InstanceStatus.PENDING, host_uuid="") if m.uuid in movable else m
        for m in group.instances
        if m.uuid in movable or m.status is not InstanceStatus.PENDING
    )
    asked = request(replace(group, instances=seats), fleet_now, hosts)
    return Neighbours(
        tuple(replace(node, zone=members[node.id].zone_uuid) for node in asked.nodes),
        {uuid: member.spec.memory_size for uuid, member in members.items()},
        asked.constraints,
        asked.staying,
        asked.excluded_hosts,
    )


def kept_from(group: Neighbours, hosts: frozenset[str]) -> Neighbours:
    """The members as they were, and none of them goes to these hosts."""
    return replace(group, excluded_hosts=group.excluded_hosts | hosts)

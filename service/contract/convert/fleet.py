"""Zones, hosts and capacity as messages, and the requests that change them as domain types."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from corral.v1 import fleet_pb2, group_pb2

from service.app.capacity import FleetCapacity, HostView, ResourceAmounts, amounts, cell_amounts
from service.app.clusters import ClusterChange, ClusterView, NewCluster
from service.app.etags import etag_of
from service.app.evacuation import Progress
from service.app.feed import Bookmark
from service.app.fleet_feed import FleetUpdate
from service.app.host_requests import BmcWish, HostChange, NewHost
from service.app.room import RoomPlan
from service.app.zones import ZoneView
from service.contract.call import told_cause
from service.contract.convert.image_copies import image_copies
from service.contract.convert.inventory import Reachable, instance, placement, proof, room_eviction, timestamp
from service.contract.rules import host_address
from service.domain.cells import without_cells
from service.domain.devices import Device
from service.domain.fleet import Bmc, Fencing, Host, HostAddress, HostState, Overcommit
from service.domain.ownership import Quarantined

_CHANGEABLE = ("name", "description", "rack", "resource_policies", "labels", "cluster_uuid")
"""Beside `bmc`, which is a message."""


def cluster(view: ClusterView) -> fleet_pb2.Cluster:
    """The inventory of a cluster."""
    value = view.cluster
    return fleet_pb2.Cluster(
        uuid=value.uuid,
        name=value.name,
        description=value.description,
        zone_uuid=value.zone_uuid,
        zone_uuids=sorted(view.hosts),
        host_count=sum(view.hosts.values()),
        create_date=timestamp(value.created_at),
        last_op_date=timestamp(value.updated_at),
        etag=etag_of(value),
    )


_MOST = 2**63 - 1
"""The largest number that a message has room for; pools of IPv6 may have more addresses."""


def zone(view: ZoneView) -> fleet_pb2.Zone:
    """The inventory of a zone."""
    value = view.zone
    return fleet_pb2.Zone(
        uuid=value.uuid,
        name=value.name,
        description=value.description,
        host_count=view.hosts,
        network=fleet_pb2.ZoneNetwork(
            kind=value.network.kind,
            source=value.network.source,
            subnet=value.network.subnet,
            gateway=value.network.gateway,
            pool=f"{value.network.first_address}-{value.network.last_address}" if value.network.subnet else "",
            pools=[f"{low}-{high}" for low, high in value.network.pools],
            isolation=value.network.isolation,
            reachable=value.network.reachable,
        ),
        image_copies_budget=value.image_copies_budget,
        seed_url=value.seed_url,
        report_url=value.report_url,
        pools=[
            fleet_pb2.AddressPool(
                first=one.first,
                last=one.last,
                size=min(one.size, _MOST),
                held=one.held,
                foreign=one.foreign,
                free=min(one.free, _MOST),
            )
            for one in view.pools or ()
        ],
        foreign_addresses=[
            fleet_pb2.ForeignAddress(
                address=one.address,
                hardware_address=one.hardware_address,
                how=one.how,
                seen_by=one.seen_by,
                since=timestamp(one.since),
            )
            for one in view.foreign
        ],
        create_date=timestamp(value.created_at),
        last_op_date=timestamp(value.updated_at),
        etag=etag_of(value),
    )


def quarantined(one: Quarantined) -> fleet_pb2.Quarantined:
    """A machine or volume that nobody knows."""
    return fleet_pb2.Quarantined(
        host_uuid=one.host,
        key=one.key,
        holding=one.holding.value,
        name=one.name,
        group_uuid=one.group,
        instance_uuid=one.instance,
        attempt=one.attempt,
        state=one.state,
        reason=one.reason,
        resources=without_cells(one.resources),
        create_date=timestamp(one.since),
        removal_ordered=one.removal,
    )


def host(view: HostView) -> fleet_pb2.Host:
    """The inventory of a host."""
    value = view.host
    return fleet_pb2.Host(
        uuid=value.uuid,
        name=value.name,
        description=value.description,
        zone_uuid=value.zone_uuid,
        cluster_uuid=value.cluster_uuid,
        rack=value.rack,
        driver=value.address.driver,
        type=value.machine_type,
        state=value.state.value,
        status=value.status.value,
        hypervisor_uuid=value.hypervisor,
        capacities=[resource(one) for one in amounts(view)],
        numa_cells=[
            fleet_pb2.NumaCell(number=number, capacities=[resource(one) for one in of_cell])
            for number, of_cell in cell_amounts(view)
        ],
        labels=value.labels,
        instance_count=view.load.members,
        reason=value.status_reason,
        cause=told_cause(value.status_cause),
        create_date=timestamp(value.created_at),
        last_op_date=timestamp(value.updated_at),
        etag=etag_of(value),
        projects=[
            fleet_pb2.HostProject(project=one.project, instance_count=one.members, claimed=one.amounts)
            for one in view.projects
        ],
        devices=[device(one) for one in view.devices],
        fencing=_fencing(view),
        isolation=value.isolation,
        firmware=value.firmware,
        secure_boot=value.secure_boot,
        cleaning=_cleaning(value),
        image_copies=image_copies(view.images),
    )


def device(value: Device) -> fleet_pb2.HostDevice:
    """A device of a host."""
    return fleet_pb2.HostDevice(
        key=value.key,
        model=value.model,
        state=value.state.value,
        reason=value.reason,
        functions=[function.address for function in value.functions],
        numa_cell=value.cell if value.cell >= 0 else None,
        iommu_group=value.iommu_group if value.iommu_group >= 0 else None,
        virtual_of=value.virtual_of,
        instance_uuid=value.instance_uuid,
        group_uuid=value.group_uuid,
        partition=value.partition,
    )


def _cleaning(host: Host) -> fleet_pb2.HostCleaning | None:
    if not host.bare_metal:
        return None
    known = host.cleaning
    return fleet_pb2.HostCleaning(
        mode=host.wipe.value, state=known.state.value, reason=known.reason, served_project=known.served
    )


def _fencing(view: HostView) -> fleet_pb2.HostFencing | None:
    board, last = view.host.bmc, view.fence
    if board is None and last is None:
        return None
    return fleet_pb2.HostFencing(
        mode=view.host.fencing.value,
        bmc_address=f"{board.address.address}:{board.address.port or 443}" if board is not None else "",
        verdict=view.verdict.rule.value if view.verdict is not None else "",
        verdict_reason=view.verdict.reason if view.verdict is not None else "",
        last_fence=fleet_pb2.Fence(
            uuid=last.uuid,
            cause=last.cause.value,
            state=last.state.value,
            reason=last.reason,
            orders=last.orders,
            create_date=timestamp(last.asked_at),
            end_date=timestamp(last.ended_at),
        )
        if last is not None
        else None,
    )


def resource(value: ResourceAmounts) -> fleet_pb2.ResourceCapacity:
    """One resource's amounts."""
    return fleet_pb2.ResourceCapacity(
        resource=value.resource,
        total=value.total,
        reserved=value.reserved,
        overcommit_ratio=float(value.ratio),
        allocatable=value.allocatable,
        claimed=value.claimed,
        foreign=value.foreign,
        available=value.available,
        used=value.used,
    )


def capacity(value: FleetCapacity) -> fleet_pb2.GetCapacityResponse:
    """The sums over many hosts."""
    return fleet_pb2.GetCapacityResponse(
        capacities=[resource(one) for one in value.amounts],
        hosts=value.hosts,
        unavailable_hosts=value.unavailable_hosts,
    )


def update(value: FleetUpdate | Bookmark) -> fleet_pb2.WatchFleetResponse:
    """Whatever a watch of the fleet tells."""
    message = fleet_pb2.WatchFleetResponse(revision=value.revision)
    if isinstance(value, Bookmark):
        message.bookmark.CopyFrom(group_pb2.Bookmark(initial_state_complete=value.initial_state_complete))
        return message
    at = timestamp(value.time)
    if at is not None:
        message.time.CopyFrom(at)
    if value.host is not None:
        message.host.CopyFrom(host(value.host))
    elif value.zone is not None:
        message.zone.CopyFrom(zone(value.zone))
    elif value.removed_host:
        message.removed_host_uuid = value.removed_host
    else:
        message.removed_zone_uuid = value.removed_zone
    return message


def progress(value: Progress, reachable: Reachable) -> fleet_pb2.DrainHostResponse:
    """One step of a drain."""
    message = fleet_pb2.DrainHostResponse()
    at = timestamp(value.time)
    if at is not None:
        message.time.CopyFrom(at)
    if value.move is not None:
        message.move.CopyFrom(
            fleet_pb2.Move(
                instance_uuid=value.move.instance_uuid,
                source_host_uuid=value.move.source_host_uuid,
                target_host_uuid=value.move.target_host_uuid,
                live=value.move.live,
            )
        )
    elif value.instance is not None:
        message.instance.CopyFrom(instance(value.instance, reachable))
    elif value.final is not None:
        message.final.CopyFrom(host(value.final))
    return message


def room(plan: RoomPlan) -> fleet_pb2.PlanRoomResponse:
    """Moves that make room."""
    return fleet_pb2.PlanRoomResponse(
        moves=[
            fleet_pb2.RoomMove(
                move=fleet_pb2.Move(
                    instance_uuid=one.member.uuid,
                    source_host_uuid=one.source.uuid,
                    target_host_uuid=one.target.uuid,
                    live=one.live,
                ),
                group_uuid=one.group_uuid,
                instance_name=one.member.spec.name,
                memory_size=one.member.spec.memory_size,
                source_host_name=one.source.name,
                target_host_name=one.target.name,
            )
            for one in plan.moves
        ],
        moved_bytes=plan.moved,
        lower_bound_bytes=plan.lower_bound,
        proof=proof(plan.proof),
        placement=placement(plan.record, planned_only=True),
        evictions=[room_eviction(one, one.name, len(one.seats)) for one in plan.evictions],
    )


def new_cluster(message: fleet_pb2.CreateClusterRequest) -> NewCluster:
    """A cluster to make."""
    return NewCluster(message.name, message.zone_uuid, message.description, message.resource_uuid, message.request_id)


def cluster_change(message: fleet_pb2.UpdateClusterRequest) -> ClusterChange:
    """What to change: the fields that the mask names, or without a mask those that are not empty."""
    named = tuple(message.update_mask.paths) or tuple(n for n in ("name", "description") if getattr(message, n))
    return ClusterChange(
        name=message.name if "name" in named else None,
        description=message.description if "description" in named else None,
    )


def new_host(message: fleet_pb2.AddHostRequest) -> NewHost:
    """A host to take into the fleet."""
    return NewHost(
        Host(
            uuid=message.resource_uuid,
            name=message.name,
            zone_uuid=message.zone_uuid,
            address=host_address(message),
            rack=message.rack,
            labels=dict(sorted(message.labels.items())),
            overcommit=overcommit(message.resource_policies),
            description=message.description,
            cluster_uuid=message.cluster_uuid,
            bridge=message.bridge,
            capacity_override=dict(sorted(message.capacity.items())),
            state=HostState(message.state) if message.state else HostState.ENABLED,
            bmc=_bmc(message.bmc) if message.HasField("bmc") else None,
        ),
        credential=message.connection.credential,
        request_id=message.request_id,
        bmc_credential=message.bmc.credential,
    )


def _bmc(message: fleet_pb2.HostBmc) -> Bmc:
    options = {"fingerprint": message.fingerprint, "system": message.system}
    return Bmc(
        HostAddress(
            driver="redfish",
            transport="tls",
            address=message.address,
            port=message.port,
            username=message.username,
            options={name: value for name, value in options.items() if value},
        ),
        Fencing(message.fencing) if message.fencing else Fencing.MANUAL,
    )


def _bmc_wish(message: fleet_pb2.UpdateHostRequest) -> BmcWish | None:
    if message.HasField("bmc"):
        masked = not message.update_mask.paths or "bmc" in message.update_mask.paths
        return BmcWish(_bmc(message.bmc), message.bmc.credential) if masked else None
    return BmcWish(None) if "bmc" in message.update_mask.paths else None


def host_change(message: fleet_pb2.UpdateHostRequest) -> HostChange:
    """What to change: the fields that the mask names, or without a mask those that are not empty."""
    named = tuple(message.update_mask.paths) or tuple(name for name in _CHANGEABLE if getattr(message, name))
    return HostChange(
        name=message.name if "name" in named else None,
        description=message.description if "description" in named else None,
        rack=message.rack if "rack" in named else None,
        overcommit=overcommit(message.resource_policies) if "resource_policies" in named else None,
        labels=dict(sorted(message.labels.items())) if "labels" in named else None,
        cluster_uuid=message.cluster_uuid if "cluster_uuid" in named else None,
        allow_broken_rules=message.allow_broken_rules,
        bmc=_bmc_wish(message),
    )


def overcommit(policies: Iterable[fleet_pb2.ResourcePolicy]) -> Overcommit:
    """Policies by resource. A ratio counts as its decimal digits say, not as the binary number nearest to them."""
    given = sorted(policies, key=lambda policy: policy.resource)
    return Overcommit(
        {p.resource: Fraction(str(p.overcommit_ratio)) for p in given if p.HasField("overcommit_ratio")},
        {p.resource: p.reserved for p in given if p.HasField("reserved")},
    )

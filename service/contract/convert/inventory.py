"""Groups, members, placements, decisions and claims as messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from corral.v1 import fleet_pb2, group_pb2, placement_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from placement.model import Proof
from service.app.etags import etag_of
from service.contract.call import told_cause
from service.contract.convert import specification
from service.domain import roles
from service.domain.groups import Group, Instance, PlacementRecord, RoomPlan, Seat, Update, Waiting
from service.domain.leaving import EvictedTo, Eviction, RoomEviction
from service.domain.specs import PlacementStrategy
from service.domain.staging import Staging
from service.domain.updates import UpdateMode
from service.planning.decisions import Kept, KeptRebalance

Reachable = Callable[[str], bool]
"""Whether members in the zone with this uuid have addresses that are reachable from outside of their hosts."""

_STRATEGIES: Mapping[PlacementStrategy, placement_pb2.PlacementStrategy.ValueType] = {
    PlacementStrategy.LEAST_LOST_VALUE: placement_pb2.PLACEMENT_STRATEGY_LEAST_LOST_VALUE,
    PlacementStrategy.FEWEST_HOSTS: placement_pb2.PLACEMENT_STRATEGY_PACK,
    PlacementStrategy.SPREAD: placement_pb2.PLACEMENT_STRATEGY_SPREAD,
    PlacementStrategy.CLOSE: placement_pb2.PLACEMENT_STRATEGY_CLOSE,
}

_PROOFS: Mapping[str, placement_pb2.PlacementProof.ValueType] = {
    "optimal": placement_pb2.PLACEMENT_PROOF_OPTIMAL,
    "gap": placement_pb2.PLACEMENT_PROOF_GAP,
    "infeasible": placement_pb2.PLACEMENT_PROOF_INFEASIBLE,
}

# What a caller sees instead of the stored status while the member's host does not answer.
UNKNOWN = "Unknown"


def timestamp(milliseconds: int) -> Timestamp | None:
    """A point in time from milliseconds since the Unix epoch; None for 0, which means never."""
    if not milliseconds:
        return None
    seconds, rest = divmod(milliseconds, 1000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000_000)


def group(value: Group, reachable: Reachable) -> group_pb2.InstanceGroup:
    """The inventory of a group, with the members that `value` has."""
    spec = value.spec
    first = spec.nodes[0]
    return group_pb2.InstanceGroup(
        uuid=value.uuid,
        model_service_uuid=first.model_service_uuid,
        model_uuid=spec.model_uuid,
        instances=[instance(member, reachable) for member in value.serving],
        status=value.status.value,
        model_service_type=spec.model_service_type,
        type=first.type.value,
        name=spec.name,
        description=spec.description,
        yaml=specification.as_yaml(spec) if value.instances else "",
        support_metrics=spec.support_metrics,
        create_date=timestamp(value.created_at),
        last_op_date=timestamp(value.updated_at),
        service_creation_strategy=spec.creation_strategy.value,
        reason=value.reason,
        cause=told_cause(value.told_cause),
        system_tags=spec.system_tags,
        user_tags=spec.user_tags,
        tag_uuids=spec.tag_uuids,
        revision=value.revision,
        etag=etag_of(value),
        endpoint=_endpoint(value, reachable),
        project=value.project,
        roles=[
            group_pb2.RoleStatus(
                role=state.role,
                start_order=state.start_order,
                instance_count=state.members,
                running_count=state.running,
                status=state.status.value,
            )
            for state in roles.states(value.serving)
        ],
        room=_room(value.room.plan) if value.room is not None and value.room.plan is not None else None,
        waiting=_waiting(value.waiting) if value.waiting is not None and value.waiting.since else None,
        expected_end=timestamp(value.ends_at),
        priority=value.priority,
        eviction=_eviction(value, value.eviction) if value.eviction is not None else None,
        update=_update(value, value.update, reachable) if value.update is not None else None,
    )


def _endpoint(value: Group, reachable: Reachable) -> str:
    head = next((m for m in value.serving if m.rank == 0), None)
    return instance(head, reachable).url if head is not None else ""


def _waiting(value: Waiting) -> group_pb2.WaitInProgress:
    return group_pb2.WaitInProgress(
        reason=value.failure.code if value.failure is not None else "",
        position=value.position,
        since=timestamp(value.since),
        until=timestamp(value.until),
        earliest_start=timestamp(value.starts_at),
        kept_hosts=len({seat.host_uuid for seat in value.kept.seats}) if value.kept is not None else 0,
    )


_MODES: Mapping[UpdateMode, group_pb2.UpdateMode.ValueType] = {
    UpdateMode.SURGE: group_pb2.UPDATE_MODE_SURGE,
    UpdateMode.IN_PLACE: group_pb2.UPDATE_MODE_IN_PLACE,
}


def _update(value: Group, update: Update, reachable: Reachable) -> group_pb2.GroupUpdate:
    return group_pb2.GroupUpdate(
        number=update.number,
        mode=_MODES[update.mode],
        stage=update.stage.value,
        reason=update.reason,
        undoes=update.undoes,
        needs=update.needs,
        instances=[instance(member, reachable) for member in value.instances if member.beside],
        gang_status=update.gang.status.value if update.gang is not None else "",
        begin_date=timestamp(update.began_at),
        end_date=timestamp(update.ended_at),
    )


def _room(plan: RoomPlan) -> group_pb2.RoomInProgress:
    """Other projects' members are told by their size alone: whoever may see the group may not see them."""
    return group_pb2.RoomInProgress(
        moves=[
            group_pb2.MemberMove(
                instance_uuid="" if move.other_project else move.instance_uuid,
                group_uuid="" if move.other_project else move.group_uuid,
                instance_name="" if move.other_project else move.name,
                source_host_name=move.source_host_name,
                target_host_name=move.target_host_name,
                memory_size=move.memory,
                live=move.live,
                gone=move.instance_uuid in plan.arrived,
            )
            for move in plan.moves
        ],
        moved_bytes=plan.moved,
        lower_bound_bytes=plan.lower_bound,
        proof=_PROOFS[plan.proof],
        evictions=[
            room_eviction(
                one, "" if one.other_project else one.name, len(one.seats), sum(m in plan.arrived for m in one.seats)
            )
            for one in plan.evictions
        ],
    )


EVICTED_TO: Mapping[EvictedTo, group_pb2.EvictedTo.ValueType] = {
    EvictedTo.WAITING: group_pb2.EVICTED_TO_WAITING,
    EvictedTo.STOPPED: group_pb2.EVICTED_TO_STOPPED,
    EvictedTo.DELETED: group_pb2.EVICTED_TO_DELETED,
}


def room_eviction(one: RoomEviction, name: str, members: int, gone: int = 0) -> group_pb2.RoomEviction:
    """A group that ends to make room. `name`: empty where the caller may not see it."""
    return group_pb2.RoomEviction(
        group_uuid=one.group_uuid if name else "",
        group_name=name,
        priority=one.priority,
        memory_size=one.memory,
        instance_count=members,
        time=timestamp(one.at),
        becomes=EVICTED_TO[one.becomes],
        gone_count=gone,
    )


def _eviction(value: Group, asked: Eviction) -> group_pb2.EvictionNotice:
    """For whom it ends is told where that is its own project's group: whoever may see the one may see the other."""
    own = asked.by_project == value.project
    return group_pb2.EvictionNotice(
        time=timestamp(asked.at),
        becomes=EVICTED_TO[asked.becomes],
        by_priority=asked.by_priority,
        by_group_uuid=asked.by_group if own else "",
        by_name=asked.by_name if own else "",
        begun=asked.begun,
    )


def instance(value: Instance, reachable: Reachable) -> group_pb2.Instance:
    """The inventory of one member."""
    url = service_url(value)
    zone_uuid = value.zone_uuid or value.spec.zone_uuid
    return group_pb2.Instance(
        uuid=value.uuid,
        name=value.spec.name,
        model_service_group_uuid=value.group_uuid,
        status=UNKNOWN if value.unknown_since else value.status.value,
        url=url if url and reachable(zone_uuid) else "",
        internal_url=url,
        vm_instance_uuid=value.machine_uuid.replace("-", ""),
        host_uuid=value.host_uuid,
        zone_uuid=zone_uuid,
        node_rank=value.rank,
        is_initial_node=value.spec.is_initial_node,
        cpu_num=value.spec.cpu_num,
        memory_size=value.spec.memory_size,
        addresses=[value.address] if value.address else [],
        reason=value.reason,
        cause=told_cause(value.told_cause),
        attempt=value.attempt,
        create_date=timestamp(value.created_at),
        last_op_date=timestamp(value.updated_at),
        host_name=value.host_name,
        model_service_uuid=value.spec.model_service_uuid,
        role=value.spec.role,
        last_answer=timestamp(value.last_answer_at),
        engine_restarts=value.engine_restarts,
        numa_cells=value.cells,
        devices=[device.key for device in value.devices],
        beside=value.beside,
        image_staging=_staging(value.staging) if value.staging is not None and value.staging.image else None,
        weights_staging=_weights(value.staging) if value.staging is not None and not value.staging.image else None,
    )


def _staging(value: Staging) -> group_pb2.ImageStaging:
    left = value.left_seconds
    return group_pb2.ImageStaging(
        image_name=value.image,
        done_bytes=value.done,
        total_bytes=value.total,
        bytes_per_second=value.rate,
        remaining=Duration(seconds=left) if left is not None else None,
    )


def _weights(value: Staging) -> group_pb2.WeightsStaging:
    left = value.left_seconds
    return group_pb2.WeightsStaging(
        done_bytes=value.done,
        total_bytes=value.total,
        bytes_per_second=value.rate,
        remaining=Duration(seconds=left) if left is not None else None,
    )


def service_url(value: Instance) -> str:
    """Where the member's service answers in its network, its group's own address before that of the member itself;
    empty until that is known."""
    address = value.endpoint or value.address
    if not address or not value.service_port:
        return ""
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{value.service_port}"


def placement(record: PlacementRecord, *, planned_only: bool = False) -> placement_pb2.Placement:
    """A placement with its bounds. `planned_only`: nothing was stored, so members have no uuids yet."""
    gap = (record.upper_bound - record.lower_bound) / max(1.0, abs(record.upper_bound))
    duration = Duration()
    duration.FromMicroseconds(round(record.duration_ms * 1000))
    return placement_pb2.Placement(
        assignments=[_assignment(seat, planned_only) for seat in _by_rank(record)],
        objective=record.objective,
        lower_bound=record.lower_bound,
        upper_bound=record.upper_bound,
        gap=max(0.0, gap),
        proof=_PROOFS.get(record.proof, placement_pb2.PLACEMENT_PROOF_UNSPECIFIED),
        stage=record.stage,
        duration=duration,
        strategy=_STRATEGIES[record.strategy],
        penalty=record.penalty,
        penalty_bound=record.penalty_bound,
        alternative=record.alternative,
        passed_over=[
            placement_pb2.PassedOver(reason=one.reason, message=one.message, proven=one.proven)
            for one in record.passed_over
        ],
    )


def proof(value: Proof) -> placement_pb2.PlacementProof.ValueType:
    """How good a placement is proven to be."""
    return _PROOFS[value.value]


def _by_rank(record: PlacementRecord) -> list[Seat]:
    return sorted(record.assignments, key=lambda seat: seat.rank)


def _assignment(seat: Seat, planned_only: bool) -> placement_pb2.Assignment:
    return placement_pb2.Assignment(
        instance_uuid="" if planned_only else seat.instance_uuid,
        node_rank=seat.rank,
        name=seat.name,
        host_uuid=seat.host_uuid,
        host_name=seat.host_name,
        zone_uuid=seat.zone_uuid,
        resources=seat.resources,
        numa_cells=seat.cells,
    )


def claim(record: PlacementRecord) -> placement_pb2.Claim:
    """What was reserved for each member, in the order of their ranks."""
    return placement_pb2.Claim(
        instances=[
            placement_pb2.InstanceClaim(
                instance_uuid=seat.instance_uuid, host_uuid=seat.host_uuid, resources=seat.resources
            )
            for seat in _by_rank(record)
        ],
        attempts=record.claim_tries,
    )


def decision(kept: Kept) -> fleet_pb2.Decision:
    """A decision in short."""
    if isinstance(kept, KeptRebalance):
        return _rebalance(kept)
    made = kept.decision
    return fleet_pb2.Decision(
        uuid=kept.uuid,
        group_uuid=kept.group_uuid,
        create_date=timestamp(kept.created_at),
        status=made.status.value,
        strategy=made.strategy.value,
        proof=made.proof.value,
        stage=made.stage,
        nodes=kept.request.size,
        hosts=len(kept.snapshot.hosts),
        duration_ms=kept.duration_ms,
        stopped=made.stopped,
        kind="place",
    )


def _rebalance(kept: KeptRebalance) -> fleet_pb2.Decision:
    plan = kept.plan
    return fleet_pb2.Decision(
        uuid=kept.uuid,
        create_date=timestamp(kept.created_at),
        status="moves" if plan.steps else "none",
        strategy=kept.limits.goal.value,
        proof=plan.proof.value,
        stage="rebalance",
        nodes=kept.size,
        hosts=len(kept.snapshot.hosts),
        duration_ms=kept.duration_ms,
        stopped=plan.stopped,
        kind="rebalance",
        moves=len(plan.steps),
    )

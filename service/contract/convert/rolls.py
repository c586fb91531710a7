"""Rolls as messages, and what is asked of one as a domain type."""

from __future__ import annotations

from collections.abc import Mapping

from corral.v1 import fleet_pb2, placement_pb2

from placement.model import Proof
from placement.modes.moves import Move
from service.contract.convert.inventory import proof, timestamp
from service.domain.groups import Group, Instance
from service.domain.rolls import Roll, RollEnable, RollHost, RollWish
from service.planning.rolling import RollPlan

_ENABLE = {
    fleet_pb2.ROLL_ENABLE_UNSPECIFIED: RollEnable.WORD,
    fleet_pb2.ROLL_ENABLE_WORD: RollEnable.WORD,
    fleet_pb2.ROLL_ENABLE_RESTART: RollEnable.RESTART,
}
_TOLD = {RollEnable.WORD: fleet_pb2.ROLL_ENABLE_WORD, RollEnable.RESTART: fleet_pb2.ROLL_ENABLE_RESTART}


def asked(message: fleet_pb2.PlanRollRequest) -> RollWish:
    """What a preview is asked for."""
    return RollWish(message.zone_uuid, message.cluster_uuid, tuple(message.host_uuids), message.at_once or 1)


def wish(message: fleet_pb2.RollHostsRequest) -> RollWish:
    """What is asked for."""
    enable = _ENABLE[message.enable]
    return RollWish(message.zone_uuid, message.cluster_uuid, tuple(message.host_uuids), message.at_once or 1, enable)


def plan(value: RollPlan) -> fleet_pb2.PlanRollResponse:
    """An order, and what it costs."""
    made, members = value.plan, value.members()
    return fleet_pb2.PlanRollResponse(
        batches=[
            fleet_pb2.RollBatch(host_uuids=batch.hosts, moves=[_move(value, members, move) for move in batch.moves])
            for batch in made.batches
        ],
        left_host_uuids=made.left,
        least_moves=made.least_moves,
        proof=proof(made.proof) if made.proof is not Proof.NONE else placement_pb2.PLACEMENT_PROOF_UNSPECIFIED,
        stuck_host_uuid=made.stuck,
        reason=made.why if made.stuck else "",
        stopped=made.stopped,
    )


def roll(one: Roll) -> fleet_pb2.Roll:
    """How far one is."""
    return fleet_pb2.Roll(
        uuid=one.uuid,
        create_date=timestamp(one.created_at),
        end_date=timestamp(one.ended_at) if one.ended_at else None,
        called_off=bool(one.called_off_at),
        at_once=one.wish.at_once,
        enable=_TOLD[one.wish.enable],
        hosts=[_host(host) for host in one.hosts],
        reason=one.reason,
    )


def _host(host: RollHost) -> fleet_pb2.RollHost:
    return fleet_pb2.RollHost(
        host_uuid=host.uuid,
        host_name=host.name,
        stage=host.stage.value,
        since=timestamp(host.since) if host.since else None,
        reason=host.reason,
    )


def _move(value: RollPlan, members: Mapping[str, tuple[Group, Instance]], move: Move) -> fleet_pb2.RoomMove:
    group, member = members[move.member]
    return fleet_pb2.RoomMove(
        move=fleet_pb2.Move(
            instance_uuid=member.uuid,
            source_host_uuid=move.source,
            target_host_uuid=move.target,
            live=move.member in value.live,
        ),
        group_uuid=group.uuid,
        instance_name=member.spec.name,
        memory_size=member.spec.memory_size,
        source_host_name=value.hosts[move.source].name,
        target_host_name=value.hosts[move.target].name,
    )

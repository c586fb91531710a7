"""Rebalances as messages, and what is asked of one as a domain type."""

from __future__ import annotations

from corral.v1 import fleet_pb2

from placement.modes.plans import Cause, Fault, Goal, ZoneLoad
from service.app.rebalancing import Outcome, Progress, RebalancePlan, RebalanceView
from service.contract.convert.inventory import Reachable, instance, proof, timestamp
from service.domain.rebalances import (
    DEFAULT_LEAST_GAIN,
    DEFAULT_MOVES,
    DEFAULT_THRESHOLD,
    Held,
    RebalanceMove,
    RebalanceWish,
)
from service.errors import InvalidArgument

_CAUSES = {
    "rule": fleet_pb2.REBALANCE_CAUSE_RULE,
    "load": fleet_pb2.REBALANCE_CAUSE_LOAD,
    "roll": fleet_pb2.REBALANCE_CAUSE_ROLL,
    "free": fleet_pb2.REBALANCE_CAUSE_FREE,
}
_GOALS = {
    fleet_pb2.REBALANCE_GOAL_UNSPECIFIED: Goal.EVEN_LOAD,
    fleet_pb2.REBALANCE_GOAL_EVEN_LOAD: Goal.EVEN_LOAD,
    fleet_pb2.REBALANCE_GOAL_FREE_HOSTS: Goal.FREE_HOSTS,
}
_PER_PERCENT = 10


def wish(message: fleet_pb2.PlanRebalanceRequest | fleet_pb2.RebalanceHostsRequest) -> RebalanceWish:
    """What is asked for. Raises InvalidArgument for what counts for load alone where hosts are to become free."""
    goal = _GOALS[message.goal]
    for name in ("threshold_percent", "least_gain_percent"):
        if goal is Goal.FREE_HOSTS and getattr(message, name):
            raise InvalidArgument.of(name, "counts for load alone: leave it out where hosts are to become free")
    return RebalanceWish(
        message.zone_uuid,
        message.cluster_uuid,
        message.most_moves or DEFAULT_MOVES,
        message.threshold_percent or DEFAULT_THRESHOLD,
        message.least_gain_percent or DEFAULT_LEAST_GAIN,
        goal.value,
        isinstance(message, fleet_pb2.RebalanceHostsRequest) and message.advise_only,
        message.hold_seconds if message.HasField("hold_seconds") else None,
    )


def plan(value: RebalancePlan) -> fleet_pb2.PlanRebalanceResponse:
    """Moves, and what they are good for."""
    made = value.plan
    return fleet_pb2.PlanRebalanceResponse(
        moves=[_move(one) for one in value.moves],
        broken_rules=[_broken(one) for one in made.broken],
        left_broken=[_broken(one) for one in made.left],
        least_moves=made.least_moves,
        zones=[_zone(one) for one in made.zones],
        moved_bytes=made.cost,
        proof=proof(made.proof),
        stopped=made.stopped,
        freed_host_uuids=made.freed,
        most_freed=made.most_freed,
        held=_held(value.held),
    )


def _held(value: Held) -> fleet_pb2.HeldMembers | None:
    if not value.count:
        return None
    first, last = timestamp(value.first_until), timestamp(value.last_until)
    return fleet_pb2.HeldMembers(count=value.count, first_until=first, last_until=last)


def progress(value: Progress, reachable: Reachable) -> fleet_pb2.RebalanceHostsResponse:
    """One step of a rebalance."""
    message = fleet_pb2.RebalanceHostsResponse(time=timestamp(value.time), uuid=value.uuid)
    if value.plan is not None:
        message.plan.CopyFrom(plan(value.plan))
    elif value.instance is not None:
        message.instance.CopyFrom(instance(value.instance, reachable))
    elif value.final is not None:
        message.final.CopyFrom(rebalance(value.final))
    return message


def rebalance(view: RebalanceView) -> fleet_pb2.Rebalance:
    """What has become of one."""
    one = view.rebalance
    if one is None:
        return fleet_pb2.Rebalance()
    return fleet_pb2.Rebalance(
        uuid=one.uuid,
        create_date=timestamp(one.created_at),
        expire_date=timestamp(one.until),
        called_off=bool(one.called_off_at),
        advised=one.advised,
        outcomes=[_outcome(outcome) for outcome in view.outcomes],
    )


def _outcome(value: Outcome) -> fleet_pb2.RebalanceOutcome:
    return fleet_pb2.RebalanceOutcome(move=_move(value.move), state=value.state, reason=value.reason)


def _move(one: RebalanceMove) -> fleet_pb2.RebalanceMove:
    return fleet_pb2.RebalanceMove(
        move=fleet_pb2.RoomMove(
            move=fleet_pb2.Move(
                instance_uuid=one.instance_uuid,
                source_host_uuid=one.source_host_uuid,
                target_host_uuid=one.target_host_uuid,
                live=True,
            ),
            group_uuid=one.group_uuid,
            instance_name=one.name,
            memory_size=one.memory_size,
            source_host_name=one.source_host_name,
            target_host_name=one.target_host_name,
        ),
        cause=_CAUSES[one.cause],
        rule=one.rule,
        gain=one.gain / _PER_PERCENT if one.cause == Cause.LOAD else one.gain,
    )


def _broken(fault: Fault) -> fleet_pb2.BrokenRule:
    members = sorted({member for members in fault.sets for member in members})
    return fleet_pb2.BrokenRule(rule=fault.rule.value, missed_by=fault.by, where=fault.where, instance_uuids=members)


def _zone(load: ZoneLoad) -> fleet_pb2.ZoneLoad:
    return fleet_pb2.ZoneLoad(
        zone_uuid=load.zone,
        fullest_percent=load.before / _PER_PERCENT,
        fullest_percent_after=load.after / _PER_PERCENT,
        lower_bound_percent=load.bound / _PER_PERCENT,
    )

"""`corral rebalance`: which members would move so that rules hold again and hosts are evenly full, and to do it."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import click
from corral.v1 import fleet_pb2, fleet_pb2_grpc, placement_pb2

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb
from service.cli.explanation import size_text
from service.cli.follow_up import Detached
from service.cli.listing import pages
from service.cli.output import Columns
from service.cli.places import find_cluster, find_zone
from service.cli.view import describe_member

Stub = fleet_pb2_grpc.FleetServiceStub
_PAGE = 500
EVEN = "even-load"
_GOALS = {
    EVEN: fleet_pb2.REBALANCE_GOAL_EVEN_LOAD,
    "free-hosts": fleet_pb2.REBALANCE_GOAL_FREE_HOSTS,
}


def register(corral: click.Group) -> None:
    """Add the sub-command."""
    verb(corral, "rebalance", example="corral rebalance --zone zone-1 --run")(rebalance)


@output_option
@click.option("--zone", type=names.ZONE, default="", help="Only hosts of this zone, by name or uuid.")
@click.option("--cluster", type=names.CLUSTER, default="", help="Only hosts of this cluster, by name or uuid.")
@click.option("--run", is_flag=True, help="Make the moves, and follow them; without it they are only shown.")
@click.option("--advise", is_flag=True, help="Record what would be moved, for later comparison; nobody moves.")
@click.option("--most-moves", type=click.IntRange(1, 1000), default=10, show_default=True, help="No more than so many.")
@click.option(
    "--threshold",
    type=click.IntRange(1, 100),
    default=20,
    show_default=True,
    help="Percent of a host by which two hosts must differ for a move from one to the other.",
)
@click.option(
    "--least-gain",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="Percent by which the fuller of the two must become less full.",
)
@click.option(
    "--hold-seconds",
    type=click.IntRange(0, 2_592_000),
    help="Whoever has moved less than so long ago moves for a broken rule alone; 0: nobody is held. Without it as the "
    "service is configured.",
)
@click.option(
    "--goal",
    type=click.Choice(list(_GOALS)),
    default=EVEN,
    show_default=True,
    help="What for, once no rule is broken: hosts that are evenly full, or as many free hosts as possible.",
)
@click.option(
    "--list", "listing", is_flag=True, help="Show the rebalances that were begun or advised instead, the newest first."
)
@click.option("--show", metavar="UUID", default="", help="Show where each move of this rebalance stands instead.")
@click.option("--call-off", metavar="UUID", default="", help="Call this rebalance off instead: who has not gone stays.")
def rebalance(
    session: Session,
    output: Output,
    zone: str,
    cluster: str,
    run: bool,
    advise: bool,
    most_moves: int,
    threshold: int,
    least_gain: int,
    hold_seconds: int | None,
    goal: str,
    listing: bool,
    show: str,
    call_off: str,
) -> int:
    """Show which live moves would mend broken rules and even hosts out, or free whole hosts; --run makes them, --advise
    records them.

    Ctrl-C leaves; the moves go on.
    """
    if run and advise:
        raise click.UsageError("--run makes the moves, --advise only records them: name one of them")
    stub = session.stub(Stub)
    if call_off:
        made = stub.CallOffRebalance(fleet_pb2.CallOffRebalanceRequest(uuid=call_off)).inventory
        output.one(made, made.uuid, f"{made.uuid} is called off")
        return errors.OK
    if listing:
        ask = fleet_pb2.ListRebalancesRequest
        found = pages(lambda token: stub.ListRebalances(ask(page_size=_PAGE, page_token=token)))
        output.many(found, _COLUMNS, lambda one: one.uuid)
        return errors.OK
    if show:
        one = stub.GetRebalance(fleet_pb2.GetRebalanceRequest(uuid=show)).inventory
        output.one(one, one.uuid, "\n".join(_outcomes(one)))
        return errors.OK
    wish = fleet_pb2.PlanRebalanceRequest(
        zone_uuid=find_zone(stub, zone).uuid if zone else "",
        cluster_uuid=find_cluster(stub, cluster).uuid if cluster else "",
        most_moves=most_moves,
        threshold_percent=0 if goal != EVEN and threshold == 20 else threshold,
        least_gain_percent=0 if goal != EVEN and least_gain == 5 else least_gain,
        goal=_GOALS[goal],
        hold_seconds=hold_seconds,
    )
    if run or advise:
        return _run(stub, output, wish, advise)
    plan = stub.PlanRebalance(wish)
    if output.kind == "name":
        for one in plan.moves:
            print(one.move.move.instance_uuid)
    elif output.for_people:
        print("\n".join(_told(plan)))
    else:
        print(output.text(plan))
    return errors.OK


def _run(stub: Stub, output: Output, wish: fleet_pb2.PlanRebalanceRequest, advise: bool) -> int:
    request = fleet_pb2.RebalanceHostsRequest(
        zone_uuid=wish.zone_uuid,
        cluster_uuid=wish.cluster_uuid,
        most_moves=wish.most_moves,
        threshold_percent=wish.threshold_percent,
        least_gain_percent=wish.least_gain_percent,
        goal=wish.goal,
        hold_seconds=wish.hold_seconds if wish.HasField("hold_seconds") else None,
        advise_only=advise,
        request_id=uuid4().hex,
    )
    final, uuid = fleet_pb2.Rebalance(), ""
    try:
        for answer in stub.RebalanceHosts(request):
            uuid = answer.uuid or uuid
            if answer.WhichOneof("change") == "final":
                final = answer.final
            if output.for_people:
                for line in _line(answer):
                    print(line, flush=True)
            elif answer.WhichOneof("change") and output.kind != "name":
                print(output.text(answer), flush=True)
    except KeyboardInterrupt:
        errors.tell(f"left; the moves go on. Call them off with: corral rebalance --call-off {uuid}")
        raise Detached from None
    if output.kind == "name" and uuid:
        print(uuid)
    return errors.OK if all(one.state != "stayed" for one in final.outcomes) else errors.FAILED


def _line(answer: fleet_pb2.RebalanceHostsResponse) -> list[str]:
    match answer.WhichOneof("change"):
        case "plan":
            return _told(answer.plan)
        case "instance":
            return [f"member  {describe_member(answer.instance)}"]
        case "final" if answer.final.advised:
            return [f"nobody moves; it is kept as {answer.uuid}"]
        case "final":
            return _outcomes(answer.final)
    return []


def _outcomes(one: fleet_pb2.Rebalance) -> list[str]:
    return [
        f"{outcome.state}  {outcome.move.move.instance_name} -> {outcome.move.move.target_host_name}"
        + (f": {outcome.reason}" if outcome.reason else "")
        for outcome in one.outcomes
    ]


def _state(one: fleet_pb2.Rebalance) -> str:
    if one.called_off:
        return "called off"
    if one.advised:
        return "advised"
    return "goes on" if any(outcome.state == "moving" for outcome in one.outcomes) else "over"


def _moves(one: fleet_pb2.Rebalance) -> str:
    states = Counter(outcome.state for outcome in one.outcomes)
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def _held(plan: fleet_pb2.PlanRebalanceResponse) -> list[str]:
    if not plan.HasField("held"):
        return []
    first, last = (f"{at.ToDatetime():%H:%M:%S} UTC" for at in (plan.held.first_until, plan.held.last_until))
    if plan.held.count == 1:
        return [f"1 member has moved lately and is held until {last}"]
    return [f"{plan.held.count} members have moved lately and are held, the first until {first}, the last until {last}"]


_COLUMNS: Columns = (
    ("UUID", lambda one: one.uuid),
    ("BEGUN", lambda one: f"{one.create_date.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"),
    ("STATE", _state),
    ("MOVES", _moves),
)


def _told(plan: fleet_pb2.PlanRebalanceResponse) -> list[str]:
    lines = [
        f"broken: {one.rule}{f' at {one.where}' if one.where else ''}, by {one.missed_by}" for one in plan.broken_rules
    ]
    if not plan.moves:
        lines.append("nothing is gained by a move")
    else:
        proven = plan.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
        how = "proven the best that so many moves can do" if proven else "more may be possible"
        many = f"{len(plan.moves)} members move" if len(plan.moves) > 1 else "1 member moves"
        lines.append(f"{many}, {size_text(plan.moved_bytes)} of memory ({how}):")
    for one in plan.moves:
        free = one.cause == fleet_pb2.REBALANCE_CAUSE_FREE
        why = f"mends {one.rule}" if one.rule else "frees its host" if free else f"load, {one.gain:g} % less"
        move = one.move
        lines.append(
            f"  {move.instance_name} of {move.group_uuid}: {move.source_host_name} -> {move.target_host_name} "
            f"({size_text(move.memory_size)}, {why})"
        )
    if plan.freed_host_uuids or plan.most_freed:
        freed = len(plan.freed_host_uuids)
        many = "1 host becomes free" if freed == 1 else f"{freed} hosts become free"
        lines.append(f"{many} (so many moves free {plan.most_freed} at most)")
    lines += [
        f"the fullest host of zone {zone.zone_uuid}: {zone.fullest_percent:g} % -> {zone.fullest_percent_after:g} % "
        f"(not below {zone.lower_bound_percent:g} %)"
        for zone in plan.zones
    ]
    lines += [
        f"stays broken: {one.rule}{f' at {one.where}' if one.where else ''}, by {one.missed_by}"
        + ("" if one.instance_uuids else " (none of its members can be moved as it runs)")
        for one in plan.left_broken
    ]
    return lines + _held(plan)

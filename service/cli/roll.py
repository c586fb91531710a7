"""`corral roll`: in which order hosts would be emptied for maintenance, some at a time, and to do it."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import click
from corral.v1 import fleet_pb2, fleet_pb2_grpc, placement_pb2

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb
from service.cli.explanation import size_text
from service.cli.hosts import all_hosts, find_host
from service.cli.listing import pages
from service.cli.output import Columns
from service.cli.places import find_cluster, find_zone

Stub = fleet_pb2_grpc.FleetServiceStub
_PAGE = 500
_ENABLE = {"word": fleet_pb2.ROLL_ENABLE_WORD, "restart": fleet_pb2.ROLL_ENABLE_RESTART}


def register(corral: click.Group) -> None:
    """Add the sub-command."""
    verb(corral, "roll", example="corral roll --zone zone-1 --at-once 2")(roll)


@output_option
@click.argument("hosts", type=names.HOST, nargs=-1)
@click.option("--zone", type=names.ZONE, default="", help="All open hosts of this zone, by name or uuid.")
@click.option("--cluster", type=names.CLUSTER, default="", help="All open hosts of this cluster, by name or uuid.")
@click.option("--run", is_flag=True, help="Begin it; without this it is only shown.")
@click.option("--at-once", type=click.IntRange(1, 1000), default=1, show_default=True, help="So many hosts at a time.")
@click.option(
    "--enable",
    type=click.Choice(list(_ENABLE)),
    default="word",
    show_default=True,
    help="What enables a host again that is empty: your `corral host enable`, or that it was started anew.",
)
@click.option("--list", "listing", is_flag=True, help="Show the rolls that were begun instead, the newest first.")
@click.option("--show", metavar="UUID", default="", help="Show how far each host of this roll is instead.")
@click.option("--call-off", metavar="UUID", default="", help="Call this roll off instead: no further host is begun.")
def roll(
    session: Session,
    output: Output,
    hosts: tuple[str, ...],
    zone: str,
    cluster: str,
    run: bool,
    at_once: int,
    enable: str,
    listing: bool,
    show: str,
    call_off: str,
) -> int:
    """Show in which order hosts would be emptied for maintenance, some at a time; --run begins that.

    Each host waits empty until `corral host enable HOST`, and then the next ones are begun.
    """
    stub = session.stub(Stub)
    if call_off:
        made = stub.CallOffRoll(fleet_pb2.CallOffRollRequest(uuid=call_off)).inventory
        output.one(made, made.uuid, f"{made.uuid} is called off")
        return errors.OK
    if listing:
        ask = fleet_pb2.ListRollsRequest
        found = pages(lambda token: stub.ListRolls(ask(page_size=_PAGE, page_token=token)))
        output.many(found, _COLUMNS, lambda one: one.uuid)
        return errors.OK
    if show:
        one = stub.GetRoll(fleet_pb2.GetRollRequest(uuid=show)).inventory
        output.one(one, one.uuid, "\n".join(_told(one)))
        return errors.OK
    wish = fleet_pb2.PlanRollRequest(
        zone_uuid=find_zone(stub, zone).uuid if zone else "",
        cluster_uuid=find_cluster(stub, cluster).uuid if cluster else "",
        host_uuids=[find_host(stub, host).uuid for host in hosts],
        at_once=at_once,
    )
    if run:
        return _run(stub, output, wish, enable)
    plan = stub.PlanRoll(wish)
    if output.kind == "name":
        for batch in plan.batches:
            print("\n".join(batch.host_uuids))
    elif output.for_people:
        print("\n".join(_order(plan, {one.uuid: one.name for one in all_hosts(stub)})))
    else:
        print(output.text(plan))
    return errors.FAILED if plan.stuck_host_uuid else errors.OK


def _run(stub: Stub, output: Output, wish: fleet_pb2.PlanRollRequest, enable: str) -> int:
    request = fleet_pb2.RollHostsRequest(
        zone_uuid=wish.zone_uuid,
        cluster_uuid=wish.cluster_uuid,
        host_uuids=wish.host_uuids,
        at_once=wish.at_once,
        enable=_ENABLE[enable],
        request_id=uuid4().hex,
    )
    answer = stub.RollHosts(request)
    one = answer.inventory
    lines = _order(answer.plan, {host.host_uuid: host.host_name for host in one.hosts})
    lines.append(f"{one.uuid} is begun. See how far it is with: corral roll --show {one.uuid}")
    output.one(one, one.uuid, "\n".join(lines))
    return errors.OK


def _order(plan: fleet_pb2.PlanRollResponse, hosts: dict[str, str]) -> list[str]:
    moves = sum(len(batch.moves) for batch in plan.batches)
    lines = []
    for number, batch in enumerate(plan.batches, 1):
        lines.append(f"{number}. {', '.join(hosts.get(uuid, uuid) for uuid in batch.host_uuids)}")
        for move in batch.moves:
            how = "keeps running" if move.move.live else "is stopped and placed anew"
            lines.append(
                f"   {move.instance_name} of {move.group_uuid}: {move.source_host_name} -> {move.target_host_name} "
                f"({size_text(move.memory_size)}, {how})"
            )
    if plan.stuck_host_uuid:
        never = plan.proof == placement_pb2.PLACEMENT_PROOF_INFEASIBLE
        how = "cannot be emptied, proven" if never else "could not be emptied in any order that was tried"
        lines.append(f"{hosts.get(plan.stuck_host_uuid, plan.stuck_host_uuid)} {how}: {plan.reason}")
    else:
        proven = plan.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
        how = "proven the fewest" if proven else f"no order has fewer than {plan.least_moves}"
        lines.append(f"{moves} moves ({how})")
    return lines


def _told(one: fleet_pb2.Roll) -> list[str]:
    lines = [f"{host.stage}  {host.host_name}" + (f": {host.reason}" if host.reason else "") for host in one.hosts]
    return [*lines, f"waits: {one.reason}"] if one.reason else lines


def _state(one: fleet_pb2.Roll) -> str:
    if one.called_off:
        return "called off"
    return "over" if one.HasField("end_date") else "waits" if one.reason else "goes on"


def _hosts(one: fleet_pb2.Roll) -> str:
    stages = Counter(host.stage for host in one.hosts)
    return ", ".join(f"{count} {stage}" for stage, count in sorted(stages.items()))


_COLUMNS: Columns = (
    ("UUID", lambda one: one.uuid),
    ("BEGUN", lambda one: f"{one.create_date.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"),
    ("STATE", _state),
    ("HOSTS", _hosts),
)

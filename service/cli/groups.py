"""Groups: deploy, plan, groups, group and watch."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import click
from corral.v1 import deploy_pb2, deploy_pb2_grpc, fleet_pb2, fleet_pb2_grpc, group_pb2, placement_pb2

from service.cli import errors, flags, names, policy
from service.cli.command import Output, Session, output_option, verb
from service.cli.explanation import amounts_text, size_text
from service.cli.filter import Fields, Term, asks, filter_option, filtered
from service.cli.follow_up import Detached, show
from service.cli.listing import is_uuid, named, pages
from service.cli.places import all_zones
from service.cli.requests import BadRequestFile, Request, read_request
from service.cli.room_view import describe_choice, describe_eviction, members_move
from service.cli.values import DURATION
from service.cli.view import GROUP_COLUMNS, cells_text, choose_view, describe_placement

Stub = deploy_pb2_grpc.DistributedModelServiceStub
_PAGE = 500


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    joined = "corral deploy --name pair --gpu h100=2 --gpu-same-partition --dry-run"
    verb(corral, "deploy", example=f"corral deploy request.json\n{joined}")(deploy)
    verb(corral, "plan", example="corral plan request.json")(plan)
    verb(corral, "groups", example="corral groups --filter 'status:run -host:hv9'")(list_groups)
    verb(corral, "group", example="corral group chat")(show_group)
    # As they were called first.
    verb(corral, "list", example="corral list --status Running", hidden=True)(list_groups)
    verb(corral, "get", example="corral get chat", hidden=True)(show_group)
    verb(corral, "watch", example="corral watch chat --until-settled")(watch)


def request_options(function: Any) -> Any:
    """What `deploy` and `plan` take of a request."""
    function = flags.options(policy.options(function))
    for option in (
        click.option("--request-id", help="An id that makes a repeated call the same group."),
        click.option("--name", help="The group's name, instead of the request's."),
        click.option("--file", "-f", "option_file", metavar="FILE", help="The same as FILE."),
        click.argument("file", required=False, metavar="[FILE]"),
    ):
        function = option(function)
    return output_option(function)


make_room_option = click.option(
    "--make-room",
    is_flag=False,
    flag_value="live",
    type=click.Choice(["live", "restart", "evict"]),
    help="Where it does not fit, move members of other groups away as they run; with restart also stop and start those "
    "that cannot. Of one's own project, for administrators of all. With evict groups of a lower priority end where no "
    "moves do, as the operator allows this project.",
)
MAKE_ROOM = {
    "live": group_pb2.MAKE_ROOM_LIVE,
    "restart": group_pb2.MAKE_ROOM_RESTART,
    "evict": group_pb2.MAKE_ROOM_EVICT,
}
priority_option = click.option(
    "--priority",
    type=click.IntRange(-1000, 1000),
    help="Of groups that wait for hosts a higher one goes first, and one may end others of a lower one; 0 is ordinary. "
    "The operator says how high it may be.",
)


@request_options
@make_room_option
@click.option(
    "--wait",
    type=DURATION,
    metavar="FOR",
    help="Where it does not fit now, wait for hosts: for 90s, 15m, 2h or 3d.",
)
@click.option(
    "--ends-in",
    type=DURATION,
    metavar="TIME",
    help="When the group will have been removed, at most: tells those that wait when there is room. It is not ended.",
)
@priority_option
@click.option("--dry-run", "validate_only", is_flag=True, help="Only check and place it; nothing is stored.")
def deploy(
    session: Session,
    output: Output,
    validate_only: bool,
    make_room: str | None,
    wait: int | None,
    ends_in: int | None,
    priority: int | None,
    **options: Any,
) -> int:
    """Place and launch a group, and follow it until it runs. FILE is the request as JSON or YAML, - standard input.

    Without FILE: --name, and options that say what one member is. At Ctrl-C the deploy goes on.
    """
    stub = session.stub(Stub)
    request = _request(session, options, deploy_pb2.DeployDistributedModelServiceRequest())
    request.validate_only = request.validate_only or validate_only
    if make_room is not None:
        request.make_room = MAKE_ROOM[make_room]
    if wait is not None:
        request.wait.CopyFrom(group_pb2.Wait(for_ms=wait))
    if ends_in is not None:
        request.expected_end.FromMilliseconds(int(time.time() * 1000) + ends_in)
    if priority is not None:
        request.priority = priority
    # With an id the call can be made again, at another server too, and nothing is done twice.
    request.request_id = request.request_id or uuid4().hex
    again = f"the same command with --request-id {request.request_id}"
    final = show(stub, lambda: stub.DeployDistributedModelService(request), choose_view(output), again)
    return errors.OK if final.status == "Running" or request.validate_only else errors.FAILED


@request_options
@click.option(
    "--documents",
    is_flag=False,
    flag_value="all",
    metavar="[RANK,RANK...]",
    help="Show what members of these ranks would be told: commands, ports, peers; of all where no ranks are named.",
)
@click.option(
    "--make-room",
    is_flag=False,
    flag_value="live",
    type=click.Choice(sorted(MAKE_ROOM)),
    help="Where it does not fit, tell which members of other groups would have to move; with evict also which groups "
    "of a lower priority would have to end, where no moves do. For administrators.",
)
@priority_option
def plan(
    session: Session,
    output: Output,
    documents: str | None,
    make_room: str | None,
    priority: int | None,
    **options: Any,
) -> int:
    """Tell where a group would be placed, or why nowhere and what would help; writes nothing."""
    stub = session.stub(Stub)
    request = _request(session, options, deploy_pb2.PlanDistributedModelServiceRequest())
    if make_room is not None and documents is not None:
        raise click.UsageError("--documents is of a plan without --make-room")
    if priority is not None:
        request.priority = priority
    if make_room is not None:
        request.make_room = MAKE_ROOM[make_room]
        return _plan_room(session.stub(fleet_pb2_grpc.FleetServiceStub), output, request)
    if documents is not None:
        request.document_ranks[:] = _ranks(documents, len(request.model_services))
    answer = stub.PlanDistributedModelService(request)
    placement = answer.placement
    if output.kind == "name":
        for assignment in placement.assignments:
            print(assignment.host_name or assignment.host_uuid)
        return errors.OK
    if not output.for_people:
        print(output.text(placement if documents is None else answer))
        return errors.OK
    print(describe_placement(placement))
    for line in describe_choice(placement):
        print(line)
    for assignment in placement.assignments:
        takes = amounts_text(assignment.resources)
        where = f"{assignment.host_name or assignment.host_uuid}{cells_text(assignment.numa_cells)}"
        print(f"  {assignment.node_rank} {assignment.name} -> {where} ({takes})")
    for member in answer.documents:
        for name in sorted(member.documents):
            print(f"\n--- {member.node_rank} {member.name}: {name}\n{member.documents[name].rstrip()}")
    return errors.OK


def _plan_room(
    stub: fleet_pb2_grpc.FleetServiceStub, output: Output, request: deploy_pb2.PlanDistributedModelServiceRequest
) -> int:
    """Show the moves that make room, and the placement after them."""
    answer = stub.PlanRoom(fleet_pb2.PlanRoomRequest(group=request))
    if output.kind == "name":
        for one in answer.moves:
            print(one.move.instance_uuid)
        for victim in answer.evictions:
            print(victim.group_uuid)
        return errors.OK
    if not output.for_people:
        print(output.text(answer))
        return errors.OK
    if not answer.moves and not answer.evictions:
        print("it fits as it is; nobody has to move")
    else:
        doing = "ends" if answer.evictions else "moves"
        fewest = (
            "proven the least"
            if answer.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
            else (f"at least {size_text(answer.lower_bound_bytes)} whatever {doing}")
        )
        count, what = (len(answer.evictions), "group") if answer.evictions else (len(answer.moves), "member")
        who = f"{count} {what}s {doing[:-1]}" if count > 1 else f"1 {what} {doing}"
        also = sum(one.memory_size for one in answer.moves) if answer.evictions and answer.moves else 0
        then = f", and then {members_move(len(answer.moves))}, {size_text(also)}" if also else ""
        print(f"{who}, {size_text(answer.moved_bytes)} of memory ({fewest}){then}:")
    for victim in answer.evictions:
        print(f"  {describe_eviction(victim)}")
    for one in answer.moves:
        how = "as it runs" if one.move.live else "stopped and started again"
        print(
            f"  {one.instance_name} of {one.group_uuid}: {one.source_host_name} -> {one.target_host_name} "
            f"({size_text(one.memory_size)}, {how})"
        )
    print(describe_placement(answer.placement))
    for assignment in answer.placement.assignments:
        where = f"{assignment.host_name or assignment.host_uuid}{cells_text(assignment.numa_cells)}"
        print(f"  {assignment.node_rank} {assignment.name} -> {where}")
    return errors.OK


GROUP_KEYS = ("name", "status", "project", "host", "zone", "member", "reason")


@output_option
@filter_option(GROUP_KEYS)
@click.option("--name", default="", help="Only groups of exactly this name.")
@click.option("--status", "statuses", multiple=True, help="Only groups in this status (repeatable).")
@click.option("--project", type=names.PROJECT, default="", help="Only groups of this project.")
@click.option("--quiet", "-q", is_flag=True, help="The same as --output name.")
def list_groups(session: Session, output: Output, wanted: tuple[Term, ...], quiet: bool, **only: Any) -> int:
    """List groups, the oldest first."""
    shown = Output("name") if quiet else output
    zones = {}
    if asks(wanted, "zone"):
        zones = {zone.uuid: zone.name for zone in all_zones(session.stub(fleet_pb2_grpc.FleetServiceStub))}
    found = list(filtered(all_groups(session.stub(Stub), **only), wanted, lambda group: group_fields(group, zones)))
    shown.many(found, GROUP_COLUMNS, lambda group: group.uuid)
    if shown.for_people:
        running = sum(group.status == "Running" for group in found)
        print(f"\n{len(found)} group(s), {running} running")
    return errors.OK


def group_fields(group: group_pb2.InstanceGroup, zones: Mapping[str, str]) -> Fields:
    """What a filter looks into; zones' names by uuid."""
    members = group.instances
    return {
        "name": (group.name, group.uuid),
        "status": group.status,
        "project": group.project,
        "host": [member.host_name for member in members],
        "zone": [zones.get(member.zone_uuid, "") for member in members],
        "member": [member.name for member in members],
        "reason": group.reason,
    }


def all_groups(stub: Stub, **only: Any) -> Iterator[group_pb2.InstanceGroup]:
    """All groups that match, page by page."""
    return pages(
        lambda token: stub.ListInstanceGroups(
            deploy_pb2.ListInstanceGroupsRequest(page_size=_PAGE, page_token=token, **only)
        )
    )


def group_uuid(stub: Stub, wanted: str) -> str:
    """The uuid of the group that has this uuid or name. Raises NotThere."""
    if is_uuid(wanted):
        return wanted
    found: group_pb2.InstanceGroup = named(all_groups(stub, name=wanted), wanted, "group", "corral groups")
    return found.uuid


@output_option
@click.argument("group", type=names.GROUP)
@click.option("--timeline", is_flag=True, help="What happened to it, from the request on.")
def show_group(session: Session, output: Output, group: str, timeline: bool) -> int:
    """Show one group, by name or uuid, with its members and where they are."""
    stub = session.stub(Stub)
    uuid = group_uuid(stub, group)
    if timeline:
        return _timeline(stub, output, uuid)
    found = stub.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=uuid)).inventory
    if not output.for_people:
        output.data(found, found.uuid)
        return errors.OK
    event = group_pb2.InstanceGroupEvent(revision=found.revision, final=found, time=found.last_op_date)
    with choose_view(output) as view:
        view.show(event)
        if not sys.stdout.isatty():
            for member in found.instances:
                view.show(group_pb2.InstanceGroupEvent(time=member.last_op_date, instance=member))
    return errors.OK


def _timeline(stub: Stub, output: Output, uuid: str) -> int:
    """Every event of the group, a line each with the time since it was accepted."""
    view = choose_view(output, of_one=False)
    token = ""
    while True:
        request = deploy_pb2.ListInstanceGroupEventsRequest(uuid=uuid, page_size=_PAGE, page_token=token)
        answer = stub.ListInstanceGroupEvents(request)
        for event in answer.events:
            view.show(event)
        token = answer.next_page_token
        if not token:
            return errors.OK


@output_option
@click.argument("group", type=names.GROUP, required=False, default="")
@click.option("--from", "start", type=click.IntRange(min=0), default=0, metavar="REVISION", help="After this revision.")
@click.option("--until-settled", is_flag=True, help="End when GROUP runs, is stopped, has failed or is deleted.")
def watch(session: Session, output: Output, group: str, start: int, until_settled: bool) -> int:
    """Stream changes of all groups, or of one, until interrupted."""
    if until_settled and not group:
        raise click.UsageError("--until-settled needs a GROUP")
    stub = session.stub(Stub)
    uuid = group_uuid(stub, group) if group else ""
    request = deploy_pb2.WatchInstanceGroupsRequest(uuid=uuid, start_revision=start)
    revision, state = start, ""
    try:
        # A table shows one group; a watch tells of several.
        with choose_view(output, of_one=bool(uuid)) as view:
            for response in stub.WatchInstanceGroups(request):
                event = response.event
                revision = max(revision, event.revision)
                view.show(event)
                state = _status(event) or state
                if until_settled and state in SETTLED and event.WhichOneof("change") in ("final", "bookmark"):
                    return errors.OK if state != "Failed" else errors.FAILED
    except KeyboardInterrupt:
        errors.tell(f"left; go on with: corral watch {group}{' ' if group else ''}--from {revision}")
        raise Detached from None
    return errors.OK


SETTLED = ("Running", "Stopped", "Failed", "Deleted")


def _status(event: group_pb2.InstanceGroupEvent) -> str:
    """The group's status, where the event tells it."""
    change = event.WhichOneof("change")
    told: str = getattr(event, change).status if change in ("accepted", "group", "final") else ""
    return told


def _ranks(text: str, members: int) -> list[int]:
    if text == "all":
        return list(range(members))
    if not all(part.isdecimal() for part in text.split(",")):
        raise click.BadParameter(f"{text!r} is not RANK,RANK...", param_hint="--documents")
    return [int(part) for part in text.split(",")]


def _request(session: Session, told: dict[str, Any], into: Request) -> Request:
    of_a_member = flags.take(told)
    sources = [source for source in (told["file"], told["option_file"]) if source]
    if len(sources) > 1:
        raise BadRequestFile("name the request's file once")
    if sources and of_a_member:
        options = {one.name: one.opts[0] for one in click.get_current_context().command.params}
        named = ", ".join(options[key] for key in of_a_member)
        raise BadRequestFile(f"{named} stand for a request's file, and not beside one")
    if sources:
        read_request(sources[0], into)
        into.name = told["name"] or into.name
    else:
        flags.fill(session, of_a_member, told["name"], into)
    into.request_id = told["request_id"] or into.request_id
    policy.apply(told, into)
    return into

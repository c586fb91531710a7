"""Groups: deploy, plan, groups, group and watch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import click
from corral.v1 import deploy_pb2, deploy_pb2_grpc, fleet_pb2, fleet_pb2_grpc, group_pb2, placement_pb2

from service.cli import errors, policy
from service.cli.command import Output, Session, output_option, verb
from service.cli.explanation import amounts_text, size_text
from service.cli.follow_up import show
from service.cli.requests import BadRequestFile, Request, read_request
from service.cli.view import GROUP_COLUMNS, choose_view, describe_placement

Stub = deploy_pb2_grpc.DistributedModelServiceStub
_PAGE = 500


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    verb(corral, "deploy", example="corral deploy request.json")(deploy)
    verb(corral, "plan", example="corral plan request.json")(plan)
    for name in ("groups", "list"):
        verb(corral, name, example=f"corral {name} --status Running", hidden=name == "list")(list_groups)
    for name in ("group", "get"):
        verb(corral, name, example=f"corral {name} chat", hidden=name == "get")(show_group)
    verb(corral, "watch", example="corral watch chat")(watch)


def request_options(function: Any) -> Any:
    """What `deploy` and `plan` take of a request."""
    function = policy.options(function)
    for option in (
        click.option("--request-id", help="An id that makes a repeated call the same group."),
        click.option("--name", help="A name instead of the request's."),
        click.option("--file", "-f", "option_file", metavar="FILE", help="The same as FILE."),
        click.argument("file", required=False, metavar="[FILE]"),
    ):
        function = option(function)
    return output_option(function)


@request_options
def deploy(session: Session, output: Output, **options: Any) -> int:
    """Place and launch a group, and follow it until it runs. FILE is the request as JSON, - standard input."""
    stub = session.stub(Stub)
    request = _request(options, deploy_pb2.DeployDistributedModelServiceRequest())
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
    is_flag=True,
    help="Where it does not fit, tell which members of other groups would have to move; for administrators.",
)
def plan(session: Session, output: Output, documents: str | None, make_room: bool, **options: Any) -> int:
    """Tell where a group would be placed, or why nowhere and what would help; writes nothing."""
    stub = session.stub(Stub)
    request = _request(options, deploy_pb2.PlanDistributedModelServiceRequest())
    if make_room and documents is not None:
        raise click.UsageError("--documents is of a plan without --make-room")
    if make_room:
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
    for assignment in placement.assignments:
        takes = amounts_text(assignment.resources)
        print(f"  {assignment.node_rank} {assignment.name} -> {assignment.host_name or assignment.host_uuid} ({takes})")
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
        return errors.OK
    if not output.for_people:
        print(output.text(answer))
        return errors.OK
    if not answer.moves:
        print("it fits as it is; nobody has to move")
    else:
        fewest = (
            "proven the least"
            if answer.proof == placement_pb2.PLACEMENT_PROOF_OPTIMAL
            else (f"at least {size_text(answer.lower_bound_bytes)} whatever moves")
        )
        who = f"{len(answer.moves)} members move" if len(answer.moves) > 1 else "1 member moves"
        print(f"{who}, {size_text(answer.moved_bytes)} of memory ({fewest}):")
    for one in answer.moves:
        how = "as it runs" if one.move.live else "stopped and started again"
        print(
            f"  {one.instance_name} of {one.group_uuid}: {one.source_host_name} -> {one.target_host_name} "
            f"({size_text(one.memory_size)}, {how})"
        )
    print(describe_placement(answer.placement))
    for assignment in answer.placement.assignments:
        print(f"  {assignment.node_rank} {assignment.name} -> {assignment.host_name or assignment.host_uuid}")
    return errors.OK


@output_option
@click.option("--name", default="", help="Only groups of exactly this name.")
@click.option("--status", "statuses", multiple=True, help="Only groups in this status (repeatable).")
@click.option("--project", default="", help="Only groups of this project.")
@click.option("--quiet", "-q", is_flag=True, help="The same as --output name.")
def list_groups(session: Session, output: Output, quiet: bool, **only: Any) -> int:
    """List groups, the oldest first."""
    shown = Output("name") if quiet else output
    shown.many(all_groups(session.stub(Stub), **only), GROUP_COLUMNS, lambda group: group.uuid)
    return errors.OK


def all_groups(stub: Stub, **only: Any) -> Iterator[group_pb2.InstanceGroup]:
    """All groups that match, page by page."""
    token = ""
    while True:
        answer = stub.ListInstanceGroups(
            deploy_pb2.ListInstanceGroupsRequest(page_size=_PAGE, page_token=token, **only)
        )
        yield from answer.inventories
        token = answer.next_page_token
        if not token:
            return


def group_uuid(stub: Stub, wanted: str) -> str:
    """The uuid of the group that has this uuid or name. Raises NotThere."""
    if len(wanted) == 32 and set(wanted) <= set("0123456789abcdef"):
        return wanted
    found = [group.uuid for group in all_groups(stub, name=wanted)]
    if len(found) > 1:
        raise errors.NotThere(f"several groups are called {wanted!r}, name one by its uuid: {', '.join(found)}")
    if not found:
        raise errors.NotThere(f"there is no group {wanted!r}; `corral groups` lists them")
    return found[0]


@output_option
@click.argument("group")
def show_group(session: Session, output: Output, group: str) -> int:
    """Show one group, by name or uuid, with its members."""
    stub = session.stub(Stub)
    wanted = deploy_pb2.GetInstanceGroupRequest(uuid=group_uuid(stub, group))
    found = stub.GetInstanceGroup(wanted).inventory
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


@output_option
@click.argument("group", required=False, default="")
@click.option("--from", "start", type=click.IntRange(min=0), default=0, metavar="REVISION", help="After this revision.")
def watch(session: Session, output: Output, group: str, start: int) -> int:
    """Stream changes of all groups, or of one, until interrupted."""
    stub = session.stub(Stub)
    uuid = group_uuid(stub, group) if group else ""
    request = deploy_pb2.WatchInstanceGroupsRequest(uuid=uuid, start_revision=start)
    # A table shows one group; a watch tells of several.
    with choose_view(output, of_one=bool(uuid)) as view:
        for response in stub.WatchInstanceGroups(request):
            view.show(response.event)
    return errors.OK


def _ranks(text: str, members: int) -> list[int]:
    if text == "all":
        return list(range(members))
    if not all(part.isdecimal() for part in text.split(",")):
        raise click.BadParameter(f"{text!r} is not RANK,RANK...", param_hint="--documents")
    return [int(part) for part in text.split(",")]


def _request(options: dict[str, Any], into: Request) -> Request:
    source = options["file"] or options["option_file"]
    if not source:
        raise BadRequestFile("name the request's file; - is standard input")
    if options["file"] and options["option_file"]:
        raise BadRequestFile("name the request's file once")
    request = read_request(source, into)
    if options["name"]:
        request.name = options["name"]
    if options["request_id"]:
        request.request_id = options["request_id"]
    policy.apply(options, request)
    return request

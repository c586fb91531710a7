"""The `corral` command's arguments and sub-commands, over gRPC to a running service."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any
from uuid import uuid4

import grpc
from corral.v1 import (
    deploy_pb2,
    deploy_pb2_grpc,
    fleet_pb2_grpc,
    group_pb2,
    project_pb2_grpc,
    secret_pb2_grpc,
)

from service.cli import decisions, errors, hosts, policy, projects, secrets, server_part
from service.cli.channel import CannotConnect, FailoverStub, Servers
from service.cli.explanation import amounts_text
from service.cli.requests import BadRequestFile, Request, read_request
from service.cli.view import (
    JsonView,
    LineView,
    View,
    choose_view,
    describe_placement,
    group_table,
    json_line,
    plain_console,
)
from service.client.follow import EventMessage, follow

DEFAULT_SOCKET = "/run/corral/grpc.sock"
DEFAULT_SERVER = "127.0.0.1:50051"
_LOST = "connection lost; the operation goes on, taking up its events again"

Stub = deploy_pb2_grpc.DistributedModelServiceStub
FleetStub = fleet_pb2_grpc.FleetServiceStub
ProjectStub = project_pb2_grpc.ProjectServiceStub
SecretStub = secret_pb2_grpc.SecretServiceStub


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; answers its exit code (see `errors.EXIT_CODE_HELP`)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["recover"]:
        return server_part.recover(given[1:])
    options = build_parser().parse_args(given)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a name shows the rest of the line
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        token = os.environ.get("CORRAL_TOKEN", "")
        addresses = [a for text in options.server or [_from_environment()] for a in text.split(",") if a]
        with Servers(addresses, certificate_authority=options.ca, token=token) as servers:
            code: int = options.run(options, servers.stub(options.stub))
            return code
    except grpc.RpcError as error:
        _tell(*errors.describe(error))
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            _tell(f"  is a service running at {' or '.join(addresses)}? see --server")
        return errors.exit_code(error)
    except hosts.UnknownHost as problem:
        return hosts.tell(problem)
    except secrets.NoSuchSecret as problem:
        return secrets.tell(problem)
    except (BadRequestFile, CannotConnect) as problem:
        _tell(str(problem))
        return errors.USAGE
    except KeyboardInterrupt:
        return errors.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left: what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.OK
    finally:
        signal.signal(signal.SIGTERM, previous)


def build_parser() -> argparse.ArgumentParser:
    """All sub-commands and options; each sub-command's function stands in `run`."""
    parser = argparse.ArgumentParser(
        prog="corral", description="Deploy and look after groups of machines.", epilog=errors.EXIT_CODE_HELP
    )
    parser.add_argument(
        "--server",
        action="append",
        metavar="ADDRESS",
        help="host:port or unix:/path of the service; several of one service's replicas by commas, or by repeating it: "
        "where one is lost the next goes on (default: $CORRAL_SERVER, else "
        f"unix:{DEFAULT_SOCKET} where there is one, else {DEFAULT_SERVER})",
    )
    parser.add_argument(
        "--ca",
        default=os.environ.get("CORRAL_CA", ""),
        metavar="FILE",
        help="use TLS and trust this PEM file (default: $CORRAL_CA). A bearer token is taken from $CORRAL_TOKEN",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace, Any], int], text: str, stub: Callable[[Any], Any] = Stub
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, epilog=errors.EXIT_CODE_HELP)
        command.set_defaults(run=run, stub=stub)
        command.add_argument("--json", action="store_true", help="print JSON instead of text")
        return command

    _add_groups(add)
    _add_fleet(add)
    commands.add_parser("recover", add_help=False, help=server_part.RECOVER_HELP)
    return parser


def _add_groups(add: Callable[..., argparse.ArgumentParser]) -> None:
    """What anybody who may deploy uses."""
    for name, run, text in (
        ("deploy", deploy, "place and launch a group, and follow it until it runs"),
        ("plan", plan, "tell where a group would be placed; writes nothing"),
    ):
        command = add(name, run, text)
        command.add_argument("-f", "--file", required=True, metavar="REQUEST.json", help="the request; - for stdin")
        command.add_argument("--name", help="a name instead of the request's")
        command.add_argument("--request-id", help="an id that makes a repeated call the same group")
        if name == "plan":
            command.add_argument(
                "--documents",
                type=int,
                nargs="*",
                metavar="RANK",
                help="show what members of these ranks would be told: commands, ports, peers (default: all ranks)",
            )
        policy.add_options(command)
    get = add("get", get_group, "show one group")
    get.add_argument("uuid")
    listing = add("list", list_groups, "list groups, the oldest first")
    listing.add_argument("--name", default="", help="only groups of exactly this name")
    listing.add_argument("--status", action="append", default=[], help="only groups in this status (repeatable)")
    listing.add_argument("--project", default="", help="only groups of this project")
    listing.add_argument("--quiet", "-q", action="store_true", help="print uuids only")
    watch = add("watch", watch_groups, "stream changes of all groups or of one")
    watch.add_argument("uuid", nargs="?", default="")
    watch.add_argument("--from", dest="start", type=int, default=0, metavar="REVISION", help="after this revision")
    scale = add("scale", scale_group, "change how many members of a role a group has, and follow it")
    scale.add_argument("uuid")
    scale.add_argument(
        "--role", action="append", required=True, type=_role_count, metavar="ROLE=COUNT", help="(repeatable)"
    )
    scale.add_argument("--request-id", default="", help="an id that makes a repeated call the same change")
    delete = add("delete", delete_groups, "remove groups: machines destroyed, capacity given back")
    delete.add_argument("uuid", nargs="+")


def _add_fleet(add: Callable[..., argparse.ArgumentParser]) -> None:
    """What operators and administrators use."""
    fleet = add("hosts", hosts.list_hosts, "list hosts, claim those that are left alone, see the quarantine", FleetStub)
    hosts.add_parsers(fleet)
    used = add("usage", projects.show_usage, "what a project uses of its quota; for administrators all", ProjectStub)
    projects.add_usage_options(used)
    audit = add("audit", projects.list_audit, "who changed what, the newest first; for operators", ProjectStub)
    projects.add_audit_options(audit)
    secrets.add_parsers(add("secret", secrets.list_secrets, "keep, list and forget secrets", SecretStub))
    decided = add("decisions", decisions.list_decisions, "list what was planned lately; for administrators", FleetStub)
    decided.add_argument("--group", default="", metavar="UUID", help="only decisions about this group")
    dump = add("dump", decisions.dump, "write what a decision was made from, to be replayed offline", FleetStub)
    dump.add_argument("uuid", help="of the decision, or with --group of the group: then its last decision")
    dump.add_argument("--group", action="store_true", help="UUID is a group's")
    dump.add_argument("-o", "--output", default="-", metavar="DUMP.json", help="the file (default: to stdout)")


def _from_environment() -> str:
    """What the environment says, else this machine's service, by its unix socket where it has one."""
    if told := os.environ.get("CORRAL_SERVER", ""):
        return told
    return f"unix:{DEFAULT_SOCKET}" if os.path.exists(DEFAULT_SOCKET) else DEFAULT_SERVER


def deploy(options: argparse.Namespace, stub: Stub) -> int:
    """Deploy and follow; the group's end state decides the exit code."""
    request = _request(options, deploy_pb2.DeployDistributedModelServiceRequest())
    # With an id the call can be made again, at another server too, and nothing is done twice.
    request.request_id = request.request_id or uuid4().hex
    final = group_pb2.InstanceGroup()
    try:
        with choose_view(options.json) as view:
            final = _show(stub, lambda: stub.DeployDistributedModelService(request), view)
    except KeyboardInterrupt:
        _tell("left the stream; the deploy goes on. `corral list`, `corral watch UUID`, `corral delete UUID`")
        return errors.INTERRUPTED
    return errors.OK if final.status == "Running" or request.validate_only else errors.FAILED


def plan(options: argparse.Namespace, stub: Stub) -> int:
    """Show where each member would go, and what it would be told."""
    request = _request(options, deploy_pb2.PlanDistributedModelServiceRequest())
    if options.documents is not None:
        request.document_ranks[:] = options.documents or range(len(request.model_services))
    answer = stub.PlanDistributedModelService(request)
    placement = answer.placement
    if options.json:
        print(json_line(placement if options.documents is None else answer))
        return errors.OK
    print(describe_placement(placement))
    for assignment in placement.assignments:
        takes = amounts_text(assignment.resources)
        print(f"  {assignment.node_rank} {assignment.name} -> {assignment.host_name or assignment.host_uuid} ({takes})")
    for member in answer.documents:
        for name in sorted(member.documents):
            print(f"\n--- {member.node_rank} {member.name}: {name}\n{member.documents[name].rstrip()}")
    return errors.OK


def get_group(options: argparse.Namespace, stub: Stub) -> int:
    """Show one group with its members."""
    group = stub.GetInstanceGroup(deploy_pb2.GetInstanceGroupRequest(uuid=options.uuid)).inventory
    if options.json:
        print(json_line(group))
        return errors.OK
    event = group_pb2.InstanceGroupEvent(revision=group.revision, final=group, time=group.last_op_date)
    with choose_view(False) as view:
        view.show(event)
        if not sys.stdout.isatty():
            for member in group.instances:
                view.show(group_pb2.InstanceGroupEvent(time=member.last_op_date, instance=member))
    return errors.OK


def list_groups(options: argparse.Namespace, stub: Stub) -> int:
    """All groups that match, page by page."""
    groups: list[group_pb2.InstanceGroup] = []
    token = ""
    while True:
        answer = stub.ListInstanceGroups(
            deploy_pb2.ListInstanceGroupsRequest(
                page_size=500,
                page_token=token,
                name=options.name,
                statuses=options.status,
                project=options.project,
            )
        )
        groups.extend(answer.inventories)
        token = answer.next_page_token
        if not token:
            break
    if options.json or options.quiet:
        for group in groups:
            print(json_line(group) if options.json else group.uuid)
    else:
        console = plain_console(sys.stdout)
        if not console.is_terminal:
            # The output is not a screen: rows must not be cut at a screen's width.
            console.width = 400
        console.print(group_table(groups))
    return errors.OK


def scale_group(options: argparse.Namespace, stub: Stub) -> int:
    """Scale by role and follow; the group's end state decides the exit code."""
    request = deploy_pb2.ScaleInstanceGroupRequest(
        uuid=options.uuid, role_counts=dict(options.role), request_id=options.request_id or uuid4().hex
    )
    with choose_view(options.json) as view:
        final = _show(stub, lambda: stub.ScaleInstanceGroup(request), view)
    return errors.OK if final.status == "Running" else errors.FAILED


def _role_count(text: str) -> tuple[str, int]:
    role, equals, count = text.partition("=")
    if not (role and equals and count.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not ROLE=COUNT")
    return role, int(count)


def watch_groups(options: argparse.Namespace, stub: Stub) -> int:
    """Stream changes until interrupted or the stream ends."""
    request = deploy_pb2.WatchInstanceGroupsRequest(uuid=options.uuid, start_revision=options.start)
    # A table shows one group; a watch tells of several.
    view_of_all = JsonView(sys.stdout) if options.json else LineView(sys.stdout)
    with choose_view(options.json) if options.uuid else view_of_all as view:
        for response in stub.WatchInstanceGroups(request):
            view.show(response.event)
    return errors.OK


def delete_groups(options: argparse.Namespace, stub: Stub) -> int:
    """Delete one group after the other; goes on after a failure and answers the first one's exit code."""
    code = errors.OK
    for uuid in options.uuid:
        try:
            with choose_view(options.json) as view:
                request = deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid, request_id=uuid4().hex)
                final = _show(stub, lambda wanted=request: stub.DeleteInstanceGroup(wanted), view)  # type: ignore[misc]
            code = code or (errors.OK if final.status == "Deleted" else errors.FAILED)
        except grpc.RpcError as error:
            _tell(f"{uuid}:", *errors.describe(error))
            code = code or errors.exit_code(error)
    return code


def _show(stub: Stub, begin: Callable[[], Iterable[EventMessage]], view: View) -> group_pb2.InstanceGroup:
    """Show every event and answer the final inventory. Raises RpcError."""
    final, group, revision = group_pb2.InstanceGroup(), "", 0
    try:
        for event in follow(stub, begin, repeatable=isinstance(stub, FailoverStub), on_lost=lambda: _tell(_LOST)):
            group, revision = event.group_uuid or group, max(revision, event.revision)
            if event.WhichOneof("change") != "bookmark":
                view.show(event)
            if event.WhichOneof("change") == "final":
                final = event.final
    except grpc.RpcError as error:
        if group and error.code() is grpc.StatusCode.UNAVAILABLE:
            _tell(f"the operation on {group} goes on; see the rest with: corral watch {group} --from {revision}")
        raise
    return final


def _request(options: argparse.Namespace, into: Request) -> Request:
    request = read_request(options.file, into)
    if options.name:
        request.name = options.name
    if options.request_id:
        request.request_id = options.request_id
    policy.apply(options, request)
    return request


def _tell(*lines: str) -> None:
    print("\n".join(lines), file=sys.stderr, flush=True)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt

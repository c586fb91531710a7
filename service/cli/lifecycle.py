"""What is done to a group that is there: scale, start, stop, restart, delete. `updates` has the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import click
import grpc
from corral.v1 import deploy_pb2, group_pb2

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb
from service.cli.follow_up import show
from service.cli.groups import MAKE_ROOM, Stub, group_uuid, make_room_option
from service.cli.requests import read_nodes
from service.cli.values import Read, count
from service.cli.view import choose_view


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    verb(corral, "scale", example="corral scale chat --role worker=3")(scale)
    verb(corral, "stop", example="corral stop chat")(stop)
    verb(corral, "start", example="corral start chat")(start)
    verb(corral, "restart", example="corral restart chat")(restart)
    verb(corral, "delete", example="corral delete chat")(delete)


@output_option
@click.argument("group", type=names.GROUP)
@click.option(
    "--role", "roles", multiple=True, type=Read("role=count", count), metavar="ROLE=COUNT", help="(repeatable)"
)
@click.option(
    "--update",
    "update_file",
    metavar="FILE",
    help="Replace all members of a role by members like this: a node as JSON, or a list of nodes; - standard input.",
)
@make_room_option
@click.option("--request-id", help="An id that makes a repeated call the same change.")
def scale(
    session: Session,
    output: Output,
    group: str,
    roles: tuple[tuple[str, int], ...],
    update_file: str | None,
    make_room: str | None,
    request_id: str | None,
) -> int:
    """Change how many members of a role a group has, or what they are, and follow it."""
    if bool(roles) == bool(update_file):
        raise click.UsageError("say either --role or --update")
    updates = read_nodes(update_file) if update_file else []
    stub = session.stub(Stub)
    request = deploy_pb2.ScaleInstanceGroupRequest(
        uuid=group_uuid(stub, group),
        role_counts=dict(roles),
        role_updates=updates,
        request_id=request_id or uuid4().hex,
        make_room=MAKE_ROOM[make_room] if make_room is not None else group_pb2.MAKE_ROOM_UNSPECIFIED,
    )
    final = show(stub, lambda: stub.ScaleInstanceGroup(request), choose_view(output))
    return errors.OK if final.status == "Running" else errors.FAILED


def _follows(method: str, kind: Callable[..., Any], end: str, text: str) -> Any:
    """A sub-command that calls a method which streams to the group's new state."""

    @output_option
    @click.argument("group", type=names.GROUP)
    @click.option("--request-id", help="An id that makes a repeated call the same change.")
    def run(session: Session, output: Output, group: str, request_id: str | None) -> int:
        stub = session.stub(Stub)
        request = kind(uuid=group_uuid(stub, group), request_id=request_id or uuid4().hex)
        final = show(stub, lambda: getattr(stub, method)(request), choose_view(output))
        return errors.OK if final.status == end else errors.FAILED

    run.__doc__ = text
    return run


start = _follows(
    "StartInstanceGroup", deploy_pb2.StartInstanceGroupRequest, "Running", "Start a stopped group, and follow it."
)
stop = _follows(
    "StopInstanceGroup",
    deploy_pb2.StopInstanceGroupRequest,
    "Stopped",
    "Stop a group; its disks and its capacity are kept.",
)
restart = _follows(
    "RestartInstanceGroup",
    deploy_pb2.RestartInstanceGroupRequest,
    "Running",
    "Start all members of a group again, and follow it.",
)


@output_option
@click.argument("groups", type=names.GROUP, nargs=-1, required=True, metavar="GROUP...")
def delete(session: Session, output: Output, groups: tuple[str, ...]) -> int:
    """Remove groups: machines are destroyed and capacity is given back. Goes on after a failure."""
    stub = session.stub(Stub)
    code = errors.OK
    for group in groups:
        try:
            uuid = group_uuid(stub, group)
            request = deploy_pb2.DeleteInstanceGroupRequest(uuid=uuid, request_id=uuid4().hex)
            final = show(stub, lambda wanted=request: stub.DeleteInstanceGroup(wanted), choose_view(output))  # type: ignore[misc]
            code = code or (errors.OK if final.status == "Deleted" else errors.FAILED)
        except errors.NotThere as problem:
            errors.tell(str(problem))
            code = code or errors.NOT_FOUND
        except grpc.RpcError as error:
            errors.tell(f"{group}:", *errors.describe(error))
            code = code or errors.exit_code(error)
    return code

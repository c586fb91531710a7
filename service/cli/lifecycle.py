"""What is done to a group that is there: scale and delete."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import click
import grpc
from corral.v1 import deploy_pb2

from service.cli import errors
from service.cli.command import Output, Session, output_option, verb
from service.cli.follow_up import show
from service.cli.groups import Stub, group_uuid
from service.cli.requests import read_nodes
from service.cli.view import choose_view


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    verb(corral, "scale", example="corral scale chat --role worker=3")(scale)
    verb(corral, "delete", example="corral delete chat")(delete)


class _RoleCount(click.ParamType[tuple[str, int]]):
    name = "role=count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        role, equals, count = value.partition("=")
        if not (role and equals and count.isdecimal()):
            self.fail(f"{value!r} is not ROLE=COUNT", param, ctx)
        return role, int(count)


@output_option
@click.argument("group")
@click.option("--role", "roles", multiple=True, type=_RoleCount(), metavar="ROLE=COUNT", help="(repeatable)")
@click.option(
    "--update",
    "update_file",
    metavar="FILE",
    help="Replace all members of a role by members like this: a node as JSON, or a list of nodes; - standard input.",
)
@click.option("--request-id", help="An id that makes a repeated call the same change.")
def scale(
    session: Session,
    output: Output,
    group: str,
    roles: tuple[tuple[str, int], ...],
    update_file: str | None,
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
    )
    final = show(stub, lambda: stub.ScaleInstanceGroup(request), choose_view(output))
    return errors.OK if final.status == "Running" else errors.FAILED


@output_option
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
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

"""`corral decisions` and `corral dump`: what the planner decided lately, and all that one decision was made from."""

from __future__ import annotations

import sys

import click
from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb
from service.cli.groups import Stub as GroupStub
from service.cli.groups import group_uuid
from service.cli.output import Columns
from service.cli.view import moment_text

Stub = fleet_pb2_grpc.FleetServiceStub


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    verb(corral, "decisions", example="corral decisions")(list_decisions)
    verb(corral, "dump", example="corral dump --group chat --output dump.json")(dump)


def _proof(one: fleet_pb2.Decision) -> str:
    return f"{one.proof}, {one.stage}{', stopped by its time' if one.stopped else ''}"


_COLUMNS: Columns = (
    ("uuid", lambda one: one.uuid),
    ("made", lambda one: moment_text(one.create_date)),
    ("group", lambda one: one.group_uuid or "-"),
    ("kind", lambda one: one.kind),
    ("status", lambda one: f"{one.moves} moves" if one.moves else one.status),
    ("nodes", lambda one: str(one.nodes)),
    ("hosts", lambda one: str(one.hosts)),
    ("took", lambda one: f"{one.duration_ms:.1f} ms"),
    ("proof", _proof),
)


@output_option
@click.option(
    "--group", type=names.GROUP, default="", metavar="GROUP", help="Only decisions about this group, by name or uuid."
)
def list_decisions(session: Session, output: Output, group: str) -> int:
    """List what was planned lately, the newest first; for administrators."""
    wanted = group_uuid(session.stub(GroupStub), group) if group else ""
    found = session.stub(Stub).ListDecisions(fleet_pb2.ListDecisionsRequest(group_uuid=wanted)).inventories
    output.many(found, _COLUMNS, lambda one: one.uuid)
    return errors.OK


@click.argument("uuid")
@click.option("--group", is_flag=True, help="UUID is a group's uuid or name: its last decision.")
@click.option("--output", "-o", "target", default="-", metavar="FILE", help="Write to this file, not standard output.")
def dump(session: Session, uuid: str, group: bool, target: str) -> int:
    """Write what the decision UUID was made from, to be replayed by `python -m placement replay`."""
    stub = session.stub(Stub)
    if group:
        wanted = group_uuid(session.stub(GroupStub), uuid)
        found = stub.ListDecisions(fleet_pb2.ListDecisionsRequest(group_uuid=wanted)).inventories
        if not found:
            raise errors.NotThere(f"no decision about the group {uuid} is kept")
        uuid = found[0].uuid
    text = "".join(part.text for part in stub.DumpDecision(fleet_pb2.DumpDecisionRequest(uuid=uuid)))
    if target == "-":
        sys.stdout.write(text)
        return errors.OK
    try:
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as problem:
        errors.tell(f"cannot write {target}: {problem.strerror}")
        return errors.USAGE
    return errors.OK

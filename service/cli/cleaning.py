"""`corral host clean`: a machine of bare metal is cleaned between two projects, or by an order."""

from __future__ import annotations

from collections.abc import Mapping

import click
from corral.v1 import fleet_pb2

from service.cli import errors, names
from service.cli.command import Output, Session, output_option
from service.cli.hosts import Stub, find_host


def cleaning_lines(host: fleet_pb2.Host) -> Mapping[str, str]:
    """What a machine's cleaning is, by title; nothing for hypervisors."""
    if not host.HasField("cleaning"):
        return {}
    known = host.cleaning
    lines = {"cleaned between projects": known.mode}
    if known.served_project:
        lines["last project"] = known.served_project
    if known.state:
        lines["closed"] = f"{known.state}: {known.reason}"
    return lines


@output_option
@click.argument("host", type=names.HOST)
@click.option("--dry-run", "validate_only", is_flag=True, help="Only check it; nothing is changed.")
def clean(session: Session, output: Output, host: str, validate_only: bool) -> int:
    """Have a machine of bare metal cleaned that nobody has, as its option `clean` says: it is closed meanwhile.

    Also once more, where a cleaning failed. See how far it is with: corral host show HOST
    """
    stub = session.stub(Stub)
    found = find_host(stub, host)
    made = stub.CleanHost(fleet_pb2.CleanHostRequest(uuid=found.uuid, validate_only=validate_only)).inventory
    output.one(made, made.name, f"{made.name} {'may be' if validate_only else 'is'} cleaned ({made.cleaning.mode})")
    return errors.OK

"""`corral hosts watch`: changes of the fleet as they happen."""

from __future__ import annotations

import click
from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.cli import errors, names
from service.cli.command import Output, Session, output_option
from service.cli.follow_up import Detached
from service.cli.places import find_zone
from service.cli.view import because, moment_text


@output_option
@click.option("--zone", type=names.ZONE, default="", help="Only this zone, by name or uuid.")
@click.option("--from", "start", type=click.IntRange(min=0), default=0, metavar="REVISION", help="After this revision.")
@click.option("--until-current", is_flag=True, help="End when everything that is so now has been told.")
def watch_hosts(session: Session, output: Output, zone: str, start: int, until_current: bool) -> int:
    """Stream changes of hosts and zones, until interrupted: first everything as it is now, then what changes."""
    stub = session.stub(fleet_pb2_grpc.FleetServiceStub)
    request = fleet_pb2.WatchFleetRequest(start_revision=start)
    if zone:
        request.zone_uuid = find_zone(stub, zone).uuid
    revision = start
    try:
        for event in stub.WatchFleet(request):
            revision = max(revision, event.revision)
            change = event.WhichOneof("change")
            if change != "bookmark":
                output.one(event, _name(event), _line(event))
            elif until_current and (event.bookmark.initial_state_complete or start):
                return errors.OK
    except KeyboardInterrupt:
        errors.tell(f"left; go on with: corral hosts watch --from {revision}")
        raise Detached from None
    return errors.OK


def _name(event: fleet_pb2.WatchFleetResponse) -> str:
    change = str(event.WhichOneof("change"))
    told = getattr(event, change)
    return told if isinstance(told, str) else str(told.name)


def _line(event: fleet_pb2.WatchFleetResponse) -> str:
    at = f"{moment_text(event.time)}  " if event.HasField("time") else ""
    match event.WhichOneof("change"):
        case "host":
            host = event.host
            why = because(host)
            return f"{at}host {host.name}: {host.status}, {host.state}{f': {why}' if why else ''}"
        case "zone":
            return f"{at}zone {event.zone.name}"
        case "removed_host_uuid":
            return f"{at}host {event.removed_host_uuid} is removed"
        case _:
            return f"{at}zone {event.removed_zone_uuid} is removed"

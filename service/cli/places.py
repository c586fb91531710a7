"""`corral zones`, and which zone or cluster a name means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import click
from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb, verb_group
from service.cli.listing import named, pages
from service.cli.output import Columns

Stub = fleet_pb2_grpc.FleetServiceStub
_PAGE = 500
_DRY_RUN = click.option("--dry-run", "validate_only", is_flag=True, help="Only check it; nothing is changed.")


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    zones = verb_group(corral, "zones", example="corral zones")(list_zones)
    verb(zones, "add", example="corral zones add zone-2 --description 'the second room'")(add_zone)
    verb(zones, "remove", example="corral zones remove zone-2")(remove_zone)


def all_zones(stub: Stub) -> Iterator[fleet_pb2.Zone]:
    """All zones, by name."""
    return pages(lambda token: stub.ListZones(fleet_pb2.ListZonesRequest(page_size=_PAGE, page_token=token)))


def all_clusters(stub: Stub) -> Iterator[fleet_pb2.Cluster]:
    """All clusters, by name."""
    return pages(lambda token: stub.ListClusters(fleet_pb2.ListClustersRequest(page_size=_PAGE, page_token=token)))


def find_zone(stub: Stub, wanted: str) -> fleet_pb2.Zone:
    """The zone of this uuid or name. Raises NotThere."""
    found: fleet_pb2.Zone = named(all_zones(stub), wanted, "zone", "corral zones")
    return found


def find_cluster(stub: Stub, wanted: str) -> fleet_pb2.Cluster:
    """The cluster of this uuid or name. Raises NotThere."""
    found: fleet_pb2.Cluster = named(all_clusters(stub), wanted, "cluster", "corral clusters")
    return found


def _network(zone: fleet_pb2.Zone) -> str:
    parts = (zone.network.kind, zone.network.source, zone.network.subnet)
    return " ".join(part for part in parts if part) or "-"


_ZONE_COLUMNS: Columns = (
    ("uuid", lambda zone: zone.uuid),
    ("name", lambda zone: zone.name),
    ("hosts", lambda zone: str(zone.host_count)),
    ("network", _network),
    ("description", lambda zone: zone.description),
)


@output_option
def list_zones(session: Session, output: Output) -> int:
    """List zones; with a sub-command add and remove them."""
    output.many(all_zones(session.stub(Stub)), _ZONE_COLUMNS, lambda zone: zone.name)
    return errors.OK


@output_option
@click.argument("name")
@click.option("--description", default="")
@click.option("--network", "kind", type=click.Choice(["bridge", "network", "user", "none"]), default="none")
@click.option("--source", default="", help="The bridge or libvirt network that machines are attached to.")
@click.option("--subnet", default="", metavar="CIDR", help="Of the addresses that members get, as 10.0.0.0/24.")
@click.option("--gateway", default="", metavar="ADDRESS")
@click.option("--pool", default="", metavar="FIRST-LAST", help="Which of the subnet's addresses are given out.")
@_DRY_RUN
def add_zone(session: Session, output: Output, name: str, description: str, validate_only: bool, **network: Any) -> int:
    """Make a zone."""
    request = fleet_pb2.CreateZoneRequest(
        name=name, description=description, validate_only=validate_only, request_id=uuid4().hex
    )
    if any(value for key, value in network.items() if key != "kind") or network["kind"] != "none":
        request.network.CopyFrom(fleet_pb2.ZoneNetwork(**network))
    made = session.stub(Stub).CreateZone(request).inventory
    output.one(made, made.name, f"{made.name} is {'fit to be made' if validate_only else 'made'}: {made.uuid}")
    return errors.OK


@output_option
@click.argument("zone", type=names.ZONE)
@_DRY_RUN
def remove_zone(session: Session, output: Output, zone: str, validate_only: bool) -> int:
    """Remove a zone without hosts."""
    stub = session.stub(Stub)
    found = find_zone(stub, zone)
    stub.DeleteZone(fleet_pb2.DeleteZoneRequest(uuid=found.uuid, validate_only=validate_only))
    output.one(found, found.name, f"{found.name} {'may be' if validate_only else 'is'} removed")
    return errors.OK

"""`corral zones`, and which zone or cluster a name means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import click
from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.cli import errors, names
from service.cli.command import Output, Session, output_option, verb, verb_group
from service.cli.explanation import size_text
from service.cli.listing import named, pages
from service.cli.output import Columns
from service.cli.values import SIZE

Stub = fleet_pb2_grpc.FleetServiceStub
_PAGE = 500
_STRANGERS = 10
_POOL = click.option(
    "--pool",
    multiple=True,
    metavar="FIRST-LAST",
    help="Which of the subnet's addresses are given out; as often as wanted.",
)
_ISOLATION = click.option(
    "--isolation", type=click.Choice(["auto", "off"]), default=None, help="Whether groups are kept to themselves."
)
_REACHABLE = click.option(
    "--reachable", multiple=True, metavar="CIDR", help="What all members may reach beside their group and the gateway."
)
_BUDGET = click.option(
    "--image-budget",
    type=SIZE,
    default=None,
    help="How much copies of images may take on each of its hosts, as 200GiB; 0: any.  [default: the service's]",
)
_SEED_URL = click.option(
    "--seed-url",
    default=None,
    metavar="URL",
    help="Where BMCs of bare metal find this service's listener for machines; '' for nowhere.",
)
_REPORT_URL = click.option(
    "--report-url", default=None, metavar="URL", help="Where the machines themselves do.  [default: as BMCs]"
)
_DRY_RUN = click.option("--dry-run", "validate_only", is_flag=True, help="Only check it; nothing is changed.")


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    zones = verb_group(corral, "zones", example="corral zones")(list_zones)
    verb(zones, "add", example="corral zones add zone-2 --description 'the second room'")(add_zone)
    verb(zones, "set", example="corral zones set zone-2 --description 'the second room, upstairs'")(set_zone)
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


def _free(zone: fleet_pb2.Zone) -> str:
    """`free/size` of each pool, and how many somebody else has."""
    strangers = sum(pool.foreign for pool in zone.pools)
    told = [f"{pool.free}/{pool.size}" for pool in zone.pools]
    return ", ".join(told + ([f"{strangers} of strangers"] if strangers else [])) or "-"


def _isolation(zone: fleet_pb2.Zone) -> str:
    return zone.network.isolation if zone.pools else "-"


def _image_budget(zone: fleet_pb2.Zone) -> str:
    if not zone.HasField("image_copies_budget"):
        return "-"
    return size_text(zone.image_copies_budget) if zone.image_copies_budget else "any"


_ZONE_COLUMNS: Columns = (
    ("uuid", lambda zone: zone.uuid),
    ("name", lambda zone: zone.name),
    ("hosts", lambda zone: str(zone.host_count)),
    ("network", _network),
    ("addresses free", _free),
    ("isolation", _isolation),
    ("image budget", _image_budget),
    ("description", lambda zone: zone.description),
)


@output_option
def list_zones(session: Session, output: Output) -> int:
    """List zones; with a sub-command add, change and remove them."""
    found = list(all_zones(session.stub(Stub)))
    output.many(found, _ZONE_COLUMNS, lambda zone: zone.name)
    for zone in found if output.for_people else ():
        if zone.seed_url:
            reports = zone.report_url or zone.seed_url
            print(f"{zone.name}: BMCs find this service at {zone.seed_url}, their machines at {reports}")
        for one in zone.foreign_addresses[:_STRANGERS]:
            print(f"{zone.name}: {one.address} is a stranger's ({one.how}, {one.hardware_address or 'unknown'})")
        if (more := len(zone.foreign_addresses) - _STRANGERS) > 0:
            print(f"{zone.name}: and {more} more; `-o json` has all of them")
    return errors.OK


@output_option
@click.argument("name")
@click.option("--description", default="")
@click.option("--network", "kind", type=click.Choice(["bridge", "network", "user", "none"]), default="none")
@click.option("--source", default="", help="The bridge or libvirt network that machines are attached to.")
@click.option("--subnet", default="", metavar="CIDR", help="Of the addresses that members get, as 10.0.0.0/24.")
@click.option("--gateway", default="", metavar="ADDRESS")
@_POOL
@_ISOLATION
@_REACHABLE
@_BUDGET
@_SEED_URL
@_REPORT_URL
@_DRY_RUN
def add_zone(
    session: Session,
    output: Output,
    name: str,
    description: str,
    image_budget: int | None,
    seed_url: str | None,
    report_url: str | None,
    validate_only: bool,
    **network: Any,
) -> int:
    """Make a zone."""
    network["pools"], network["isolation"] = network.pop("pool"), network["isolation"] or ""
    request = fleet_pb2.CreateZoneRequest(
        name=name,
        description=description,
        image_copies_budget=image_budget,
        seed_url=seed_url or "",
        report_url=report_url or "",
        validate_only=validate_only,
        request_id=uuid4().hex,
    )
    if any(value for key, value in network.items() if key != "kind") or network["kind"] != "none":
        request.network.CopyFrom(fleet_pb2.ZoneNetwork(**network))
    made = session.stub(Stub).CreateZone(request).inventory
    output.one(made, made.name, f"{made.name} is {'fit to be made' if validate_only else 'made'}: {made.uuid}")
    return errors.OK


@output_option
@click.argument("zone", type=names.ZONE)
@click.option("--description", default=None)
@_POOL
@_ISOLATION
@_REACHABLE
@click.option("--unreachable", is_flag=True, help="Nothing is to be reached beside groups and gateway.")
@_BUDGET
@click.option("--no-image-budget", is_flag=True, help="The service's budget of copies of images holds.")
@_SEED_URL
@_REPORT_URL
@_DRY_RUN
def set_zone(
    session: Session,
    output: Output,
    zone: str,
    description: str | None,
    pool: tuple[str, ...],
    isolation: str | None,
    reachable: tuple[str, ...],
    unreachable: bool,
    image_budget: int | None,
    no_image_budget: bool,
    seed_url: str | None,
    report_url: str | None,
    validate_only: bool,
) -> int:
    """Change a zone's addresses, whom its groups may talk with, what copies of images may take, and where bare metal
    finds this service. What is not named stays as it is."""
    stub = session.stub(Stub)
    request = fleet_pb2.UpdateZoneRequest(
        uuid=find_zone(stub, zone).uuid,
        description=description or "",
        pools=pool,
        isolation=isolation or "",
        reachable=() if unreachable else reachable,
        image_copies_budget=None if no_image_budget else image_budget,
        seed_url=seed_url or "",
        report_url=report_url or "",
        validate_only=validate_only,
    )
    wanted = {
        "description": description is not None,
        "pools": bool(pool),
        "isolation": bool(isolation),
        "reachable": bool(reachable) or unreachable,
        "image_copies_budget": image_budget is not None or no_image_budget,
        "seed_url": seed_url is not None,
        "report_url": report_url is not None,
    }
    request.update_mask.paths.extend(name for name, is_so in wanted.items() if is_so)
    made = stub.UpdateZone(request).inventory
    output.one(
        made, made.name, f"{made.name} {'may be' if validate_only else 'is'} changed: {_free(made)} addresses free"
    )
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

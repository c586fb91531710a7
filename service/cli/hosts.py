"""`corral hosts`: lists and claims hosts, and lists, removes and adopts what is in quarantine on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import click
from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.cli import errors, names
from service.cli.bars import cells, devices, short_bar, totals_lines
from service.cli.command import Output, Session, output_option, verb, verb_group
from service.cli.devices import list_devices
from service.cli.explanation import size_text
from service.cli.filter import Fields, Term, asks, filter_option, filtered
from service.cli.fleet_watch import watch_hosts
from service.cli.groups import Stub as GroupStub
from service.cli.groups import all_groups
from service.cli.listing import named, pages
from service.cli.output import Columns
from service.cli.places import all_zones
from service.cli.view import because, fencing_text, moment_text, status_text

Stub = fleet_pb2_grpc.FleetServiceStub


def register(corral: click.Group) -> None:
    """Add the sub-commands."""
    hosts = verb_group(corral, "hosts", example="corral hosts")(list_hosts)
    verb(hosts, "watch", example="corral hosts watch --until-current")(watch_hosts)
    verb(hosts, "claim", example="corral hosts claim hv2")(claim)
    verb(hosts, "quarantine", example="corral hosts quarantine")(list_quarantine)
    verb(hosts, "remove-quarantined", example="corral hosts remove-quarantined hv1 KEY")(remove_quarantined)
    verb(hosts, "quarantine-device", example="corral hosts quarantine-device hv1 0000:01:00.0 --reason 'Xid 79'")(
        quarantine_device
    )
    verb(hosts, "release-device", example="corral hosts release-device hv1 0000:01:00.0")(release_device)
    verb(hosts, "adopt", example="corral hosts adopt GROUP")(adopt)


HOST_KEYS = ("name", "zone", "rack", "cluster", "status", "state", "driver", "type", "label", "group")


@output_option
@filter_option(HOST_KEYS)
@click.option(
    "--project", type=names.PROJECT, default="", help="Only hosts on which members of this project have claims."
)
@click.option(
    "--devices", "by_device", is_flag=True, help="List their devices, each with who has it or why nobody may."
)
def list_hosts(session: Session, output: Output, wanted: tuple[Term, ...], project: str, by_device: bool) -> int:
    """List hosts with what is claimed of them; with a sub-command claim them, or see to the quarantine."""
    stub = session.stub(Stub)
    zones = {zone.uuid: zone.name for zone in all_zones(stub)}
    groups = _groups_by_host(session.stub(GroupStub)) if asks(wanted, "group") else {}
    found = list(filtered(all_hosts(stub, project), wanted, lambda host: host_fields(host, zones, groups)))
    if by_device:
        return list_devices(session, output, found)
    output.many(found, _columns(zones, found), lambda host: host.name)
    if output.for_people:
        held = sum(1 for _ in all_quarantined(stub)) if not project else 0
        print()
        for line in totals_lines(found):
            print(line)
        if held:
            print(f"{held} machine(s) or volume(s) in quarantine; `corral hosts quarantine` lists them")
    return errors.OK


def host_fields(host: fleet_pb2.Host, zones: Mapping[str, str], groups: Mapping[str, Sequence[str]]) -> Fields:
    """What a filter looks into: zones' names by uuid, and the names of the groups on each host."""
    return {
        "name": host.name,
        "zone": (zones.get(host.zone_uuid, ""), host.zone_uuid),
        "rack": host.rack,
        "cluster": host.cluster_uuid,
        "status": host.status,
        "state": host.state,
        "driver": host.driver,
        "type": host.type,
        "label": [f"{key}={value}" for key, value in host.labels.items()],
        "group": groups.get(host.uuid, ()),
    }


def _groups_by_host(stub: GroupStub) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for group in all_groups(stub):
        for host in {member.host_uuid for member in group.instances if member.host_uuid}:
            found[host].append(group.name)
    return found


_NWFILTER = "nwfilter"


def isolation_text(host: fleet_pb2.Host) -> str:
    """Whether it keeps groups to themselves on the network."""
    return {_NWFILTER: "yes", "": "-"}.get(host.isolation, f"no: {host.isolation}")


def _columns(zones: Mapping[str, str], hosts: Sequence[fleet_pb2.Host]) -> Columns:
    of_cells: Columns = (("free of NUMA cells", cells),) if any(map(cells, hosts)) else ()
    fenced: Columns = (("fencing", fencing_text),) if any(map(fencing_text, hosts)) else ()
    isolated: Columns = (
        (("isolation", isolation_text),) if any(h.isolation not in ("", _NWFILTER) for h in hosts) else ()
    )
    return (
        ("name", lambda host: host.name),
        ("zone", lambda host: zones.get(host.zone_uuid, host.zone_uuid)),
        ("state", lambda host: host.state),
        ("status", lambda host: status_text(host.status)),
        ("takes", lambda host: host.type),
        ("vcpu", lambda host: short_bar(host, "vcpu")),
        ("memory", lambda host: short_bar(host, "memory")),
        ("devices free", devices),
        *of_cells,
        *fenced,
        *isolated,
        ("members", lambda host: str(host.instance_count)),
        ("of projects", lambda host: ", ".join(f"{one.project} ({one.instance_count})" for one in host.projects)),
        ("uuid", lambda host: host.uuid),
        ("reason", because),
    )


@output_option
@click.argument("host", type=names.HOST)
def claim(session: Session, output: Output, host: str) -> int:
    """Say that a host that is left alone is this service's, whatever it bears. HOST: its name or uuid."""
    stub = session.stub(Stub)
    found = find_host(stub, host)
    made = stub.ClaimHost(fleet_pb2.ClaimHostRequest(uuid=found.uuid)).inventory
    output.one(made, made.name, f"{found.name} is claimed; it is looked at within seconds")
    return errors.OK


@output_option
@click.option("--host", type=names.HOST, default="", help="Only those on this host, by name or uuid.")
def list_quarantine(session: Session, output: Output, host: str) -> int:
    """List machines and volumes that the database knows nothing of."""
    stub = session.stub(Stub)
    names = {one.uuid: one.name for one in all_hosts(stub)}
    only = find_host(stub, host).uuid if host else ""
    columns: Columns = (
        ("host", lambda one: names.get(one.host_uuid, one.host_uuid)),
        ("what", lambda one: one.holding),
        ("state", lambda one: one.state),
        ("key", lambda one: one.key),
        ("group", lambda one: one.group_uuid or "-"),
        ("since", lambda one: moment_text(one.create_date)),
        ("why", lambda one: one.reason + ("  (its end is ordered)" if one.removal_ordered else "")),
    )
    output.many(all_quarantined(stub, only), columns, lambda one: one.key)
    return errors.OK


@output_option
@click.argument("host", type=names.HOST)
@click.argument("key")
def remove_quarantined(session: Session, output: Output, host: str, key: str) -> int:
    """Order the end of what is held in quarantine. KEY: a machine's uuid or a volume's name, as `quarantine` tells."""
    stub = session.stub(Stub)
    found = find_host(stub, host)
    one = stub.RemoveQuarantined(fleet_pb2.RemoveQuarantinedRequest(host_uuid=found.uuid, key=key)).inventory
    output.one(one, one.key, f"{one.key} on {found.name} is going to be removed")
    return errors.OK


@output_option
@click.argument("host", type=names.HOST)
@click.argument("device")
@click.option("--reason", required=True, help="Why, for whoever looks at it next.")
def quarantine_device(session: Session, output: Output, host: str, device: str, reason: str) -> int:
    """Take one device out of service; a member that has it keeps it. DEVICE: as `corral hosts --devices` tells."""
    stub = session.stub(Stub)
    found = find_host(stub, host)
    request = fleet_pb2.QuarantineDeviceRequest(host_uuid=found.uuid, key=device, reason=reason)
    made = stub.QuarantineDevice(request).inventory
    kept = f"; member {made.instance_uuid} keeps it until it ends" if made.instance_uuid else ""
    output.one(made, made.key, f"{made.key} on {found.name} is given to nobody{kept}")
    return errors.OK


@output_option
@click.argument("host", type=names.HOST)
@click.argument("device")
def release_device(session: Session, output: Output, host: str, device: str) -> int:
    """Take a device back into service. DEVICE: as `corral hosts --devices` tells."""
    stub = session.stub(Stub)
    found = find_host(stub, host)
    made = stub.ReleaseDevice(fleet_pb2.ReleaseDeviceRequest(host_uuid=found.uuid, key=device)).inventory
    output.one(made, made.key, f"{made.key} on {found.name} is {made.state}")
    return errors.OK


@output_option
@click.argument("group")
def adopt(session: Session, output: Output, group: str) -> int:
    """Make a group of which machines are in quarantine a group again, as it runs. GROUP: its uuid."""
    made = session.stub(Stub).AdoptQuarantined(fleet_pb2.AdoptQuarantinedRequest(group_uuid=group)).inventory
    output.one(made, made.uuid, f"{made.uuid}  {made.name}  {made.status}")
    return errors.OK


def all_hosts(stub: Stub, project: str = "") -> Iterator[fleet_pb2.Host]:
    """All hosts, by name."""
    return pages(
        lambda token: stub.ListHosts(fleet_pb2.ListHostsRequest(page_size=500, page_token=token, project=project))
    )


def all_quarantined(stub: Stub, host_uuid: str = "") -> Iterator[fleet_pb2.Quarantined]:
    """All that is in quarantine, or what of it is on one host."""
    return pages(
        lambda token: stub.ListQuarantine(
            fleet_pb2.ListQuarantineRequest(host_uuid=host_uuid, page_size=500, page_token=token)
        )
    )


def image_lines(host: fleet_pb2.Host) -> Iterator[str]:
    """What copies of images take on it, and which there are."""
    there = host.image_copies
    of = f" of {size_text(there.budget)}" if there.budget else ""
    if there.copies or of:
        yield f"copies of images: {size_text(there.size)}{of}"
    for one in there.copies:
        so_far = f" ({size_text(one.received)} of it have come)" if one.status == "Arriving" else ""
        used = moment_text(one.last_used_date)
        yield f"  {one.image}: {size_text(one.size)}, {one.status}{so_far}, last used {used}"


def find_host(stub: Stub, wanted: str) -> fleet_pb2.Host:
    """The host of this uuid or name. Raises NotThere."""
    found: fleet_pb2.Host = named(all_hosts(stub), wanted, "host", "corral hosts")
    return found

"""`corral devices`: what hosts give to members whole, over the whole fleet: who has each, or why nobody may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click
from corral.v1 import deploy_pb2_grpc, fleet_pb2, fleet_pb2_grpc

from service.cli import errors
from service.cli.command import Output, Session, output_option, verb
from service.cli.filter import Fields, Term, filter_option, matches
from service.cli.groups import all_groups
from service.cli.listing import pages
from service.cli.output import Columns, print_table
from service.cli.places import all_zones

KEYS = ("name", "host", "zone", "model", "state", "cell", "partition", "of")


def register(corral: click.Group) -> None:
    """Add the sub-command."""
    verb(corral, "devices", example="corral devices --filter 'state:quarantined'")(devices)


@dataclass(frozen=True, slots=True)
class Row:
    """A device and its host; `of`: the member that has it, as GROUP/MEMBER."""

    host: fleet_pb2.Host
    device: fleet_pb2.HostDevice
    of: str

    def fields(self, zones: Mapping[str, str]) -> Fields:
        """What a filter looks into. `zones`: their names by uuid."""
        one = self.device
        return {
            "name": one.key,
            "host": self.host.name,
            "zone": (zones.get(self.host.zone_uuid, ""), self.host.zone_uuid),
            "model": one.model,
            "state": one.state,
            "cell": _cell(one),
            "partition": one.partition,
            "of": self.of,
        }


@output_option
@filter_option(KEYS)
def devices(session: Session, output: Output, wanted: tuple[Term, ...]) -> int:
    """List the devices of all hosts, each with who has it or why nobody may."""
    stub = session.stub(fleet_pb2_grpc.FleetServiceStub)
    found = list(pages(lambda page: stub.ListHosts(fleet_pb2.ListHostsRequest(page_size=500, page_token=page))))
    return list_devices(session, output, found, wanted)


def list_devices(
    session: Session, output: Output, hosts: Sequence[fleet_pb2.Host], wanted: tuple[Term, ...] | None = None
) -> int:
    """A row for each device of these hosts that the filter lets through, and how many there are in each state; for
    programs the hosts with these devices. None for `wanted`: the hosts as they are."""
    if wanted is None and not output.for_people:
        output.many(hosts, (), lambda host: host.name)
        return errors.OK
    stub = session.stub(deploy_pb2_grpc.DistributedModelServiceStub)
    taken = any(device.instance_uuid for host in hosts for device in host.devices)
    groups = all_groups(stub) if taken else ()
    members = {member.uuid: f"{group.name}/{member.name}" for group in groups for member in group.instances}
    zones = (
        {zone.uuid: zone.name for zone in all_zones(session.stub(fleet_pb2_grpc.FleetServiceStub))} if wanted else {}
    )
    rows = [
        row
        for host in hosts
        for device in host.devices
        if matches(wanted or (), (row := Row(host, device, members.get(device.instance_uuid, ""))).fields(zones))
    ]
    if not output.for_people:
        _for_programs(output, rows)
        return errors.OK
    print_table([title for title, _ in _COLUMNS], ([cell(row) for _, cell in _COLUMNS] for row in rows))
    states = Counter(row.device.state for row in rows)
    if wanted is not None and rows:
        print()
        print(", ".join(f"{count} {state}" for state, count in sorted(states.items())))
    return errors.OK


def _for_programs(output: Output, rows: Sequence[Row]) -> None:
    """Each host with those of its devices; by `name` a host and a device, as `corral hosts release-device` takes."""
    if output.kind == "name":
        for row in rows:
            print(f"{row.host.name} {row.device.key}")
        return
    hosts = {row.host.uuid: row.host for row in rows}
    for uuid, host in hosts.items():
        there = [row.device for row in rows if row.host.uuid == uuid]
        output.data(fleet_pb2.Host(uuid=uuid, name=host.name, zone_uuid=host.zone_uuid, devices=there), host.name)


def _cell(one: fleet_pb2.HostDevice) -> str:
    return str(one.numa_cell) if one.HasField("numa_cell") else "-"


_COLUMNS: Columns = (
    ("host", lambda row: row.host.name),
    ("device", lambda row: row.device.key),
    ("model", lambda row: row.device.model),
    ("state", lambda row: row.device.state),
    ("of", lambda row: row.of or row.device.instance_uuid),
    ("cell", lambda row: _cell(row.device)),
    ("partition", lambda row: row.device.partition or "-"),
    ("group", lambda row: str(row.device.iommu_group) if row.device.HasField("iommu_group") else "-"),
    ("with it", lambda row: ", ".join(address for address in row.device.functions if address != row.device.key)),
    ("why", lambda row: row.device.reason),
)

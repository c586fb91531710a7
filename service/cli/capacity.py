"""`corral capacity`: what the fleet has, and how many more of a size fit."""

from __future__ import annotations

import click
from corral.v1 import fleet_pb2, fleet_pb2_grpc

from service.cli import errors, names
from service.cli.bars import capacity_line, legend
from service.cli.command import Output, Session, output_option, verb
from service.cli.places import all_zones, find_zone
from service.cli.values import SIZE

Stub = fleet_pb2_grpc.FleetServiceStub


def register(corral: click.Group) -> None:
    """Add the sub-command."""
    verb(corral, "capacity", example="corral capacity --cpu 4 --memory 16GiB")(capacity)


@output_option
@click.option("--zone", type=names.ZONE, default="", help="Only this zone, by name or uuid.")
@click.option("--cpu", "cpu_num", type=click.IntRange(min=1), help="How many more members of so many virtual CPUs fit.")
@click.option("--memory", "memory_size", type=SIZE, metavar="SIZE", help="Such a member's memory, as 16GiB.")
def capacity(session: Session, output: Output, zone: str, cpu_num: int | None, memory_size: int | None) -> int:
    """Tell what the hosts that take new members have, and how many more of a size fit."""
    if (cpu_num is None) is not (memory_size is None):
        raise click.UsageError("--cpu and --memory are told together")
    stub = session.stub(Stub)
    request = fleet_pb2.GetCapacityRequest(
        zone_uuid=find_zone(stub, zone).uuid if zone else "", cpu_num=cpu_num or 0, memory_size=memory_size or 0
    )
    answer = stub.GetCapacity(request)
    if not output.for_people:
        output.data(answer, str(answer.room.count))
        return errors.OK
    away = f", {answer.unavailable_hosts} take nothing new" if answer.unavailable_hosts else ""
    print(f"{answer.hosts} host(s){away}")
    for one in answer.capacities:
        print(f"  {capacity_line(one)}")
    if answer.capacities:
        print(f"  {legend()}")
    if answer.HasField("room"):
        print(_room(answer.room, {one.uuid: one.name for one in all_zones(stub)}))
    return errors.OK


def _room(room: fleet_pb2.Room, zones: dict[str, str]) -> str:
    more = f", and no more than {room.bound}" if room.bound > room.count else ""
    where = ", ".join(f"{count} in {zones.get(uuid, uuid)}" for uuid, count in sorted(room.by_zone.items()) if count)
    return f"{room.count} more of this fit{more}" + (f": {where}" if where else "")

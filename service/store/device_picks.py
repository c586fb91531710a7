"""Which very devices a gang's members get, in the transaction that claims their seats.

The planner has counted: of each model there is enough on the host, and the claim's guard has held that. The picks are
made under the host's lock, so that a plan need not be made again because another took a device that was as good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, insert

from service.domain.devices import Device, DeviceState, HeldDevice, chosen
from service.domain.fleet import GPU
from service.domain.groups import Seat
from service.errors import InvariantViolation
from service.store import devices, schema
from service.store.claims import ClaimLost


def pick(connection: Connection, group_uuid: str, seats: Sequence[Seat]) -> tuple[Seat, ...]:
    """The seats, each with the devices that it has claimed from now on; those that have some get these very ones.

    Called after `claims.take`, which has locked their hosts. Hosts that tell no devices of a model give them by number
    alone, as whole machines do. Raises ClaimLost where a device is not to be had.
    """
    wanting = [seat for seat in seats if any(name.startswith(GPU) for name in seat.resources)]
    if not wanting:
        return tuple(seats)
    known = devices.of_hosts(connection, sorted({seat.host_uuid for seat in wanting}))
    free: dict[tuple[str, str], list[Device]] = defaultdict(list)
    keyed = {(host, device.model) for host, there in known.items() for device in there}
    for host_uuid, there in known.items():
        had = {device.key for seat in wanting if seat.host_uuid == host_uuid for device in seat.devices}
        for device in there:
            if device.state is DeviceState.AVAILABLE or (device.key in had and not device.instance_uuid):
                free[host_uuid, device.model].append(device)
    given: dict[str, tuple[HeldDevice, ...]] = {}
    # Who is pinned comes first: others take what is left in any cell.
    for seat in sorted(wanting, key=lambda s: (not s.devices, not s.cells, s.rank)):
        given[seat.instance_uuid] = tuple(
            device
            for name, count in sorted(seat.resources.items())
            if name.startswith(GPU) and (seat.host_uuid, name.removeprefix(GPU)) in keyed
            for device in _taken(free[seat.host_uuid, name.removeprefix(GPU)], seat, name.removeprefix(GPU), count)
        )
    rows = [
        {
            "host_uuid": seat.host_uuid,
            "key": device.key,
            "model": device.model,
            "instance_uuid": seat.instance_uuid,
            "attempt": seat.attempt,
            "group_uuid": group_uuid,
        }
        for seat in wanting
        for device in given[seat.instance_uuid]
    ]
    if rows:
        connection.execute(insert(schema.device_claims), rows)
    with_devices = tuple(replace(seat, devices=given.get(seat.instance_uuid, ())) for seat in seats)
    verify(connection, with_devices, keyed)
    return with_devices


def found(connection: Connection, host_uuid: str, addresses: Sequence[str]) -> tuple[HeldDevice, ...]:
    """The devices of a host that a machine has which was seen with these functions."""
    there = devices.of_hosts(connection, [host_uuid]).get(host_uuid, ()) if addresses else ()
    return tuple(HeldDevice(d.key, d.model, d.functions, d.cell) for d in there if d.key in addresses)


def _taken(free: list[Device], seat: Seat, model: str, count: int) -> tuple[HeldDevice, ...]:
    """So many devices out of `free`, which lacks them then."""
    there = {device.key: device for device in free}
    keys = tuple(d.key for d in seat.devices if d.model == model) or (
        chosen(free, count, seat.cells) if len(free) >= count else ()
    )
    if len(keys) != count or not set(keys) <= set(there):
        missing = ", ".join(sorted(set(keys) - set(there)))
        raise ClaimLost(f"host {seat.host_uuid} has not {missing or f'{count} {model}'} to give")
    free[:] = [device for device in free if device.key not in keys]
    return tuple(HeldDevice(key, model, there[key].functions, there[key].cell) for key in keys)


def verify(connection: Connection, seats: Sequence[Seat], keyed: set[tuple[str, str]]) -> None:
    """Each attempt has as many devices of a model as it has claimed, and has them once. `keyed`: (host, model) of those
    that are given by key."""
    rows = devices.claimed_by(connection, [(seat.instance_uuid, seat.attempt) for seat in seats])
    for seat in seats:
        had = rows.get((seat.instance_uuid, seat.attempt), {})
        for name, amount in seat.resources.items():
            model = name.removeprefix(GPU)
            if name.startswith(GPU) and (seat.host_uuid, model) in keyed and had.get(model, 0) != amount:
                raise InvariantViolation(
                    f"instance {seat.instance_uuid} has claimed {amount} {model} and has {had.get(model, 0)} devices"
                )

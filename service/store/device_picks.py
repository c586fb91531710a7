"""Which very devices a gang's members get, in the transaction that claims their seats.

The planner has counted: of each model there is enough on the host, and the claim's guard has held that. The picks are
made under the host's lock, so that a plan need not be made again because another took a device that was as good.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, insert

from placement.devices import Devices, Part, Pool, Undecided, Want, arrange
from service.domain.cells import cells_in
from service.domain.devices import Device, DeviceState, HeldDevice, Together, chosen
from service.domain.fleet import GPU
from service.domain.groups import Seat
from service.errors import InvariantViolation
from service.store import devices, schema, vectors
from service.store.claims import ClaimLost


def pick(
    connection: Connection,
    group_uuid: str,
    seats: Sequence[Seat],
    wants: Mapping[str, Sequence[Together]] | None = None,
) -> tuple[Seat, ...]:
    """The seats, each with the devices that it has claimed from now on; those that have some get these very ones.

    `wants`: what each instance wants of its devices; without, that they are near to its cells. Called after
    `claims.take`, which has locked their hosts. Hosts that tell no devices of a model give them by number alone, as
    whole machines do. Raises ClaimLost where a device is not to be had, or some not where they are wanted.
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
    asked = {seat.instance_uuid: tuple((wants or {}).get(seat.instance_uuid, ())) for seat in wanting}
    fresh = [s for s in wanting if not s.devices and any(w.local or w.joint for w in asked[s.instance_uuid])]
    cells = _cells_of(connection, {seat.host_uuid for seat in fresh})
    bound = _together(free, fresh, asked, cells)
    given: dict[str, tuple[HeldDevice, ...]] = {}
    # Who is pinned comes first: others take what is left in any cell.
    for seat in sorted(wanting, key=lambda s: (not s.devices, not s.cells, s.rank)):
        far = {one.model for one in asked[seat.instance_uuid] if not one.near}
        mine = list(bound.get(seat.instance_uuid, ()))
        for name, count in sorted(seat.resources.items()):
            model = name.removeprefix(GPU)
            if name.startswith(GPU) and (seat.host_uuid, model) in keyed:
                left = count - sum(device.model == model for device in mine)
                if left:
                    at = replace(seat, cells=()) if model in far else seat
                    mine += _taken(free[seat.host_uuid, model], at, model, left)
        given[seat.instance_uuid] = tuple(mine)
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
    _verify_places([s for s in with_devices if s.instance_uuid in bound], asked, known, cells)
    return with_devices


def _together(
    free: Mapping[tuple[str, str], list[Device]],
    seats: Sequence[Seat],
    wants: Mapping[str, Sequence[Together]],
    cells: Mapping[str, Sequence[int]],
) -> dict[str, tuple[HeldDevice, ...]]:
    """The devices of those that want some of their own cells, or of one partition, by instance; `free` lacks them then.

    All of a host are divided at once, so that none takes what only another's wish leaves. Raises ClaimLost where they
    do not all get theirs.
    """
    found: dict[str, tuple[HeldDevice, ...]] = {}
    for host_uuid in sorted({seat.host_uuid for seat in seats}):
        here = [seat for seat in seats if seat.host_uuid == host_uuid]
        pools: dict[tuple[str, int, str], list[Device]] = defaultdict(list)
        for (of, model), devices_there in sorted(free.items()):
            for device in sorted(devices_there if of == host_uuid else (), key=lambda d: d.key):
                pools[model, _cell(device, cells[host_uuid]), device.partition].append(device)
        divided = _divided(list(pools), [len(mine) for mine in pools.values()], here, wants)
        if divided is None:
            raise ClaimLost(f"host {host_uuid} has not the devices that its members want together")
        lists = list(pools.values())
        for seat, amounts in zip(here, divided, strict=True):
            taken = [lists[pool].pop(0) for pool, count in amounts for _ in range(count)]
            found[seat.instance_uuid] = tuple(HeldDevice(d.key, d.model, d.functions, d.cell) for d in taken)
            keys = {device.key for device in taken}
            for model in {device.model for device in taken}:
                free[host_uuid, model][:] = [d for d in free[host_uuid, model] if d.key not in keys]
    return found


def _divided(
    pools: Sequence[tuple[str, int, str]],
    counts: Sequence[int],
    seats: Sequence[Seat],
    wants: Mapping[str, Sequence[Together]],
) -> list[tuple[tuple[int, int], ...]] | None:
    """(pool, count) of each seat, None where there is no way to give all of them theirs."""
    numbers = sorted({cell for _, cell, _ in pools} | {cell for seat in seats for cell in seat.cells})
    at = {cell: position for position, cell in enumerate(numbers)}
    part = Part(
        ((),) * max(1, len(numbers)),
        tuple(
            Pool(f"{GPU}{model}", count, 0, at[cell], partition)
            for (model, cell, partition), count in zip(pools, counts, strict=True)
        ),
    )
    asked = [
        Want(
            cells=len(seat.cells),
            devices=tuple(
                Devices(f"{GPU}{one.model}", one.count, one.local, one.joint)
                for one in wants[seat.instance_uuid]
                if one.local or one.joint
            ),
            chosen=tuple(sorted(at[cell] for cell in seat.cells)),
        )
        for seat in seats
    ]
    try:
        got = arrange(part, asked)
    except Undecided:
        return None
    return None if got is None else [one.devices for one in got]


def _cells_of(connection: Connection, hosts: Iterable[str]) -> Mapping[str, Sequence[int]]:
    """Host uuid -> the numbers of its NUMA cells."""
    rows = vectors.read(connection, sorted(set(hosts)))
    return {host: cells_in({name: row.total for name, row in rows.get(host, {}).items()}) for host in set(hosts)}


def _cell(device: Device, cells: Sequence[int]) -> int:
    """The cell of a device: of a host with one cell it is that, also where the host does not tell."""
    return cells[0] if len(cells) == 1 else device.cell


def _verify_places(
    seats: Sequence[Seat],
    wants: Mapping[str, Sequence[Together]],
    known: Mapping[str, Sequence[Device]],
    cells: Mapping[str, Sequence[int]],
) -> None:
    """Each seat has its devices where it wants them. Raises InvariantViolation."""
    for seat in seats:
        there = {device.key: device for device in known[seat.host_uuid]}
        for one in wants[seat.instance_uuid]:
            mine = [there[held.key] for held in seat.devices if held.model == one.model]
            near = [d for d in mine if not one.local or _cell(d, cells[seat.host_uuid]) in seat.cells]
            joined = Counter(device.partition for device in near if device.partition)
            most = max(joined.values(), default=0) if one.joint else len(near)
            if (one.local or one.joint) and most < one.count:
                raise InvariantViolation(
                    f"instance {seat.instance_uuid} wants {one.count} {one.model} together and has {most}"
                )


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

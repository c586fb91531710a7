"""Devices between the fleet's rows and the planner: which stand alike, which members want some together, and what those
get that take some of any model. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from placement.devices import DEVICES, Devices, Part, Pool, Undecided, Want, arrange, loose_of
from placement.model import Assignment, Explanation, Host, Node, Shortage, Snapshot
from service.domain.cells import NumaPolicy
from service.domain.devices import Device, DeviceState, Together
from service.domain.fleet import GPU
from service.domain.fleet import Host as FleetHost
from service.domain.groups import Instance, Seat
from service.domain.specs import GpuRequest, MachineType, NodeSpec
from service.planning import cells

Holds = Mapping[str, tuple[tuple[int, int], ...]]
"""Instance -> what it has of each pool of its host: (position, count)."""


def pools(
    host: FleetHost, devices: Sequence[Device], pinned: Mapping[str, Sequence[int]] | None = None
) -> tuple[tuple[Pool, ...], Holds]:
    """The host's devices as the planner sees them, and who holds which.

    Of a host with one cell all devices are of that, also those of which it tells no cell. Of devices that are booked it
    is not known yet which they will be: as many count as taken, of the cells of those first that are pinned and hold
    none, then from wherever most are free. `pinned`: the cells of each member that has some.
    """
    counted: Counter[tuple[str, int, str]] = Counter()
    used: Counter[tuple[str, int, str]] = Counter()
    held: dict[str, Counter[tuple[str, int, str]]] = {}
    alone = len(cells.told(host)) == 1
    for device in devices:
        if device.state is DeviceState.GONE and not device.instance_uuid:
            continue
        position = (0,) if alone else cells.positions(host, (device.cell,))
        key = (f"{GPU}{device.model}", position[0] if position else -1, device.partition)
        counted[key] += 1
        used[key] += device.state is not DeviceState.AVAILABLE
        if device.instance_uuid:
            held.setdefault(device.instance_uuid, Counter())[key] += 1
    holdless = [numbers for instance, numbers in (pinned or {}).items() if instance not in held]
    coming = {at for numbers in holdless for at in cells.positions(host, numbers)}
    # Who leaves may have what is booked until he is gone: then less is free than that.
    booked = Counter({name: amount for name, amount in host.booked.items() if name.startswith(GPU)})
    for key in sorted(counted, key=lambda k: (k[1] not in coming, used[k] - counted[k], k)):
        taken = min(counted[key] - used[key], booked[key[0]])
        used[key] += taken
        booked[key[0]] -= taken
    order = sorted(counted)
    found = tuple(
        Pool(
            model, counted[model, cell, partition], used[model, cell, partition], cell if cell >= 0 else None, partition
        )
        for model, cell, partition in order
    )
    return found, {
        instance: tuple((order.index(key), count) for key, count in sorted(mine.items()))
        for instance, mine in held.items()
    }


def divided(host: Host, arriving: Sequence[tuple[Node, tuple[int, ...]]]) -> list[tuple[tuple[int, int], ...]]:
    """(position of a pool, count) of what each of these nodes wants together and gets of the host, in the cells that it
    is to have; nothing where the host has not enough for all of them."""
    if not any(node.devices for node, _ in arriving):
        return [()] * len(arriving)
    part = Part(
        ((),) * max(1, len(host.cells)),
        tuple(Pool(pool.resource, pool.free, 0, pool.cell, pool.partition) for pool in host.pools),
    )
    wants = [Want(len(at), (), node.devices, loose_of(node.demand, node.devices), at) for node, at in arriving]
    try:
        got = arrange(part, wants)
    except Undecided:
        got = None
    return [one.devices for one in got] if got is not None else [()] * len(arriving)


def together(node: NodeSpec, policy: NumaPolicy) -> tuple[Devices, ...]:
    """The devices that the planner is to give the member of its own cell, or of one partition."""
    found = [
        Devices(f"{GPU}{gpu.model}" if gpu.model else DEVICES, gpu.count, _local(gpu, node, policy), gpu.same_partition)
        for gpu in node.gpus
    ]
    return tuple(one for one in found if one.local or one.joint)


def _local(gpu: GpuRequest, node: NodeSpec, policy: NumaPolicy) -> bool:
    said = cells.wanted(policy, node) if gpu.numa is None else gpu.numa
    return said is NumaPolicy.REQUIRED and node.type is MachineType.VIRTUAL_MACHINE


def wanted(members: Iterable[Instance], seats: Iterable[Seat], policy: NumaPolicy) -> dict[str, tuple[Together, ...]]:
    """What each member wants of its devices where it is seated, by uuid; each model once."""
    of = {member.uuid: member.spec for member in members}
    found: dict[str, tuple[Together, ...]] = {}
    for seat in seats:
        node = of[seat.instance_uuid]
        left = {name.removeprefix(GPU): n for name, n in seat.resources.items() if name.startswith(GPU)}
        asks = []
        for gpu in sorted(node.gpus, key=lambda g: not g.model):
            for model in (gpu.model,) if gpu.model else sorted(left):
                count = min(left.get(model, 0), gpu.count) if gpu.model else left[model]
                left[model] = left.get(model, 0) - count
                if count:
                    near = (cells.wanted(policy, node) if gpu.numa is None else gpu.numa) is not NumaPolicy.NONE
                    asks.append(Together(model, count, _local(gpu, node, policy), gpu.same_partition, near))
        found[seat.instance_uuid] = tuple(asks)
    return found


def hosts_named(explanation: Explanation, fleet_now: Snapshot, hosts: Mapping[str, FleetHost]) -> Explanation:
    """The explanation with the names of its hosts, and devices that are missing told by their own numbers of cells."""
    seen = {host.id: host for host in fleet_now.hosts}

    def named(host_uuid: str | None, shortages: tuple[Shortage, ...]) -> tuple[Shortage, ...]:
        if host_uuid is None or host_uuid not in hosts or all(short.pool is None for short in shortages):
            return shortages
        numbers = [cell.number for cell in cells.told(hosts[host_uuid])]
        found = []
        for short in shortages:
            if short.pool is not None:
                pool = seen[host_uuid].pools[short.pool]
                cell = f"cell {numbers[pool.cell]}" if pool.cell is not None else ""
                partition = f"partition {pool.partition}" if pool.partition else ""
                short = replace(short, where=", ".join(word for word in (cell, partition) if word))
            found.append(short)
        return tuple(found)

    def name(host_uuid: str | None) -> str:
        return hosts[host_uuid].name if host_uuid is not None and host_uuid in hosts else ""

    miss, cures = explanation.nearest, explanation.cures
    if miss is not None:
        miss = replace(miss, shortages=named(miss.host, miss.shortages), host_name=name(miss.host))
    cures = tuple(replace(c, amounts=named(c.host, c.amounts), host_name=name(c.host)) for c in cures)
    return replace(explanation, nearest=miss, cures=cures)


def models(
    members: Iterable[Instance], assignments: Iterable[Assignment], fleet_now: Snapshot, policy: NumaPolicy
) -> dict[str, tuple[GpuRequest, ...]]:
    """What the planner has given members that want some of any model together, by uuid."""
    hosts = {host.id: host for host in fleet_now.hosts}
    asked = {member.uuid: together(member.spec, policy) for member in members}
    found: dict[str, tuple[GpuRequest, ...]] = {}
    for one in assignments:
        wishes = asked.get(one.node, ())
        if not any(wish.resource == DEVICES for wish in wishes):
            continue
        counts: Counter[str] = Counter()
        for pool, count in one.devices:
            counts[hosts[one.host].pools[pool].resource] += count
        counts.subtract({wish.resource: wish.count for wish in wishes if wish.resource != DEVICES})
        found[one.node] = tuple(GpuRequest(n.removeprefix(GPU), left) for n, left in sorted(counts.items()) if left > 0)
    return found


def devices_given(
    landing: Sequence[Instance],
    places: Mapping[str, str],
    hosts: Mapping[str, FleetHost],
    settled: Mapping[str, tuple[GpuRequest, ...]] | None = None,
) -> dict[str, tuple[GpuRequest, ...]]:
    """Which devices the members get that take some of any model, by uuid; `places`: member's uuid -> host's,
    `settled`: see `models`.

    After what others name, and of one model where that has enough: of those the one with the fewest left.
    """
    free: dict[str, dict[str, int]] = {}
    given: dict[str, tuple[GpuRequest, ...]] = {}
    for member in landing:
        host = hosts[places[member.uuid]]
        if host.uuid not in free:
            free[host.uuid] = {
                name: max(0, amount - host.used.get(name, 0) - host.foreign.get(name, 0))
                for name, amount in sorted(host.allocatable.items())
                if name.startswith(GPU)
            }
        for gpu in member.spec.gpus:
            if gpu.model:
                free[host.uuid][f"{GPU}{gpu.model}"] -= gpu.count
    for uuid, devices in (settled or {}).items():
        given[uuid] = devices
        for gpu in devices:
            free[places[uuid]][f"{GPU}{gpu.model}"] -= gpu.count
    for member in landing:
        count = sum(gpu.count for gpu in member.spec.gpus if not gpu.model)
        if count and member.uuid not in given:
            taken = _taken(free[places[member.uuid]], count)
            given[member.uuid] = tuple(GpuRequest(name.removeprefix(GPU), n) for name, n in sorted(taken.items()))
    return given


def _taken(free: dict[str, int], wanted: int) -> dict[str, int]:
    """So many devices out of `free` (resource -> left), which is lowered by them."""
    enough = [name for name in free if free[name] >= wanted]
    names = [min(enough, key=lambda n: free[n])] if enough else sorted(free, key=lambda n: -free[n])
    taken: dict[str, int] = {}
    for name in names:
        if (amount := min(wanted - sum(taken.values()), free[name])) > 0:
            taken[name] = amount
            free[name] -= amount
    return taken

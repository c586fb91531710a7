"""What befalls devices of simulated hosts, what hosts say of them, and the operator who sees to them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from service.domain.devices import Clean, DeviceRule, DeviceRules, HeldDevice, PciFunction, RuleKind
from service.domain.specs import GpuRequest, NodeSpec
from service.drivers.base import HostRejected, MachineIdentity
from service.errors import Conflict, NotFound, Unavailable, WrongState
from tests.simulation import cards, hosts
from tests.simulation.hosts import Machine, SimulatedMachineHost, Slot

if TYPE_CHECKING:
    from tests.simulation.world import World

KINDS = ("pull", "pull", "swap", "stolen", "dirty", "dirty", "xid", "xid", "fellow", "stranger")
GIB = 1 << 30


def _rule(kind: RuleKind, ids: str, model: str = "", clean: Clean = Clean.RESET) -> DeviceRule:
    vendor, product = ids.split(":")
    return DeviceRule(kind, model, vendor=vendor, product=product, clean=clean)


RULES = DeviceRules(
    (
        _rule(RuleKind.GPU, cards.BIG, "big"),
        _rule(RuleKind.GPU, cards.SMALL, "small", Clean.NONE),
        _rule(RuleKind.COMPANION, cards.SOUND),
    )
)


# --- what a host says -------------------------------------------------------------------------------------------------


def functions(host: SimulatedMachineHost) -> tuple[PciFunction, ...]:
    """As a probe is answered."""
    return tuple(
        PciFunction(s.address, vendor, product, s.device_class, s.group, driver=s.driver, foreign=s.foreign)
        for s in host.slots.values()
        for vendor, _, product in [s.ids.partition(":")]
    )


def given(
    world: World, host: SimulatedMachineHost, uuid: str, devices: Sequence[HeldDevice]
) -> tuple[tuple[tuple[str, int], ...], bool]:
    """The (address, serial) of what the machine gets, and whether that is not what was asked for. Raises
    HostRejected."""
    wanted = {function.address: function.ids for device in devices for function in device.functions}
    for address, ids in sorted(wanted.items()):
        slot = host.slots.get(address)
        if slot is None or slot.ids != ids:
            raise HostRejected("device_gone", "the host has a claimed device no more", address)
        if slot.foreign or host.holder(address, but=uuid) is not None:
            raise HostRejected("device_busy", "a device of the machine is in use by another one", address)
        if any(f.group == slot.group and f.driver and f.address not in wanted for f in host.slots.values()):
            raise HostRejected("device_group", "the host keeps a fellow of the device's group", address)
        if not slot.resets:
            raise HostRejected("device_reset", "a device cannot be reset", address)
    got = sorted(wanted)
    mistaken = bool(got) and world.fault("other_device")
    if mistaken:
        other = sorted(a for a, s in host.slots.items() if a not in wanted and not s.foreign and host.holder(a) is None)
        got = [*got[1:], *other[:1]]
    return tuple((address, host.slots[address].serial) for address in got), mistaken


# --- what befalls them ------------------------------------------------------------------------------------------------


async def storm(world: World) -> None:
    """Now and then something happens to a device, while there are faults."""
    dice = world.random
    kinds = [kind for kind in KINDS if dice.random() < 0.5]
    pause = dice.choice((3.0, 6.0, 12.0))
    while world.faulty and kinds:
        await asyncio.sleep(dice.expovariate(1.0 / pause))
        host = dice.choice(list(world.hosts.values()))
        there = [s for s in host.slots.values() if s.ids in cards.MODELS]
        if world.faulty and there:
            kind = dice.choice(kinds)
            world.stats[f"fault device {kind}"] += 1
            _strike(world, host, dice.choice(there), kind)


def _strike(world: World, host: SimulatedMachineHost, slot: Slot, kind: str) -> None:
    dice, at = world.random, slot.address
    world.note("device", host.name, at, kind)
    seconds = dice.choice((2.0, 8.0, 30.0))
    if kind == "pull":
        _pull(world, host, at)
        world.loop.outside(seconds, _put, host, replace(slot, serial=slot.serial + 1))
    elif kind == "swap":
        other = cards.SMALL if slot.ids == cards.BIG else cards.BIG
        _pull(world, host, at)
        _put(host, replace(slot, ids=other, serial=slot.serial + 1))
    elif kind == "stolen" and host.holder(at) is None:
        host.slots[at] = replace(slot, foreign=True)
        world.loop.outside(seconds, _back, host, at)
    elif kind == "dirty":
        host.slots[at] = replace(slot, resets=False)
    elif kind == "xid":
        holder = host.holder(at)
        if holder is not None and holder.state == hosts.RUNNING:
            host.put(holder.uuid, replace(holder, ailing=((at, "Xid 79"),)), "guest")
    elif kind == "fellow":
        fellow = f"{at.removesuffix('.0')}.3"
        host.slots[fellow] = Slot(fellow, cards.USB, "0c0330", slot.group, driver="xhci_hcd")
        world.loop.outside(seconds, host.slots.pop, fellow, None)
    elif kind == "stranger" and host.up and host.holder(at) is None and not slot.foreign:
        _stranger(world, host, slot, seconds)


def _pull(world: World, host: SimulatedMachineHost, address: str) -> None:
    del host.slots[address]
    world.cards.pulled[host.uuid, address] = world.loop.time()


def _put(host: SimulatedMachineHost, slot: Slot) -> None:
    host.slots.setdefault(slot.address, slot)


def _back(host: SimulatedMachineHost, address: str) -> None:
    if address in host.slots:
        host.slots[address] = replace(host.slots[address], foreign=False)


def _stranger(world: World, host: SimulatedMachineHost, slot: Slot, seconds: float) -> None:
    """A machine with our tag that no database of ours has heard of has the device, until its owner takes it away."""
    identity = MachineIdentity(hosts.CLUSTER, world.new_uuid(), world.new_uuid(), 1)
    group = tuple((s.address, s.serial) for s in host.slots.values() if s.group == slot.group)
    machine = Machine(
        identity.machine_uuid, identity.group, identity.instance, 1, hosts.RUNNING,
        amounts=(("memory", GIB), ("vcpu", 1)), tampered=True, devices=group,
    )  # fmt: skip
    host.put(machine.uuid, machine, "stranger")
    world.loop.outside(seconds + 20.0, host.remove_if_there, machine.uuid, "tamper")


def mend(world: World, host: SimulatedMachineHost) -> None:
    """At peace: what is on the host works and is nobody else's, and strangers have taken theirs away."""
    for address, slot in list(host.slots.items()):
        if slot.driver:
            del host.slots[address]
        else:
            host.slots[address] = replace(slot, foreign=False, resets=True)
    known = {instance for (instance,) in world.database.rows("SELECT uuid FROM instances")}
    for uuid, machine in list(host.machines.items()):
        if machine.devices and machine.instance not in known and machine.tampered:
            host.remove_if_there(uuid, "tamper")
        elif machine.ailing:
            host.put(uuid, replace(machine, ailing=()), "guest")


# --- who sees to them -------------------------------------------------------------------------------------------------


class Keeper:
    """An operator who cleans what is out of service and takes it back, and now and then takes one out by hand."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self) -> None:
        """Until cancelled."""
        dice = self._world.random
        while True:
            await asyncio.sleep(dice.uniform(5.0, 20.0) if self._world.faulty else 2.0)
            rows = self._world.database.rows("SELECT host_uuid, key, quarantine FROM devices ORDER BY host_uuid, key")
            out = [(host, key) for host, key, quarantine in rows if quarantine]
            if out and (not self._world.faulty or dice.random() < 0.6):
                await self._back(*dice.choice(out))
            elif rows and self._world.faulty and dice.random() < 0.3:
                host, key, _ = dice.choice(rows)
                await self._order(host, key, take=True)

    async def _back(self, host: str, key: str) -> None:
        there = self._world.hosts.get(host)
        if there is not None and key in there.slots:
            there.slots[key] = replace(there.slots[key], resets=True)
        await self._order(host, key, take=False)

    async def _order(self, host: str, key: str, *, take: bool) -> None:
        replica = self._world.random.choice(self._world.replicas)
        if not replica.serving or not replica.process.alive:
            return
        from tests.simulation.operators import ME
        from tests.simulation.replica import Broken

        cases = replica.devices
        work = cases.quarantine(ME, host, key, "it glows") if take else cases.release(ME, host, key)
        self._world.note("device", "taken out" if take else "taken back", host, key)
        try:
            await replica.call(work, 10.0)
        except (Broken, Conflict, NotFound, TimeoutError, Unavailable, WrongState):
            self._world.note("device", "refused", host, key)


def asked(world: World, name: str, nodes: tuple[NodeSpec, ...]) -> tuple[NodeSpec, ...]:
    """The members of the group of this name, with the devices that they ask for."""
    wanted = world.cards.wants(name, len(nodes))
    return tuple(
        replace(node, gpus=(GpuRequest(model, count),)) if count else node
        for node, (model, count) in zip(nodes, wanted, strict=True)
    )

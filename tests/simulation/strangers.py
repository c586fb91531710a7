"""What others do on the hosts: machines that nobody knows, copies made by hand, another installation's, its mark."""

from __future__ import annotations

from dataclasses import replace

from service.drivers.base import MachineIdentity
from tests.simulation import hosts
from tests.simulation.hosts import Machine, SimulatedMachineHost
from tests.simulation.world import World

OTHERS = "another installation"
OTHERS_DATABASE = "d" * 32
GIB = 1 << 30
KINDS = ("unknown", "copy", "copy", "other", "capture")


def appear(world: World) -> None:
    """Something of somebody else's is on a host from now on."""
    dice = world.random
    kind = dice.choice(KINDS)
    host = dice.choice(list(world.hosts.values()))
    if not host.up:
        return
    world.stats[f"stranger {kind}"] += 1
    if kind == "capture":
        _capture(world, host)
    elif kind == "copy":
        _copy(world, host)
    else:
        _strange(world, host, hosts.CLUSTER if kind == "unknown" else OTHERS)


def _strange(world: World, host: SimulatedMachineHost, cluster: str) -> None:
    """A machine, running or stopped, of a group that no database of ours has ever heard of."""
    identity = MachineIdentity(cluster, world.new_uuid(), world.new_uuid(), 1)
    state = world.random.choice((hosts.RUNNING, hosts.STOPPED))
    machine = Machine(
        identity.machine_uuid, identity.group, identity.instance, 1, state, amounts=(("memory", GIB), ("vcpu", 1)),
        cluster=cluster, tampered=True,
    )  # fmt: skip
    if cluster == hosts.CLUSTER:
        host.volumes[f"corral.{cluster}.{machine.instance}.1.root"] = machine.uuid
    host.put(machine.uuid, machine, "stranger")


def _copy(world: World, host: SimulatedMachineHost) -> None:
    """One of our machines is copied to another host by hand, with all that its definition says."""
    dice = world.random
    there = [
        (h, m) for h in world.hosts.values() if h is not host
        for m in h.machines.values() if m.ours and m.state in (hosts.RUNNING, hosts.STOPPED, hosts.PAUSED)
    ]  # fmt: skip
    there = [(h, m) for h, m in there if m.uuid not in host.machines]
    if there:
        home, machine = dice.choice(there)
        state = dice.choice((hosts.RUNNING, hosts.RUNNING, hosts.STOPPED))
        host.put(machine.uuid, replace(machine, state=state, tampered=True), "stranger")
        host.volumes.setdefault(f"corral.{machine.cluster}.{machine.instance}.{machine.attempt}.root", machine.uuid)
        _more_trouble(world, home, machine.uuid)


def _more_trouble(world: World, home: SimulatedMachineHost, machine_uuid: str) -> None:
    """While the copy is held, the machine itself is lost, and its member placed anew; or its host falls silent."""
    dice = world.random
    kind = dice.choice(("none", "lost", "lost", "silent"))
    if kind == "lost":
        world.loop.outside(dice.uniform(8.0, 25.0), _lost, world, home, machine_uuid)
    elif kind == "silent":
        world.loop.outside(dice.uniform(0.0, 20.0), _silent, world, home, dice.choice((30.0, 65.0)))


def _lost(world: World, home: SimulatedMachineHost, machine_uuid: str) -> None:
    if world.faulty:
        home.remove_if_there(machine_uuid, "tamper")


def _silent(world: World, home: SimulatedMachineHost, seconds: float) -> None:
    if world.faulty:
        world.note("cut", "*", home.name, seconds)
        world.cut.add(("*", home.uuid))
        world.loop.outside(seconds, world.cut.discard, ("*", home.uuid))


def _capture(world: World, host: SimulatedMachineHost) -> None:
    """Another installation takes the host for its own, by its operator's word, and lets it go after a while."""
    before = host.mark
    world.note("captured", host.name)
    host.bear((OTHERS_DATABASE, "e" * 32, 7))
    if world.random.random() < 0.7:
        world.loop.outside(world.random.uniform(5.0, 40.0), _let_go, world, host, before)


def _let_go(world: World, host: SimulatedMachineHost, before: hosts.Mark | None) -> None:
    if host.mark is not None and host.mark[0] == OTHERS_DATABASE:
        world.note("let go", host.name)
        host.bear(before if world.random.random() < 0.5 else None)

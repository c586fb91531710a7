"""Live moves between simulated hosts: what two hypervisors do between themselves, once one of them was asked.

The copy on the target executes nothing until the source's machine is paused; whichever host goes down, the other finds
out after a while. A source that cannot learn whether its target went on leaves its machine paused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tests.simulation import mishaps
from tests.simulation.hosts import MIGRATING, PAUSED, RUNNING, TOMBSTONE, Conflict, Rejected, SimulatedMachineHost

if TYPE_CHECKING:
    from tests.simulation.world import World

KEEPALIVE_SECONDS = 5.0
NEVER = 1e9


@dataclass(slots=True)
class Move:
    """One move on its way. `paused`: the machine executes on neither host, and an abort comes too late.

    `amounts`: what the machine takes of the target. `ends_badly`: with the switch its source falls silent
    ("answer lost"), or keeps its paused machine ("source stays").
    """

    world: World
    source: SimulatedMachineHost
    target: SimulatedMachineHost
    uuid: str
    boots: tuple[int, int]
    amounts: tuple[tuple[str, int], ...]
    paused: bool = False
    over: bool = False
    ends_badly: str = ""

    def begin(self) -> None:
        """The copy appears on the target, and memory begins to flow."""
        dice = self.world.random
        machine = self.source.machines[self.uuid]
        self.target.put(self.uuid, replace(machine, state=MIGRATING, arriving=True, amounts=self.amounts), "hypervisor")
        seconds = NEVER if dice.random() < 0.08 else dice.uniform(0.1, 6.0)
        self.world.loop.outside(seconds, self._pause)
        self.world.loop.outside(KEEPALIVE_SECONDS, self._watch)
        self.world.stats["moves begun"] += 1
        mishaps.draw(self)

    def fail(self) -> None:
        """It breaks off with the machine executing at its source."""
        self.over = True
        self.source.broken.add(self.uuid)
        self._let_go()

    def _let_go(self) -> None:
        copy = self.target.machines.get(self.uuid)
        if copy is not None and copy.arriving:
            self.target.put(self.uuid, None, "hypervisor")

    def _sound(self) -> bool:
        up = self.source.up and self.target.up
        return up and self.boots == (self.source.boot_number, self.target.boot_number)

    def _watch(self) -> None:
        if self.over:
            return
        if not self.paused and not self._sound():
            self.fail()
            return
        self.world.loop.outside(KEEPALIVE_SECONDS, self._watch)

    def _pause(self) -> None:
        machine, copy = self.source.machines.get(self.uuid), self.target.machines.get(self.uuid)
        if self.over:
            return
        runs = machine is not None and machine.state == RUNNING and copy is not None and copy.arriving
        if not runs or not self._sound() or self.world.fault("move_breaks"):
            self.fail()
            return
        self.paused = True
        self.source.set_state(self.uuid, MIGRATING, "hypervisor")
        self.world.loop.outside(self.world.random.uniform(0.001, 0.5), self._switch)

    def _switch(self) -> None:
        copy = self.target.machines.get(self.uuid)
        if not self._sound() or copy is None or not copy.arriving or self.world.fault("move_breaks"):
            self.over = True
            self._let_go()
            return
        self.target.put(self.uuid, replace(copy, state=RUNNING, arriving=False), "hypervisor")
        self.world.stats["moves switched"] += 1
        if self.ends_badly == "answer lost":
            self.world.vanish(self.source)
        # Some sources are slow to tidy up, and their paused machine is seen meanwhile.
        dice = self.world.random
        self.world.loop.outside(dice.uniform(0.001, 0.5 if dice.random() < 0.8 else 20.0), self._confirm)

    def _confirm(self) -> None:
        self.over = True
        machine = self.source.machines.get(self.uuid)
        if self.ends_badly == "source stays" and machine is not None and machine.state == MIGRATING:
            self.source.set_state(self.uuid, PAUSED, "hypervisor")
            return
        # A source that goes down here leaves its paused machine behind, to be found.
        if self._sound() and machine is not None and machine.state == MIGRATING:
            self.source.remove(self.uuid, "hypervisor")


def ask(
    world: World,
    source: SimulatedMachineHost,
    target: SimulatedMachineHost,
    uuid: str,
    amounts: tuple[tuple[str, int], ...],
) -> bool:
    """The source is asked to move the machine: begins, or tells whether it has ended. `amounts`: what it takes there.

    Raises Rejected, Conflict.
    """
    going = source.moves.get(uuid)
    if going is not None and not going.over:
        return False
    machine = source.machines.get(uuid)
    if uuid in source.broken:
        source.broken.discard(uuid)
        raise Rejected
    if machine is None or machine.state == TOMBSTONE:
        return True
    if machine.state != RUNNING or not target.up:
        raise Rejected
    if uuid in target.machines:
        raise Conflict
    move = source.moves[uuid] = Move(world, source, target, uuid, (source.boot_number, target.boot_number), amounts)
    move.begin()
    return False


def abort(source: SimulatedMachineHost, uuid: str) -> bool:
    """End the move that goes on; False where it is too late for that."""
    going = source.moves.get(uuid)
    if going is None or going.over:
        return True
    if going.paused:
        return False
    going.fail()
    source.broken.discard(uuid)
    return True

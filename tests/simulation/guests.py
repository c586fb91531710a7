"""Guests that fall silent, say that they do not serve, or give their engine up, at peace; and what must be told of it.

What is judged may not use code of the service: what it expects is written down here a second time, on purpose.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.simulation.hosts import GIVEN_UP, RUNNING, SILENT, UNWELL, Machine, SimulatedMachineHost

if TYPE_CHECKING:
    from tests.simulation.world import World

THEME = "guests"
NOTICED_SECONDS = 60.0
"""A guest is silent after 15 s, and a group at rest is looked at every 10 s, in a sweep of so many hosts."""
SERVES_SECONDS = 120.0
"""A machine that hangs is given up after 10 s more, and the next one has 15 s for each of three boots."""

_ENDED = ("Running", "Failed", "Deleted")

Query = Callable[..., Sequence[tuple[Any, ...]]]
Machines = Callable[[], Sequence[tuple[str, Machine]]]


class Starts:
    """I22, told of every commit: where engines need each other, a group is told to be Running only while all of its
    guests are at its present start."""

    def __init__(self, rows: Query, machines: Machines, violated: Callable[[str, str], None]) -> None:
        self._rows = rows
        self._machines = machines
        self._violated = violated
        self.watched: dict[str, bool] = {}  # a group -> whether it was told to be something else than Running since

    def committed(self) -> None:
        """Look at all groups that are told to be Running."""
        for group in self.watched:
            status = self._rows("SELECT status FROM groups WHERE uuid = ?", group)[0][0]
            self.watched[group] = self.watched[group] or status != "Running"
        found = self._rows(
            "SELECT g.uuid, g.spec, g.start_epoch, i.uuid, i.attempt, i.host_uuid FROM groups g"
            " JOIN instances i ON i.group_uuid = g.uuid WHERE g.status = 'Running' AND i.status = 'Running'"
            " AND NOT i.beside AND NOT i.leaving AND i.target_host_uuid = ''"
        )
        needed = [row for row in found if json.loads(row[1]).get("scope") not in (None, "", "member")]
        if not needed:
            return
        there = {(m.instance, m.attempt, host): m for host, m in self._machines() if m.state == RUNNING}
        for group, _, start, *member in needed:
            machine = there.get((member[0], member[1], member[2]))
            if machine is not None and not machine.tampered and not machine.late and machine.epoch < start:
                told = f"start {machine.epoch} while the group is at {start}"
                self._violated("I22", f"{group} is told to be Running, and the guest of {member[0]} is at {told}")


async def ail(world: World) -> None:
    """One guest of each group that runs ails, one after the other, and is well again or another machine's."""
    for (group,) in world.database.rows("SELECT uuid FROM groups WHERE status = 'Running' ORDER BY uuid"):
        if not world.observer.found:
            await _ail(world, group)
    world.starts.watched = {}


async def _ail(world: World, group: str) -> None:
    ours = [(world.hosts[at], m) for at, m in world.machines() if m.group == group and m.state == RUNNING]
    if not ours or _status(world, group) != "Running":
        return
    host, machine = ours[world.random.randrange(len(ours))]
    kind = world.random.choice((SILENT, SILENT, UNWELL, GIVEN_UP))
    world.stats[f"guests {kind}"] += 1
    told = world.starts.watched = {group: False}
    host.put(machine.uuid, replace(machine, ailment=kind, ails_since=world.loop.time()), "guest")
    if not await _until(world, lambda: told[group], NOTICED_SECONDS):
        world.observer.violated("I22", f"{group} is told to be Running, and a guest of it is {kind}")
        return
    _recover(host, machine.uuid)
    if not await _until(world, lambda: _status(world, group) in _ENDED, SERVES_SECONDS):
        world.observer.violated("I22", f"{group} is {_status(world, group)}, and its guests serve")


def _recover(host: SimulatedMachineHost, uuid: str) -> None:
    """The guest serves again by itself, unless it gave up, or its machine was ended meanwhile."""
    there = host.machines.get(uuid)
    if there is not None and there.state == RUNNING and there.ailment in (SILENT, UNWELL):
        host.put(there.uuid, replace(there, ailment=""), "guest")


async def _until(world: World, seen: Callable[[], bool], seconds: float) -> bool:
    end = world.loop.time() + seconds
    while not seen():
        if world.loop.time() > end or world.observer.found:
            return world.observer.found
        await asyncio.sleep(1.0)
    return True


def _status(world: World, group: str) -> str:
    return str(world.database.rows("SELECT status FROM groups WHERE uuid = ?", group)[0][0])

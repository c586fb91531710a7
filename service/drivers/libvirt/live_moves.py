"""The live moves that leave one host: each a task of its own, which a later call finds again while it goes on.

What is asked of libvirt stands in `migration`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from service.drivers.base import MachineIdentity, OutcomeUnknown
from service.drivers.libvirt import migration
from service.drivers.libvirt.connection import Lane, Work
from service.drivers.libvirt.inventory import Inventory
from service.drivers.libvirt.storage import Storage

Result = TypeVar("Result")
Prepare = Callable[[float], Awaitable[migration.Arrival]]
"""Makes the target ready, within so many seconds."""


class Act(Protocol):
    """The driver's way to call its host: what, the call, and its budget in seconds."""

    async def __call__(self, what: str, function: Callable[[Work, Any], Result], budget_seconds: float) -> Result:
        """Run it in a thread with a connection. Raises DriverError."""


class LiveMoves:
    """`lane`: the moves' own, since such a call lasts as long as its move; `act`: for all that is short."""

    def __init__(self, cluster: str, inventory: Inventory, storage: Storage, lane: Lane, act: Act) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._storage = storage
        self._lane = lane
        self._act = act
        self._going: dict[str, tuple[asyncio.Task[None], threading.Event]] = {}

    async def move(self, identity: MachineIdentity, prepare: Prepare, *, budget_seconds: float) -> bool:
        """Begin the machine's move, or wait for the one that goes on; False: it goes on after the budget."""
        uuid, whole = identity.machine_uuid, Work(budget_seconds)
        if uuid not in self._going:
            arrival = await prepare(whole.remaining)
            if uuid not in self._going:  # another call may have begun it meanwhile
                given_up = threading.Event()
                task = asyncio.create_task(self._move(identity, arrival, given_up), name=f"move of {uuid}")
                self._going[uuid] = (task, given_up)
        task, _ = self._going[uuid]
        done, _ = await asyncio.wait({task}, timeout=whole.remaining)
        if not done:
            return False
        self._going.pop(uuid, None)
        task.result()
        return True

    async def _move(self, identity: MachineIdentity, arrival: migration.Arrival, given_up: threading.Event) -> None:
        def move(work: Work, connection: Any) -> None:
            migration.migrate(work, connection, self._inventory, self._cluster, identity, arrival, given_up)
            # Its documents are made for each host; where nobody gets here the sweep deletes these.
            if self._inventory.find(connection, identity) is None:
                self._storage.delete_machine_volumes(connection, work, identity)

        await self._lane.call(move, budget_seconds=migration.MOVE_SECONDS, has_effect=True, what="migrate")

    async def abort(self, identity: MachineIdentity, *, budget_seconds: float) -> None:
        """Return once no move of the machine goes on. Raises OutcomeUnknown after the budget."""
        whole = Work(budget_seconds)
        task, given_up = self._going.get(identity.machine_uuid, (None, None))
        if given_up is not None:
            given_up.set()
        while True:
            await self._act(
                "abort-migration",
                lambda _work, connection: migration.abort(connection, self._inventory, self._cluster, identity),
                whole.remaining,
            )
            over = await self._act(
                "see-migration-ended",
                lambda _work, connection: migration.ended(connection, self._inventory, self._cluster, identity),
                whole.remaining,
            )
            if task is not None and not task.done():
                await asyncio.wait({task}, timeout=min(whole.remaining, migration.POLL_SECONDS))
            if over and (task is None or task.done()):
                break
            if whole.remaining == 0:
                raise OutcomeUnknown("the live move does not end")
        if task is not None:
            self._going.pop(identity.machine_uuid, None)
            await asyncio.gather(task, return_exceptions=True)  # where the machine is then tells how it ended

    async def close(self) -> None:
        """Wait for nobody: a move that has begun goes on between the two hosts."""
        for task, given_up in self._going.values():
            given_up.set()
            task.cancel()
        await asyncio.gather(*(task for task, _ in self._going.values()), return_exceptions=True)
        await self._lane.close()

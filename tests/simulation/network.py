"""The network between one replica and one host: it delays, loses, and delivers late. Its faults are drawn here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from service.drivers.base import (
    DriverError,
    HostRejected,
    HostUnreachable,
    MachineConflict,
    MachineGhost,
    MachineIdentity,
    OutcomeUnknown,
)
from tests.simulation import faults, hosts
from tests.simulation.hosts import SimulatedMachineHost
from tests.simulation.loop import LEASE, Life, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")
SILENT_CLIENT_SECONDS = 30.0
"""libvirtd drops a client that does not answer its keepalive after about so long (measured)."""

EFFECTS = frozenset({"create", "resume", "shutdown", "power_off", "remove", "migrate", "abort_migration"})


class Network:
    """One replica's way to one host."""

    def __init__(self, world: World, process: Process, host: SimulatedMachineHost) -> None:
        self._world = world
        self._process = process
        self._host = host

    async def call(
        self, name: str, budget: float, act: Callable[[bool], T], identity: MachineIdentity | None = None
    ) -> T:
        """Ask the host to `act`, which is told whether its request came late; its answer. Raises DriverError."""
        world = self._world
        asked = world.loop.time()
        world.point(f"{name}.request")
        await asyncio.sleep(0)  # a process that is stopped here sends its request when it goes on
        silence = world.loop.time() - asked
        if silence > SILENT_CLIENT_SECONDS:
            raise HostUnreachable("the connection is closed")
        lease = LEASE.get() if name in EFFECTS else None
        world.repeats.asked(name, lease, self._machine(identity), self._process)
        reply: asyncio.Future[T] = world.loop.create_future()
        self._send(name, budget, act, reply, late=silence > 0.5, lease=lease, identity=identity)
        try:
            async with asyncio.timeout(budget):
                result = await reply
        except TimeoutError:
            raise OutcomeUnknown("no answer came in time") from None
        world.point(f"{name}.reply")
        world.repeats.answered(name, lease, self._machine(identity), self._process)
        return result

    def _machine(self, identity: MachineIdentity | None) -> hosts.Machine | None:
        return None if identity is None else self._host.machines.get(identity.machine_uuid)

    def _send(
        self,
        name: str,
        budget: float,
        act: Callable[[bool], T],
        reply: asyncio.Future[T],
        *,
        late: bool,
        lease: tuple[str, int] | None,
        identity: MachineIdentity | None,
    ) -> None:
        """Put the request on its way; what strikes it on the way is decided here."""
        world, loop = self._world, self._world.loop
        if name == "create":
            world.hide_unwitnessed(self._process, self._host, lease)
        fault = world.call_fault(self._process, self._host, name)
        sent, delay = loop.time(), world.latency()
        if fault == "refused":
            loop.outside(delay, self._answer, reply, HostUnreachable("the host cannot be reached"))
            return
        if fault in ("lost_request", "lost_reply", "late_request"):
            # The client learns of it by a broken connection, or never.
            gives_up = world.random.choice((delay, world.random.uniform(0.1, budget), budget * 2))
            loop.outside(gives_up, self._answer, reply, OutcomeUnknown("the connection was lost"))
        if fault == "lost_request":
            return
        if fault == "late_request":
            late, delay = True, budget * world.random.uniform(0.3, 1.0) + world.random.uniform(0.0, 45.0)
            if name == "create" and identity is not None:
                world.more_trouble(self._host, identity.machine_uuid)
        elif lease in world.unrenewed or fault == "slow":
            delay = self._slow(name, budget, lease)

        def arrive() -> None:
            if not world.reaches(self._process, self._host) or sent < self._host.deaf_to:
                return
            # An heir ends the lease of a process that has died, not what it had sent: such a request is a stray one.
            stray = late or not self._process.alive
            if not stray:
                self._judged(name, lease)
            world.note("call", self._process.name, self._host.name, name, identity and identity.machine_name, fault)
            result = _result(act, stray)
            if self._is_seen(name, fault) and fault not in ("lost_reply", "late_request"):
                loop.outside(world.latency(), self._come_back, reply, result)

        loop.outside(delay, arrive)

    def _is_seen(self, name: str, fault: str | None) -> bool:
        """Whether anybody is left who could be told of what the host has just done."""
        if name == "create" and self._world.fault("lost_witness"):
            self._world.lose_witness(self._process, self._host)
            return False
        if fault == "vanish" and name in EFFECTS:
            self._world.vanish(self._host)
            return False
        return True

    def _slow(self, name: str, budget: float, lease: tuple[str, int] | None) -> float:
        """Seconds that the request takes; where clocks are the theme, one of them may leap while it is on its way."""
        world = self._world
        if lease in world.unrenewed:
            return budget * world.random.uniform(0.5, 0.9)  # it may well outlast what is left of the lease
        delay = world.random.uniform(0.2, budget * 0.9)
        if world.theme == "clock" and name in EFFECTS and world.random.random() < 0.5:
            world.loop.outside(delay * 0.3, faults.leap, world)
        return delay

    def _judged(self, name: str, lease: tuple[str, int] | None) -> None:
        """The observer hears of a call that arrives as it was meant."""
        if lease is not None:
            self._world.observer.effect(name, lease)
        self._world.custodian.touched(name, self._host, self._host.uuid, self._process)

    def _come_back(self, reply: asyncio.Future[T], result: T | DriverError) -> None:
        if self._world.reaches(self._process, self._host):
            self._answer(reply, result)

    def _answer(self, reply: asyncio.Future[T], result: T | DriverError) -> None:
        if reply.done() or self._process.life is Life.DEAD:
            return
        if isinstance(result, DriverError):
            reply.set_exception(result)
        else:
            reply.set_result(result)


def _result(act: Callable[[bool], T], late: bool) -> T | DriverError:
    """What the host does and answers, in the words of drivers."""
    try:
        return act(late)
    except DriverError as error:
        return error
    except hosts.Conflict:
        return MachineConflict("the uuid is taken on this host")
    except hosts.Rejected:
        return HostRejected("bad_request", "there is no such machine to do this with")
    except hosts.Undying:
        return MachineGhost("the machine cannot be destroyed")

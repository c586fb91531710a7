"""Callers from outside: they deploy, repeat themselves, watch, look, delete, and believe only what was acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from service.app.groups import GroupFilter
from service.domain.events import Event, EventKind
from service.domain.specs import DeployRequest, GroupSpec, RoomMoves
from service.domain.tenants import Caller
from service.domain.updates import MemberChange, UpdateMode
from service.errors import (
    Conflict,
    CorralError,
    DeployFailed,
    InvalidArgument,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    RequestIdReused,
    RevisionUnavailable,
    Unavailable,
    Undecided,
    Unsatisfiable,
    WrongState,
)
from tests.simulation import updates
from tests.simulation.replica import Broken, Replica
from tests.simulation.world import World

T = TypeVar("T")
ME = Caller()
CALL_SECONDS = 10.0


@dataclass(slots=True)
class Order:
    """One group that a client wants, and what it was told about it. `lost`: an older database was put in its place."""

    request: DeployRequest
    at: float
    delete_after: float | None
    follows: bool
    repeats: bool
    manages: bool
    uuid: str = ""
    after_revision: int = 0
    deleted: bool = False
    refused: bool = False
    lost: bool = False
    events: list[Event] = field(default_factory=list)
    final: bool = False


class Client:
    """Works on one order until the run ends."""

    def __init__(self, world: World, order: Order) -> None:
        self.world = world
        self.order = order
        self.me = replace(ME, project=world.metal.project(order.request.spec.name))

    async def run(self) -> None:
        """Deploy, follow, repeat, delete."""
        order = self.order
        await asyncio.sleep(order.at)
        if not await self._deploy(order.request):
            return
        follower = asyncio.create_task(self._follow(), name="follow") if order.follows else None
        if order.repeats:
            await self._repeat()
        manager = asyncio.create_task(self._manage(), name="manage") if order.manages else None
        if self.world.theme == "leases":
            await self._unwanted(order.delete_after)
        elif order.delete_after is not None:
            await asyncio.sleep(order.delete_after)
            await self.delete()
        if manager is not None:
            await manager
        if follower is not None:
            await follower

    async def _unwanted(self, seconds: float | None) -> None:
        """Delete what is wanted no more, after so many seconds or when a process that worked on it has ended."""
        loop, world = self.world.loop, self.world
        end = float("inf") if seconds is None else loop.time() + seconds
        # Looking five times a second costs nothing in virtual time.
        while world.faulty and loop.time() < end and self.order.uuid not in world.unwanted:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        if loop.time() >= end or self.order.uuid in world.unwanted:
            await self.delete()

    async def delete(self) -> None:
        """Until it is acknowledged, or was already."""
        uuid = self.order.uuid
        with contextlib.suppress(NotFound):  # an earlier request arrived, and its answer was lost
            await self._insist(lambda r: r.groups.delete(self.me, uuid))
        self.order.deleted = True
        self.world.stats["deletes acknowledged"] += 1

    async def _deploy(self, request: DeployRequest, before: DeployRequest | None = None) -> bool:
        """`before`: what was asked for under the same id and refused; a late copy of it may be accepted yet."""
        try:
            started = await self._insist(lambda r: r.groups.deploy(self.me, request))
        except NotFound as error:
            # The group that it was to be apart from has not been accepted, or is long forgotten.
            policy = request.spec.placement
            if "anti_affinity" not in error.field:
                self.world.observer.violated("I5", f"a valid deploy was refused: {error!r}")
                return False
            spec = replace(request.spec, placement=replace(policy, anti_affinity_groups=()))
            self.order.request = replace(request, spec=spec)
            return await self._deploy(self.order.request, request)
        except RequestIdReused as error:
            if before is None:
                self.world.observer.violated("I5", f"a valid deploy was refused: {error!r}")
                return False
            self.order.request = before
            return await self._deploy(before)
        except QuotaExceeded:
            self.world.stats["deploys over quota"] += 1
            self.order.refused = True
            return False
        except CorralError as error:
            self.world.observer.violated("I5", f"a valid deploy was refused: {error!r}")
            return False
        self.order.uuid, self.order.after_revision = started.group.uuid, started.after_revision
        self.world.stats["deploys acknowledged"] += 1
        return True

    async def _repeat(self) -> None:
        """The same request id again, with the same body and with another."""
        order, request = self.order, self.order.request
        await asyncio.sleep(self.world.random.uniform(0.0, 10.0))
        try:
            again = await self._insist(lambda r: r.groups.deploy(self.me, request))
        except (QuotaExceeded, NotFound):  # as a group that it is to be apart from
            if order.lost:  # it is a new request to this database
                return
            raise
        if again.group.uuid != order.uuid and not order.lost:
            self.world.observer.violated("I7", f"{request.request_id} made {order.uuid} and {again.group.uuid}")
        other = replace(request, spec=replace(request.spec, description="another"))
        try:
            made = await self._insist(lambda r: r.groups.deploy(self.me, other))
            if not order.lost:
                self.world.observer.violated("I7", f"{request.request_id} with another body made {made.group.uuid}")
        except RequestIdReused:
            self.world.stats["repeats judged"] += 1
        except (QuotaExceeded, NotFound):
            if not order.lost:
                raise

    async def _manage(self) -> None:
        """Stop, start, restart, scale while faults last; what the state forbids is refused, and that is that."""
        dice, uuid = self.world.random, self.order.uuid
        while self.world.faulty:
            await asyncio.sleep(dice.uniform(2.0, 15.0))
            kind = dice.choice(("stop", "start", "start", "restart", "scale"))
            if self.world.theme == updates.THEME and dice.random() < 0.8:
                kind = dice.choice(("update", "update", "taking back"))
            try:
                if kind == "scale":
                    await self._scale(uuid)
                elif kind == "update":
                    changes, mode = updates.change(dice)
                    await self._insist(partial(_rollout, uuid, changes, mode))
                elif kind == "taking back":
                    await self._insist(lambda r: r.groups.roll_back(self.me, uuid))
                else:
                    await self._insist(lambda r, kind=kind: getattr(r.groups, kind)(self.me, uuid))  # type: ignore[misc]
                self.world.stats[f"{kind}s accepted"] += 1
            except (WrongState, NotFound, InvalidArgument):
                continue
            except (NoCapacity, Unsatisfiable, Undecided, QuotaExceeded):
                self.world.stats[f"{kind}s without room"] += 1

    async def _scale(self, uuid: str) -> None:
        group = await self._insist(lambda r: r.groups.get(self.me, uuid))
        dice = self.world.random
        leaving = [m.uuid for m in group.instances if m.rank and dice.random() < 0.4]
        node = replace(self.order.request.spec.nodes[0], name="", is_initial_node=False, node_rank=-1)
        joining = [node] * dice.choice((0, 1, 1, 2))
        room = dice.choice((RoomMoves.LIVE, RoomMoves.RESTART)) if self.world.theme == "room" else None
        room = RoomMoves.EVICT if self.world.theme == "evict" else room
        await self._insist(lambda r: r.groups.scale(self.me, uuid, joining, leaving, make_room=room))

    async def _insist(self, call: Callable[[Replica], Coroutine[Any, Any, T]]) -> T:
        """Call one replica after the other until one answers. Raises what the service refuses."""
        while True:
            replica = self.world.random.choice(self.world.replicas)
            if not replica.serving or not replica.process.alive:
                await asyncio.sleep(0.2)
                continue
            try:
                return await replica.call(call(replica), CALL_SECONDS)
            except (Broken, TimeoutError, Unavailable, Conflict):
                await asyncio.sleep(self.world.random.uniform(0.1, 1.0))

    async def _follow(self) -> None:
        """Read the deploy's events to their end, going on elsewhere where a stream breaks."""
        order = self.order
        cursor = order.after_revision
        while not order.final and not order.lost:
            replica = self.world.random.choice(self.world.replicas)

            async def read(replica: Replica = replica, after: int = cursor) -> None:
                async with aclosing(replica.groups.follow(order.uuid, after)) as events:
                    async for event in events:
                        self._told(event)

            try:
                await replica.call(read(), self.world.random.uniform(2.0, 60.0))
            except (Broken, TimeoutError, Unavailable):
                await asyncio.sleep(0.5)
            except (NoCapacity, Unsatisfiable, DeployFailed, QuotaExceeded, Undecided):
                pass
            except NotFound:
                if not order.lost:
                    raise
            except RevisionUnavailable as error:
                if not self.order.lost:
                    self.world.observer.violated("I6", f"the stream of {order.uuid} cannot go on: {error}")
                return
            if order.events:
                cursor = order.events[-1].revision

    def _told(self, event: Event) -> None:
        order = self.order
        if order.final or order.lost:
            return
        if order.events and event.revision <= order.events[-1].revision:
            return  # a stream that was given up told it too
        expected = order.events[-1].sequence + 1 if order.events else 1
        if event.sequence != expected:
            self.world.observer.violated(
                "I6", f"the stream of {order.uuid} has sequence {event.sequence} where {expected} comes next"
            )
        order.events.append(event)
        if event.kind is EventKind.FINAL:
            order.final = True
            self.world.stats["streams ended"] += 1


async def _rollout(uuid: str, changes: list[MemberChange], mode: UpdateMode, replica: Replica) -> object:
    return await replica.groups.rollout(ME, uuid, changes, mode)


async def browse(world: World, spec: Callable[[], GroupSpec]) -> None:
    """Plan, list, get and watch now and then; answers must be consistent in themselves."""
    while True:
        await asyncio.sleep(world.random.uniform(3.0, 20.0))
        replica = world.random.choice(world.replicas)
        if not replica.serving or not replica.process.alive:
            continue
        try:
            await _look(world, replica, spec)
            world.stats["looks"] += 1
        except (Broken, TimeoutError, CorralError):
            continue


async def _look(world: World, replica: Replica, spec: Callable[[], GroupSpec]) -> None:
    groups = replica.groups
    kind = world.random.choice(("plan", "list", "get", "watch"))
    if kind == "plan":
        await replica.call(groups.plan(ME, DeployRequest(spec())), CALL_SECONDS)
        return
    page = await replica.call(groups.list(ME, GroupFilter(), 0, ""), CALL_SECONDS)
    if kind == "get" and page.groups:
        await replica.call(groups.get(ME, page.groups[0].uuid), CALL_SECONDS)
    if kind == "watch":
        await replica.call(_watch(world, groups.watch(ME, None, None)), 30.0)


async def _watch(world: World, changes: AsyncGenerator[Any, None]) -> None:
    last = 0
    async with aclosing(changes):
        async for change in changes:
            if isinstance(change, Event):
                if change.revision <= last:
                    world.observer.violated("I6", f"a watch told revision {change.revision} after {last}")
                last = change.revision

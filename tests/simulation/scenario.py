"""One run from a seed: a fleet, replicas, callers, faults for a while, then peace, and the verdict."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction

from service import failpoints
from service.domain.catalog import Image, ModelService
from service.domain.cells import NumaPolicy
from service.domain.fleet import BARE_METAL, MEMORY, VCPU, Bmc, Fencing, Host, HostAddress, Overcommit, Zone
from service.domain.network import Network
from service.domain.specs import (
    CreationStrategy,
    DeployRequest,
    FailurePolicy,
    GroupSpec,
    MachineType,
    NodeSpec,
    PlacementPolicy,
)
from tests.simulation import boards, card_faults, cards, faults, guests, orders_of, restoring, room_orders, updates
from tests.simulation.balancer import Balancer
from tests.simulation.clients import Client, Order, browse
from tests.simulation.hosts import TOMBSTONE, SimulatedMachineHost
from tests.simulation.loop import Killed, Stuck
from tests.simulation.operators import Operator
from tests.simulation.removals import Remover
from tests.simulation.replica import FLEET_CHANGES, Fleet, Replica, install
from tests.simulation.warden import Warden
from tests.simulation.world import World

GIB = 1 << 30
ZONE = "a" * 32
ENTRY = "c" * 32
THEMES = {
    "": 38,
    "balance": 4,
    "room": 6,
    "restore": 12,
    "strangers": 12,
    "clock": 10,
    "removal": 8,
    "moves": 10,
    "metal": 0,
    "cells": 0,
    "leases": 0,
    "fence": 0,
    "wait": 0,
    orders_of.EVICT: 0,
    updates.THEME: 0,
    guests.THEME: 0,
    cards.THEME: 0,
}
"""What a seed is about beside the faults that all seeds have: theme -> how many seeds in a hundred."""
MOVING = ("moves", "room", "balance")
SETTLE_SECONDS = 300.0
"""Longer than a lease (45 s), the longest late call (75 s), a boot's deadline (15 s) and three attempts together."""
CALM_SECONDS = 2.0
FORGET_SECONDS = 180.0
"""A tombstone stays for 120 s after a sweep saw it first, and a sweep comes every 10 s."""


@dataclass(slots=True)
class Result:
    """What came of a seed."""

    seed: int
    violations: list[str]
    timeline: list[tuple[object, ...]]
    stats: Counter[str]
    passed: Counter[str]
    virtual_seconds: float

    @property
    def digest(self) -> str:
        """Two runs of a seed are the same if this is."""
        import hashlib

        return hashlib.sha256(repr(self.timeline).encode()).hexdigest()


def run(seed: int, theme: str = "") -> Result:
    """Run one seed. Never raises for a violation: the result tells of it. `theme`: in place of the seed's own."""
    install()
    gc.disable()
    world = World(seed)
    drawn = world.random.choices(tuple(THEMES), tuple(THEMES.values()))[0]
    world.theme = theme or drawn or (boards.THEME if boards.drawn(seed) else "")
    world.theme = world.theme or (updates.THEME if updates.drawn(seed) else "")
    failpoints.install(world.point)
    alarm = _Alarm(world)
    logging.getLogger("service").addHandler(alarm)
    world.loop.set_exception_handler(lambda _loop, context: _unhandled(world, context))
    try:
        world.loop.run_until_complete(_play(world))
    except Stuck:
        world.observer.violated("sim", "nothing is left that could run")
    finally:
        failpoints.install(None)
        logging.getLogger("service").removeHandler(alarm)
        elapsed = world.loop.time() - 1_000.0
        world.loop.bury()
        gc.enable()
    return Result(seed, world.observer.violations, world.timeline, world.stats, world.passed, elapsed)


_TELLS = (
    "service.reconcile.monitor", "service.reconcile.sweep", "service.reconcile.custody",
    "service.reconcile.failing_devices", "service.reconcile.moves",
)  # fmt: skip
"""What these find on hosts is told as an error, and is none of the service's own."""


class _Alarm(logging.Handler):
    """What the service logs as an error is a bug: a task that broke, an invariant of its own that does not hold."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        error = record.exc_info[1] if record.exc_info else None
        expected = record.name in _TELLS and (self._world.theme in FLEET_CHANGES or self._world.cards.drawn)
        if not isinstance(error, Killed) and not expected:
            self._world.observer.alarmed(f"{record.getMessage()}: {error!r}")


def _unhandled(world: World, context: dict[str, object]) -> None:
    error = context.get("exception")
    if isinstance(error, Exception):
        world.note("unhandled", repr(error), str(context.get("message")))


async def _play(world: World) -> None:
    dice = world.random
    configured = _fleet(world)
    world.replicas += [Replica(world, f"r{i}", configured) for i in range(dice.choice((2, 2, 3)))]
    faults.draw(world)
    if world.theme == "metal":
        faults.draw_cleanings(world)
    for replica in world.replicas:
        world.loop.outside(dice.uniform(0.0, 2.0), replica.start)
    if world.theme == "removal":
        configured.leave_to_run_time(world)
    length = world.copies.length(_length(world))
    orders = _orders(world, length)
    clients = [Client(world, order) for order in orders]
    tasks = [asyncio.create_task(c.run(), name="client") for c in clients]
    tasks.append(asyncio.create_task(browse(world, lambda: _spec(world, "plan", [])), name="browse"))
    storm = asyncio.create_task(faults.storm(world), name="storm")
    if world.cards.drawn:
        keeper = card_faults.Keeper(world)
        tasks += [asyncio.create_task(w, name="devices") for w in (card_faults.storm(world), keeper.run())]
    if world.theme == boards.THEME:
        tasks += [asyncio.create_task(w(world), name="deaths") for w in (faults.deaths, faults.half_deaths)]
    operator = {"removal": Remover, "balance": Balancer}.get(world.theme, Operator)(world)
    busy = dice.random() < (0.3 if world.theme == "room" else 0.5) or world.theme in ("removal", "moves", "balance")
    works = asyncio.create_task(operator.run(), name="operator") if busy else None
    warden = Warden(world, operator)
    if world.theme in FLEET_CHANGES:
        tasks.append(asyncio.create_task(warden.run(until_peace=True), name="warden"))
    if world.theme == "restore":
        tasks.append(asyncio.create_task(_goes_back(world, clients, length), name="backup"))
    await asyncio.sleep(length)
    storm.cancel()
    faults.stop(world)
    if works is not None:
        await asyncio.wait([works])
        tasks.append(works)
    if world.theme in FLEET_CHANGES:
        tasks.append(asyncio.create_task(warden.run(until_peace=False), name="warden"))
    await _settle(world, clients, operator)
    for task in tasks:
        task.cancel()
        if task.done() and not task.cancelled() and task.exception() is not None:
            world.observer.violated("sim", f"a {task.get_name()} broke: {task.exception()!r}")


def _length(world: World) -> float:
    """For how many seconds there are faults."""
    dice = world.random
    length = dice.uniform(30.0, 70.0)
    if dice.random() < 0.35:
        faults.draw_stale(world)
        length = 90.0
    if world.theme in FLEET_CHANGES or world.theme in MOVING:
        return 90.0
    return boards.length(world.seed, dice) if world.theme == boards.THEME else world.metal.length(length)


async def _goes_back(world: World, clients: list[Client], length: float) -> None:
    """A backup is taken, and put in the database's place a while later."""
    dice = world.random
    await asyncio.sleep(dice.uniform(4.0, length / 2))
    backup = restoring.save(world)
    await asyncio.sleep(dice.uniform(2.0, length / 2 - 5.0))
    restoring.put_back(world, backup, clients)


async def _settle(world: World, clients: list[Client], operator: Operator) -> None:
    """No more faults: everything must come to rest, first with hosts drained, then with all of them enabled.

    In half of the runs everything is deleted then.
    """
    await operator.restore_fleet()
    if world.database.rows("SELECT 1 FROM hosts WHERE state != 'Enabled'"):
        await _until_calm(world, clients)
        if not world.observer.found:
            await operator.enable_all()
    await _until_calm(world, clients)
    if world.theme == guests.THEME and not world.observer.found:
        await guests.ail(world)
        await _until_calm(world, clients)
    world.stats["running"] += len(world.observer.reached)
    world.stats["groups"] += len(clients)
    if world.random.random() < 0.5 and not world.observer.violations:
        for client in clients:
            if client.order.refused:  # one of its requests may have arrived later, when the quota had room for it
                late = f"SELECT group_uuid FROM requests WHERE request_id = '{client.order.request.request_id}'"
                client.order.uuid = next((uuid for (uuid,) in world.database.rows(late)), "")
        await _delete_all(world, clients, operator)
        await _until_calm(world, clients)
        if world.random.random() < 0.1:
            await asyncio.sleep(FORGET_SECONDS)
            for host in world.hosts.values():
                if left := [m for m in host.machines.values() if m.ours]:
                    world.observer.violated("I10", f"{len(left)} tombstones are left on {host.name}")
        for table in ("claims", "addresses", "bookings"):
            held = {of for (of,) in world.database.rows(f"SELECT instance_uuid FROM {table}")} - world.metal.cleaners()
            if count := len(held):
                world.observer.violated("I10", f"{count} {table} are left when all groups are deleted")


async def _delete_all(world: World, clients: list[Client], operator: Operator) -> None:
    """What clients know of they delete themselves."""
    deletes = [c.delete() for c in clients if c.order.uuid and (c.order.lost or not c.order.deleted)]
    await asyncio.gather(*deletes)
    if world.restored:  # of some that were made twice, or came back, no client knows
        for (uuid,) in world.database.rows("SELECT uuid FROM groups WHERE phase != 'deleted' ORDER BY uuid"):
            await operator.delete(uuid)


async def _until_calm(world: World, clients: list[Client]) -> None:
    calm = 0.0
    end = world.loop.time() + SETTLE_SECONDS
    while calm < CALM_SECONDS:
        await asyncio.sleep(1.0)
        if world.observer.found:
            return
        rest = world.unsettled() or world.custodian.strangers() or _unserved(world, clients)
        calm = 0.0 if rest else calm + 1.0
        if world.loop.time() > end:
            for what in rest[:6] or ["it does not stay calm"]:
                world.observer.violated("I5", f"not at rest {SETTLE_SECONDS:g} s after the last fault: {what}")
            return


def _unserved(world: World, clients: list[Client]) -> list[str]:
    """Acknowledged deploys that the database does not know, streams that have not ended, volumes without a machine."""
    twice = "SELECT name, count(*) FROM groups GROUP BY name HAVING count(*) > 1"
    for name, count in world.database.rows(twice) if not world.restored else ():
        world.observer.violated("I7", f"the one request for {name} made {count} groups")
    phases = dict(world.database.rows("SELECT uuid, phase FROM groups"))
    waiting = {uuid for (uuid,) in world.database.rows("SELECT uuid FROM groups WHERE status = 'Waiting'")}
    # A member may be stopped in the middle of its first create: the volume is what it starts from, or goes with it.
    stopped = world.database.rows("SELECT host_uuid, uuid, attempt FROM instances WHERE status = 'Stopped'")
    kept = {(host, f"{instance}.{attempt}") for host, instance, attempt in stopped}
    found = [
        f"volume {volume} of {host.name} has no machine"
        for uuid, host in world.hosts.items()
        for volume, owner in host.volumes.items()
        if (owner not in host.machines or host.machines[owner].state == TOMBSTONE)
        and (uuid, ".".join(volume.split(".")[2:4])) not in kept
    ]
    for client in clients:
        order = client.order
        if order.lost and order.uuid not in phases:
            continue  # it was deployed after the backup, and no machine of it was left to tell of it
        if order.refused and not order.uuid:
            continue
        if not order.uuid:
            found.append(f"{order.request.request_id} is not acknowledged")
        elif order.uuid not in phases:
            world.observer.violated("I5", f"the acknowledged group {order.uuid} is forgotten")
        elif order.deleted and not order.lost and phases[order.uuid] != "deleted":
            found.append(f"{order.uuid} is {phases[order.uuid]} and its deletion was acknowledged")
        elif order.uuid in waiting:
            continue  # for hosts, as its caller has it: its stream goes on
        elif order.follows and not order.final and not order.refused and not order.lost:
            found.append(f"the stream of {order.uuid} has not ended")
    return found


# --- what there is ----------------------------------------------------------------------------------------------------


def _fleet(world: World) -> Fleet:
    dice = world.random
    world.pinned.draw(world.seed, world.theme)
    world.cards.draw(world.seed, world.theme)
    tight = dice.random() < 0.4 and world.theme not in MOVING
    addresses = dice.random() < 0.5 or world.theme == guests.THEME
    count = dice.choice((2, 3, 3, 4, 4, 5, 6)) if dice.random() < 0.94 else dice.choice((10, 12, 24))
    room = world.theme in ("room", "balance", "wait", orders_of.EVICT)  # alike hosts, of which few are empty
    fences = world.theme == boards.THEME
    count = 2 + count % 3 if room else boards.fewest(world.seed) + count % 4 if fences else count
    zone = Zone(
        ZONE,
        "zone",
        network=Network("bridge", "br0", "10.0.0.0/24", "10.0.0.1", "10.0.0.10", "10.0.0.40")
        if addresses
        else Network(),
        overcommit=Overcommit(
            {VCPU: Fraction(1 if room else dice.choice((1, 2))), MEMORY: Fraction(1 + world.cards.twice)}, {MEMORY: GIB}
        ),
    )
    hosts = {}
    devices: dict[tuple[str, str], int] = {}
    for number in range(count):
        uuid = f"{number + 1:032x}"
        total = {
            VCPU: room_orders.VCPUS if room else dice.choice((2, 4) if tight else (8, 16)),
            MEMORY: dice.choice((5, 9) if tight else (17, 33)) * GIB,
        }
        board = Bmc(HostAddress("redfish", "tls", uuid), Fencing.AUTO) if fences else None
        hosts[uuid] = Host(uuid, f"host{number}", ZONE, HostAddress("simulated", address=uuid), bmc=board)
        world.hosts[uuid] = SimulatedMachineHost(
            uuid, f"host{number}", ZONE, world.pinned.divide(total), world.loop.time, world.changed
        )
        devices |= {(uuid, name): amount for name, amount in world.cards.fill(world.hosts[uuid]).items()}
    if fences:
        world.boards.make(world.seed)
    for number, total in enumerate(world.metal.draw(world.seed, world.theme), count):
        uuid, name = f"{number + 1:032x}", f"metal{number}"
        how = {"clean": "metadata"} if world.theme == "metal" else {}
        hosts[uuid] = Host(uuid, name, ZONE, HostAddress("simulated", options=how), machine_type=BARE_METAL)
        world.hosts[uuid] = SimulatedMachineHost(uuid, name, ZONE, total, world.loop.time, world.changed)
        world.metal.totals[uuid] = total
    entry = ModelService(ENTRY, "entry", Image("image"), boot_timeout_ms=15_000, stop_grace_ms=dice.choice((0, 2_000)))
    if addresses and (needs_fellows(world.seed) or world.theme == guests.THEME):
        entry = replace(entry, framework="torchrun", initial_command="serve")
    catalogue = world.copies.catalogue(entry)
    quota = {VCPU: dice.choice((3, 5, 8))} if dice.random() < 0.25 and not room else {}
    quota = quota if world.theme != "metal" else {}  # several projects, of which a quota would be one's
    configured = Fleet({ZONE: zone}, hosts, catalogue, quota, card_faults.RULES if world.cards.drawn else None)
    world.observer.quota = quota
    ratio = zone.overcommit.ratios[VCPU]
    # Of the GiB that is reserved each of two cells has half.
    reserved = {MEMORY: GIB, "cell.0.memory": GIB // 2, "cell.1.memory": GIB // 2}
    world.observer.usable = {
        (h.uuid, name): int(
            (amount - reserved.get(name, 0)) * (ratio if name.endswith(VCPU) else 1 + world.cards.twice)
        )
        for h in world.hosts.values()
        for name, amount in h.total.items()
    }
    whole = {(uuid, name): amount for uuid, total in world.metal.totals.items() for name, amount in total.items()}
    world.observer.usable = {**world.observer.usable, **whole, **devices}
    return configured


def needs_fellows(seed: int) -> bool:
    """Whether what is served is, where the zone has addresses, an engine whose members cannot do without each other.

    Those that go on running are then told of each start. Of dice of its own, so that all else in a seed is the same.
    """
    return random.Random(f"framework {seed}").random() < 0.5


def _orders(world: World, length: float) -> list[Order]:
    dice = world.random
    early = world.theme in MOVING  # what is there early, and stays, is moved often
    length = length / 3 if early else length
    orders: list[Order] = []
    known: list[str] = []
    burst = dice.uniform(2.5, 10.0) if dice.random() < 0.4 else None
    for number in range(dice.choice((3, 4, 5) if early else (1, 2, 3, 4, 5))):
        uuid = world.new_uuid() if dice.random() < 0.4 else ""
        request = DeployRequest(_spec(world, f"g{number}", known), uuid, f"request-{number}")
        if uuid and world.theme != "metal":  # whose groups are of several projects, which see nothing of each other
            known.append(uuid)
        odds = world.metal.odds(0.1 if early else 0.35)
        delete_after = dice.uniform(0.0, length / 2) if dice.random() < odds else None
        orders.append(
            Order(
                request,
                burst + dice.uniform(0.0, 0.05) if burst else dice.uniform(0.5, length / 2),
                delete_after,
                follows=dice.random() < 0.5,
                repeats=dice.random() < 0.3,
                manages=dice.random() < 0.4 or world.theme == updates.THEME,
            )
        )
    if world.theme == "balance":
        small = room_orders.small(world, _spec, ENTRY)
        return [_without_rules(order) if dice.random() < 0.6 else order for order in small]
    return orders_of.own(world, length, _spec, ENTRY) or orders


def _without_rules(order: Order) -> Order:
    """The same for members that may be anywhere."""
    spec = replace(order.request.spec, placement=PlacementPolicy())
    return replace(order, request=replace(order.request, spec=spec))


def _spec(world: World, name: str, known: list[str]) -> GroupSpec:
    dice: random.Random = world.random
    nodes = tuple(
        NodeSpec(f"n{rank}", ENTRY, "", dice.choice((1, 1, 2)), dice.choice((1, 1, 2)) * GIB)
        for rank in range(dice.choice((1, 2, 3, 4)))
    )
    # Of dice of its own, so that all else in a seed is the same with roles and without.
    parts = random.Random(f"{name} {nodes}")
    if len(nodes) > 1 and parts.random() < 0.4:
        waves = [parts.randint(0, 2) for _ in nodes]
        nodes = tuple(replace(n, role=f"r{wave}", start_order=wave) for n, wave in zip(nodes, waves, strict=True))
    nodes = world.copies.asked(name, card_faults.asked(world, name, nodes))
    if world.metal.totals:
        nodes = tuple(replace(n, type=MachineType.BARE_METAL) if parts.random() < 0.4 else n for n in nodes)
    policy = PlacementPolicy(
        max_per_host=dice.choice((0, 0, 1, 2)),
        exclusive_hosts=dice.random() < 0.1,
        anti_affinity_groups=(dice.choice(known),) if known and dice.random() < 0.3 else (),
        numa=NumaPolicy(world.pinned.policy(name)),
    )
    return GroupSpec(
        name,
        nodes,
        dice.choice(tuple(CreationStrategy)),
        failure_policy=dice.choice((*FailurePolicy, FailurePolicy.REPLACE_MEMBER)),
        failure_budget=dice.choice((0, 2, 5, 5)),
        placement=policy,
        deadline_ms=dice.choice((0, 0, 60_000, 200_000)),
    )


__all__ = ["Result", "run"]

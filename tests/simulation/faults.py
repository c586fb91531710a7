"""Which faults a seed has, and when: a few kinds at a time, so that rare combinations are not drowned in noise."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from service.failpoints import NAMES
from tests.simulation import card_faults, hosts, strangers
from tests.simulation.boards import WATCH_SECONDS, from_one, in_turn
from tests.simulation.hosts import SimulatedMachineHost
from tests.simulation.loop import Life
from tests.simulation.world import CALL_FAULTS, DATABASE_FAULTS, HOST_FAULTS, PointFault, World

HOUR = 3600.0
STORMS = ("crash", "freeze", "partition", "isolate", "reboot", "tamper", "foreign", "clock", "database", "severed")
AWAITS = (
    *(
        f"{name}.{side}"
        for name in ("db.write", "db.read", "create", "resume", "resume", "observe", "list", "probe", "remove",
                     "shutdown", "power_off", "entomb", "clear", "volumes", "delete_volume", "migrate",
                     "abort_migration")
        for side in ("request", "reply")
    ),
    "planner.reply",
)  # fmt: skip
"""Where a coroutine of the service leaves the process: before it asks, and after the answer came.

A resume twice as often as others: what it begins cannot be taken back.
"""
FENCES = tuple(sorted(name for name in NAMES if name.startswith("fence.")))
CLEANINGS = tuple(sorted(name for name in NAMES if name.startswith("clean.")))
# Hosts of most seeds have every image: these points are passed in tests/service/reconcile.
IMAGES = tuple(sorted(name for name in NAMES if name.startswith(("staging.", "copies."))))
# Passed on PostgreSQL alone.
TOGETHER = frozenset(name for name in NAMES if name.startswith("together."))
POINTS = (*AWAITS, *sorted(NAMES - TOGETHER - set(FENCES) - set(IMAGES) - set(CLEANINGS)))
SCALE = {"ghost": 0.3, "no_memory": 0.3, "bad_boot": 3.0, "late_create": 4.0,
         "lost_resume": 2.0, "other_device": 4.0}  # fmt: skip
"""What the rate of a kind is multiplied by: some kinds have their only chance once in a machine's life."""
OFTEN = ("db.", "transaction.", "feed.", "change.", "monitor.", "probe.", "list.", "observe.", "sweep.listed",
         "sweep.compared", "worker.")  # fmt: skip


def draw(world: World) -> None:
    """Choose rates of faults in calls, and named points at which something happens."""
    dice = world.random
    for kind in (*CALL_FAULTS, *HOST_FAULTS, *DATABASE_FAULTS, "lost_answer", "late_create", "lost_resume",
                 *(["other_device"] if world.cards.drawn else [])):  # fmt: skip
        if dice.random() < (0.2 if world.theme in ("moves", "room", "balance") else 0.4):
            world.rates[kind] = dice.choice((0.01, 0.03, 0.1)) * SCALE.get(kind, 1.0)
    if world.theme == "clock":
        world.rates["slow"] = 0.1  # a leap comes while one is under way
    if world.theme == "devices":  # a machine with another's device is seldom made otherwise
        world.rates["other_device"] = 0.2
    if world.theme == "leases":  # little of a lease is left when a call begins, and the call is long
        world.rates["slow"], world.rates["late_commit"] = 0.1, 0.2
        world.rates["lost_witness"] = 0.1
        world.rates["late_deploy"] = 0.5
    for _ in range(dice.choice((0, 1, 2, 4, 8))):
        name = dice.choice(POINTS)
        nth = 1 + int(dice.expovariate(0.01 if name.startswith(OFTEN) else 0.4))
        action = dice.choice(("crash", "crash", "crash", "freeze", "jump"))
        seconds = dice.choice((0.5, 5.0, 20.0, 50.0, 70.0)) if action != "jump" else dice.uniform(-90.0, 90.0)
        world.planned[name] = PointFault(nth, action, seconds)


def draw_cleanings(world: World) -> None:
    """Processes end in the middle of the cleaning of machines. Of dice of its own, so that all else is the same."""
    dice = random.Random(f"cleanings {world.seed}")
    for name in dice.sample(CLEANINGS, 3):
        action = dice.choice(("crash", "crash", "freeze"))
        world.planned[name] = PointFault(1 + int(dice.expovariate(0.7)), action, dice.choice((0.5, 20.0, 50.0, 70.0)))


async def deaths(world: World) -> None:
    """Hosts fall silent for long, alone or together, by power or by network; and processes end in the middle of it."""
    dice = world.random
    for name in dice.sample(FENCES, 3):
        action = dice.choice(("crash", "crash", "freeze"))
        world.planned[name] = PointFault(1 + int(dice.expovariate(0.7)), action, dice.choice((0.5, 20.0, 50.0, 70.0)))
    if in_turn(world.seed):
        await _deaths_in_turn(world)
        return
    if from_one(world.seed):
        await _silence_to_one(world)
        return
    while world.faulty:
        world.boards.watch()
        await asyncio.sleep(WATCH_SECONDS)
        if dice.random() > 1 / 45:
            continue
        count = dice.choice((1, 1, 1, 1, 2, 3))
        together = dice.sample(list(world.hosts.values()), min(count, len(world.hosts)))
        world.stats["hosts fell silent"] += len(together)
        seconds = dice.choice((40.0, 90.0, 150.0, 300.0))
        for host in together:
            if dice.random() < 0.7:
                _cut(world, "*", host, seconds)
            elif host.up:
                world.note("dies", host.name)
                host.power_off("death")
                world.loop.outside(seconds, host.boot, "operator")


async def _deaths_in_turn(world: World) -> None:
    """One host after the other falls silent for good, with members on it, and is given the time to be fenced."""
    dice, gone = world.random, set()
    await asyncio.sleep(dice.uniform(20.0, 40.0))
    until = 0.0
    while world.faulty:
        world.boards.watch()
        await asyncio.sleep(WATCH_SECONDS)
        left = [
            h for h in world.hosts.values() if h.up and h.name not in gone and any(m.ours for m in h.machines.values())
        ]
        if world.loop.time() < until or not left:
            continue
        until = world.loop.time() + 110.0
        host = dice.choice(left)
        gone.add(host.name)
        world.stats["hosts fell silent"] += 1
        _cut(world, "*", host, 600.0)


async def _silence_to_one(world: World) -> None:
    """One host with members at a time: one replica does not reach it, as others do, or its hypervisor's daemon stops
    while its guests run. Who alone sees a silent host is the one that judges it."""
    dice = world.random
    await asyncio.sleep(dice.uniform(10.0, 25.0))
    until = 0.0
    while world.faulty:
        world.boards.watch()
        await asyncio.sleep(WATCH_SECONDS)
        lived_on = [h for h in world.hosts.values() for m in h.machines.values() if h.up and m.state == hosts.RUNNING]
        if world.loop.time() < until or not lived_on:
            continue
        until = world.loop.time() + 130.0
        who = dice.choice(("daemon", *(r.name for r in world.replicas)))
        _half_death(world, who, dice.choice(lived_on), 120.0)


async def half_deaths(world: World) -> None:
    """Beside all else: hosts that one replica alone does not reach, and hosts whose hypervisor's daemon stops while
    their guests run. Of dice of its own, so that all else in a seed is the same."""
    dice = random.Random(f"half deaths {world.seed}")
    while world.faulty and not in_turn(world.seed) and not from_one(world.seed):
        await asyncio.sleep(WATCH_SECONDS)
        if dice.random() > 1 / 60:
            continue
        host = dice.choice(list(world.hosts.values()))
        who = dice.choice(("daemon", *(r.name for r in world.replicas)))
        _half_death(world, who, host, dice.choice((90.0, 150.0, 300.0)))


def _half_death(world: World, who: str, host: SimulatedMachineHost, seconds: float) -> None:
    world.stats["a daemon stopped" if who == "daemon" else "one replica was cut off a host"] += 1
    _cut(world, who, host, seconds)


def draw_stale(world: World) -> None:
    """One process stops right before it acts, for longer than its lease; when it goes on, another has taken over."""
    dice = world.random
    name = dice.choice(("worker.outcomes", "worker.outcomes", "worker.outcomes", "worker.planned", "worker.starting",
                        "worker.starting", "db.write.request", "db.read.request", "create.before", "resume.before",
                        "remove.before", "transaction.committed"))  # fmt: skip
    nth = 1 + int(dice.expovariate(0.05 if name.startswith(("db.", "transaction.")) else 0.25))
    world.planned[name] = PointFault(nth, "freeze", dice.uniform(47.0, 70.0))


async def storm(world: World) -> None:
    """Now and then something happens, of the few kinds that this seed has."""
    dice = world.random
    kinds = [k for k in STORMS if dice.random() < 0.35]
    if world.theme in ("moves", "room", "balance"):  # these have mishaps of their own
        kinds = [k for k in kinds if dice.random() < 0.5]
    if world.theme == "fence":  # what is mended by hand has a theme of its own
        kinds = [k for k in kinds if k not in ("isolate", "reboot") and dice.random() < 0.5]
    if world.theme == "strangers":
        kinds = [k for k in kinds if dice.random() < 0.5] + ["stranger"] * 3
    if world.theme == "restore":  # members that are placed anew after the backup
        kinds += ["tamper"] * 2
    if world.theme == "clock":
        kinds = [k for k in kinds if dice.random() < 0.5] + ["database_clock"] * 2
    if world.theme == "leases":
        kinds = [k for k in kinds if dice.random() < 0.5] + ["severed"]
    pause = dice.choice((3.0, 8.0, 20.0))
    while kinds:
        await asyncio.sleep(dice.expovariate(1.0 / pause))
        kind = dice.choice(kinds)
        world.stats[f"fault {kind}"] += 1
        if kind == "stranger":
            strangers.appear(world)
        elif kind == "database_clock":
            set_clock(world, dice.choice((dice.uniform(-HOUR, HOUR), dice.uniform(-90.0, 90.0), HOUR, 0.0)))
        else:
            _strike(world, kind)


def _strike(world: World, kind: str) -> None:
    dice = world.random
    replica = dice.choice(world.replicas)
    host = dice.choice(list(world.hosts.values()))
    seconds = dice.choice((0.3, 2.0, 8.0, 20.0, 50.0, 65.0))
    if kind == "crash":
        replica.crash(seconds)
    elif kind == "freeze" and replica.process.life is Life.RUNNING:
        replica.freeze(seconds)
    elif kind == "clock":
        replica.jump_clock(dice.uniform(-90.0, 90.0))
    elif kind == "partition":
        _cut(world, replica.name, host, seconds)
    elif kind == "severed":
        world.sever(replica.name, seconds)
    elif kind == "isolate":
        _cut(world, "*", host, seconds)
    elif kind == "reboot":
        world.note("reboot", host.name)
        if host.up:
            host.power_off("reboot")
            world.loop.outside(seconds / 2, host.boot, "reboot")
    elif kind == "foreign":
        host.foreign[f"f{len(host.foreign)}"] = (1, 1 << 30)
    elif kind == "database":
        world.note("database down", seconds)
        world.database.available = False
        world.loop.outside(min(seconds, 20.0), _database_back, world)
    elif kind == "tamper":
        _tamper(world, host)


CLOCK = "the database's clock"
"""What the timeline says where it was set."""


def set_clock(world: World, seconds: float) -> None:
    """The clock of the database's server is that much ahead of the true time from now on."""
    world.note(CLOCK, seconds)
    world.database_clock_ms = int(seconds * 1000)


def leap(world: World) -> None:
    """The clock of the database's server is set ahead, past every lease; at times before the eyes of nobody, since one
    replica does not reach the database just then, and another has yet to begin."""
    if not world.faulty:
        return
    dice = world.random
    if len(world.replicas) > 1 and dice.random() < 0.3:
        one, other = dice.sample(world.replicas, 2)
        world.sever(one.name, 8.0)
        other.crash(dice.uniform(0.3, 2.0))
    set_clock(world, world.database_clock_ms / 1000 + dice.choice((90.0, HOUR)))


def _cut(world: World, name: str, host: SimulatedMachineHost, seconds: float) -> None:
    world.note("cut", name, host.name, seconds)
    world.cut.add((name, host.uuid))
    world.loop.outside(seconds, world.cut.discard, (name, host.uuid))


def _database_back(world: World) -> None:
    world.database.available = True


def _tamper(world: World, host: SimulatedMachineHost) -> None:
    """Somebody with an account on the host does something to one of our machines."""
    dice = world.random
    alive = [m for m in host.machines.values() if m.state not in (hosts.TOMBSTONE, hosts.GHOST) and not m.arriving]
    ours = [m for m in alive if m.ours]
    if not ours:
        return
    machine = dice.choice(ours)
    what = dice.choice(("destroy", "remove", "run", "pause"))
    world.note("tamper", host.name, what, machine.uuid)
    if what == "remove":
        host.remove(machine.uuid, "tamper")
    elif what == "destroy":
        host.set_state(machine.uuid, hosts.STOPPED, "tamper", tampered=True)
    elif what == "run" and machine.state == hosts.PAUSED:
        running = replace(machine, state=hosts.RUNNING, resumed_at=world.loop.time(), boot_seconds=1.0, tampered=True)
        host.put(machine.uuid, running, "tamper")
    elif what == "pause" and machine.state == hosts.RUNNING:
        host.set_state(machine.uuid, hosts.PAUSED, "tamper", tampered=True)


def stop(world: World) -> None:
    """Peace: everything is repaired that an operator would repair."""
    world.note("peace")
    world.faulty = False
    if world.random.random() < (0.6 if world.theme == "clock" else 0.25):
        world.random.choice(world.replicas).crash(None)  # what it holds it holds by the clock as it is
    set_clock(world, 0.0)
    world.cut.clear()
    world.database.available = True
    for host in world.hosts.values():
        host.boot("peace")  # one that the operator keeps off comes later
        host.foreign.clear()
        card_faults.mend(world, host)
        for machine in list(host.machines.values()):
            if machine.state == hosts.GHOST:
                host.machines[machine.uuid] = replace(machine, state=hosts.STOPPED)
                host.remove(machine.uuid, "operator")
    for replica in world.replicas:
        if replica.process.life is Life.FROZEN:
            replica.process.thaw()

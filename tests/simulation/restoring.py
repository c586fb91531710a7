"""A database that goes back in time: a backup that is put back, with the service started on it; and its recovery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.domain.ownership import Installation
from service.drivers.base import HostFacts
from service.errors import CorralError
from service.store import clock, fleet, ownership
from service.store.claims import ClaimLost
from service.store.connection import Connection
from service.transactions import recovery
from service.transactions.recovery_plan import RecoveryPlan, plan
from service.transactions.surveys import MOST_LOOKS, UNSTEADY, Survey, agree
from tests.simulation.driver import FaultyDriver
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.clients import Client
    from tests.simulation.world import World


@dataclass(slots=True)
class Backup:
    """A copy of the database, and what the observer had been told by then."""

    image: bytes
    told: dict[str, Any]


def save(world: World) -> Backup:
    """Take a backup while the service serves."""
    world.note("backup")
    return Backup(world.database.image(), world.observer.memory())


def put_back(world: World, backup: Backup, clients: list[Client]) -> None:
    """Every process is killed, the backup put in the database's place, and the processes are started again."""
    world.note("the database goes back")
    world.stats["databases restored"] += 1
    world.restored = True
    ended = [replica.process.name for replica in world.replicas]
    for replica in world.replicas:
        replica.crash(None)
    world.database.restore(backup.image)
    world.observer.went_back(backup.told, ended)
    world.custodian.went_back()
    for client in clients:
        client.order.lost = True
    for replica in world.replicas:
        world.loop.outside(world.random.uniform(0.3, 4.0), replica.start)


def recover(world: World) -> None:
    """`corral recover --write`: with every process stopped, what hosts show is written. They are started afterwards."""
    world.note("recover")
    world.stats["recoveries"] += 1
    stopped = [r for r in world.replicas if r.process.alive]
    for replica in stopped:
        replica.crash(None)
    act = world.database.transact
    installation = act(ownership.installation)
    assert installation is not None
    act(lambda c: recovery.settle_identity(c, installation, RecoveryPlan(), clock.now(c)))
    surveys, silent = _surveys(world, installation)
    world.committed()
    whole = act(lambda c: plan(recovery.known(c, installation, surveys), surveys, silent, clock.now(c)))
    for change in whole.changes:
        world.note("recovered", change.act.value, change.group.uuid, change.group.status.value, *change.notes)
        try:
            act(lambda c, one=change: recovery.write(c, one, clock.now(c)))  # type: ignore[misc]
        except (ClaimLost, CorralError) as refused:
            world.note("not recovered", change.group.uuid, str(refused))
        world.committed()
    for problem in whole.problems:
        world.note("problem", problem.group, problem.why)
    looked_at = [s.host.uuid for s in surveys if s.mark is None or s.mark.database == installation.database]
    act(lambda c: recovery.settle_identity(c, installation, whole, clock.now(c), looked_at))
    world.committed()
    for replica in stopped:
        world.loop.outside(world.random.uniform(0.3, 2.0), replica.start)


def _surveys(world: World, installation: Installation) -> tuple[list[Survey], dict[str, str]]:
    """What the hosts of the fleet show to two looks that agree; what they have is written, since claims go by it."""
    surveys, silent = [], {}
    asks = Process("recover.0", world.loop)
    for host in world.database.transact(fleet.hosts).values():
        real = world.hosts[host.uuid]
        if not real.up or ("*", host.uuid) in world.cut:
            silent[host.name] = "it does not answer"
            continue
        driver = FaultyDriver(world, asks, real)
        facts, listing = driver.facts(), driver.listing()
        if host.hypervisor and host.hypervisor != facts.hypervisor:
            silent[host.name] = "another hypervisor answers"
            continue
        for _ in range(MOST_LOOKS - 1):
            before, listing = listing, driver.listing()
            if agree(before, listing):
                break
        else:
            silent[host.name] = UNSTEADY
            continue
        surveys.append(Survey(host, listing.machines, facts.mark))
        world.database.transact(lambda c, facts=facts: _has(c, facts))  # type: ignore[misc]
    return surveys, silent


def _has(connection: Connection, facts: HostFacts) -> None:
    held = ownership.held_on(connection, facts.host_uuid)
    foreign = {name: facts.foreign.get(name, 0) + held.get(name, 0) for name in sorted({*facts.foreign, *held})}
    fleet.set_facts(
        connection,
        facts.host_uuid,
        boot_id=facts.boot_id,
        virt_type=facts.virt_type,
        total=facts.total,
        foreign=foreign,
    )

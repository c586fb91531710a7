"""A lab of real libvirtds, a database, replicas and clients at work; kills; then rest, and a look at what is left."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.concurrency.observer import Server, unsettled
from tests.concurrency.replicas import ENTRY, ZONE, Replica, replicas
from tests.faults.clients import Clients
from tests.faults.harm import Harm
from tests.faults.keeper import Keeper
from tests.faults.observer import Observer, at_rest, machines, volumes
from tests.faults.stores import PostgreSql, Sqlite
from tests.lab.fleet import Lab
from tests.support import ROOT

SETTLE_SECONDS = 900.0
"""Longer than the boots, one after the other, that a group may still have before it."""
ROOT_MANIFEST = ROOT / ".cache/guest/guest.json"

_FLEET = """
[[zones]]
uuid = "{zone}"
name = "zone-1"
[zones.network]
kind = "bridge"
source = "br0"
subnet = "{network}.0.0/16"
gateway = "{network}.0.1"
pool = "{network}.1.10-{network}.1.250"
[[images]]
name = "guest"
manifest = "{manifest}"
[[model_services]]
uuid = "{entry}"
name = "default"
image = "guest"
stop_grace_ms = 0
boot_timeout_ms = 300000
"""
_HOST = """
[[hosts]]
name = "{name}"
zone = "zone-1"
driver = "libvirt"
transport = "tcp"
address = "{address}"
[hosts.capacity]
vcpu = 3
memory = "4GiB"
"""


def fleet(lab: Lab, manifest: Path) -> str:
    """Configuration of the lab's hypervisors, reached over the lab's network."""
    hosts = "".join(_HOST.format(name=h.name, address=h.address) for h in lab)
    return _FLEET.format(zone=ZONE, entry=ENTRY, network=lab.network, manifest=manifest) + hosts


@dataclass
class Report:
    """What a run did and saw. Times in s."""

    kills: dict[str, int] = field(default_factory=dict)
    points: set[str] = field(default_factory=set)
    outcomes: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    looks: int = 0
    recoveries: list[float] = field(default_factory=list)
    takeovers: list[float] = field(default_factory=list)
    longest_orphan: float = 0.0
    settled_after: float = 0.0
    crashes: list[str] = field(default_factory=list)
    """libvirtds that ended by themselves, with the ends of their logs."""
    violations: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The figures, one a line."""
        return [
            f"faults {sum(self.kills.values())}: {self.kills}",
            f"points at which the service was killed, {len(self.points)}: {', '.join(sorted(self.points))}",
            f"deploys acknowledged {self.acknowledged}: {self.outcomes}; looks of the observer {self.looks}",
            f"service restart to serving, s: {_percentiles(self.recoveries)}",
            f"owner's death to takeover, s: {_percentiles(self.takeovers)}",
            f"longest life of an orphan {self.longest_orphan:.1f} s",
            f"all settled {self.settled_after:.1f} s after the last fault",
            f"libvirtds that ended by themselves {len(self.crashes)}",
            *self.crashes,
            f"violations {len(self.violations)}",
            *self.violations[:20],
        ]


def run(
    lab: Lab,
    manifest: Path,
    store: Sqlite | PostgreSql,
    *,
    kills: int,
    seconds: float,
    seed: int,
    clients: int = 3,
    count: int = 2,
) -> Report:
    """At least `kills` faults unless `seconds` pass first; then everything is given back and must come to rest.

    `count`: of replicas.
    """
    directory = Path(tempfile.mkdtemp(prefix="corral-faults-"))
    try:
        with replicas(
            directory, store.url, fleet(lab, manifest), count, prefix=lab.command(), armed=True
        ) as members:  # fmt: skip
            return _run(lab, store, members, kills, seconds, seed, clients)
    finally:
        shutil.rmtree(directory)


def _run(
    lab: Lab,
    store: Sqlite | PostgreSql,
    members: list[Replica],
    kills: int,
    seconds: float,
    seed: int,
    clients: int,
) -> Report:
    report = Report()
    name = store.name
    with Keeper(lab) as keeper:
        with Observer(store, name, lab) as observer:
            harm = Harm(lab, store, members, observer, keeper, random.Random(seed))
            with Clients(members, clients, seed) as callers:
                deadline = time.monotonic() + seconds
                time.sleep(3)
                try:
                    while sum(harm.done.values()) < kills and time.monotonic() < deadline:
                        harm.once()
                        time.sleep(harm.random.uniform(0.2, 2.0))
                finally:
                    harm.end()
            report.settled_after = _settle(store, name, SETTLE_SECONDS)
            time.sleep(1)
        report.kills, report.points, report.looks = harm.done, harm.points, observer.looks
        report.recoveries, report.takeovers = harm.recoveries, harm.takeovers
        report.longest_orphan = observer.longest_orphan
        report.outcomes, report.acknowledged = callers.outcomes, len(callers.acknowledged)
        report.violations = observer.violations + callers.violations
        report.violations += rest(lambda: at_rest(store, name, lab), 60)
        report.violations += _forgotten(store, name, callers)
        report.violations += _empty_out(lab, store, name, members[0], callers)
    report.crashes = keeper.crashes
    report.violations += crashed(members)
    return report


def _settle(server: Server, database: str, seconds: float) -> float:
    started = time.monotonic()
    while unsettled(server, database) and time.monotonic() < started + seconds:
        time.sleep(0.3)
    return time.monotonic() - started


def rest(look: object, seconds: float) -> list[str]:
    """What is still wrong after some time: sweeps of what nobody wants come every few seconds."""
    assert callable(look)
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(1)
    return list(found)


def _forgotten(server: Server, database: str, callers: Clients) -> list[str]:
    stored = {row[0] for row in server.query("SELECT uuid FROM groups", database)}
    return [f"I5 {group} was acknowledged and is not stored" for group in sorted(callers.acknowledged - stored)]


def _empty_out(lab: Lab, server: Server, database: str, replica: Replica, callers: Clients) -> list[str]:
    """Delete every group: nothing of any kind may be left."""
    remover = Clients([replica], 0, 0)
    stubs = [replica.stub()]
    for row in server.query("SELECT uuid FROM groups WHERE phase <> 'deleted'", database):
        remover.delete(stubs, row[0], random.Random(0))
    _settle(server, database, SETTLE_SECONDS)

    return rest(lambda: left_over(lab, server, database), 60) + remover.violations


def left_over(lab: Lab, server: Server, database: str) -> list[str]:
    """What is there although every group was deleted: I3, I5, I10."""
    found = [f"I3 {machine} is left" for machine in machines(lab)]
    found += [f"I10 {name} is left" for name in volumes(lab)]
    phases = server.query("SELECT uuid FROM groups WHERE phase <> 'deleted'", database)
    found += [f"I5 {row[0]} is not deleted" for row in phases]
    found += [f"I10 {row} is left" for row in server.query("SELECT instance_uuid FROM claims", database)]
    return found + [f"I10 {row} is left" for row in server.query("SELECT instance_uuid FROM addresses", database)]


def crashed(members: list[Replica]) -> list[str]:
    """Lines of the replicas' logs that no fault excuses."""
    return [
        f"{member.directory.name}: {line[:600]}"
        for member in members
        for line in member.log().splitlines()
        if '"level": "critical"' in line or "its worker broke" in line or "InvariantViolation" in line
    ]


def _percentiles(values: list[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return f"p50 {ordered[len(ordered) // 2]:.1f}, p99 {p99:.1f}, n {len(ordered)}"

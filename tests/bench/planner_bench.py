"""What a plan costs the service around the search itself, when everything is told anew and when only changes are.

    python -m tests.bench.planner_bench [--hosts 10000] [--changed 20] [--rounds 5]

Figures are CPU milliseconds (`time.process_time`), the least of the rounds, because the machine may be shared.
"""

from __future__ import annotations

import argparse
import pickle
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, insert

from placement.model import Decision, Node, Policy, Request, Snapshot
from placement.problem.index import index_of
from service.domain.fleet import MEMORY, VCPU, Host, HostAddress, Zone
from service.planning import fleet_reader, translate
from service.planning.fleet_reader import FleetReader
from service.planning.planner import place_verified
from service.planning.pool import Sent
from service.planning.process import Keeper, Order, Place, Time
from service.store import claims, fleet, schema
from service.store.codec import encode
from service.store.engine import Store
from service.store.migrations import upgrade
from tests.support.builders import seat

GIB = 1 << 30
GROUPS, MEMBERS = 500, 20
NODES = 200


class Memory:
    """A flag that nobody raises."""

    value = 0


def uuid(r: random.Random) -> str:
    """32 hex digits."""
    return f"{r.getrandbits(128):032x}"


def fill(connection: Connection, hosts: int, r: random.Random) -> list[str]:
    """A fleet of `hosts` in four zones and racks of fifty, with 10,000 members; returns the hosts' uuids."""
    zones = [Zone(uuid(r), f"zone-{n}") for n in range(4)]
    for zone in zones:
        fleet.put_zone(connection, zone, now=1)
    made = [
        Host(uuid(r), f"host-{n}", zones[n % 4].uuid, HostAddress("simulated"), rack=f"rack-{n // 50}")
        for n in range(hosts)
    ]
    connection.execute(
        insert(schema.hosts),
        [
            {
                "uuid": h.uuid, "name": h.name, "zone_uuid": h.zone_uuid, "document": encode(h),
                "state": "Enabled", "status": "Connected",
            }
            for h in made
        ],
    )  # fmt: skip
    groups = [uuid(r) for _ in range(GROUPS)]
    row = {"project": "p", "principal": "p", "name": "g", "spec": "{}", "phase": "Running", "status": "Running"}
    connection.execute(
        insert(schema.groups), [{"uuid": group, "created_at": 0, "updated_at": 0, **row} for group in groups]
    )
    seats = [(group, uuid(r), r.choice(made).uuid) for group in groups for _ in range(MEMBERS)]
    seated = Counter(host for _, _, host in seats)
    vectors = [
        {
            "host_uuid": h.uuid, "resource": name, "total": usable, "usable": usable,
            "foreign_used": foreign, "used": seated[h.uuid],
        }
        for h in made
        for name, usable, foreign in ((VCPU, 640, r.randrange(500)), (MEMORY, 256 * GIB, r.randrange(200) * GIB))
    ]  # fmt: skip
    connection.execute(insert(schema.host_resources), vectors)
    connection.execute(
        insert(schema.claims),
        [
            {"instance_uuid": m, "attempt": 1, "resource": name, "host_uuid": h, "group_uuid": group, "amount": 1}
            for group, m, h in seats
            for name in (VCPU, MEMORY)
        ],
    )
    return [h.uuid for h in made]


def request() -> Request:
    """A gang of two hundred."""
    labels = {translate.TYPE_LABEL: ("VirtualMachine",)}
    sizes = ((2, 4), (4, 16), (8, 32))
    return Request(
        tuple(
            Node(f"node-{n}", {VCPU: sizes[n % 3][0], MEMORY: sizes[n % 3][1] * GIB}, host_labels=labels)
            for n in range(NODES)
        )
    )


class Anew:
    """Everything is read, written down, read back and indexed for each plan."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def plan(self, wanted: Request, cost: Callable[[str, int], None]) -> Decision:
        """One plan; `cost` is told after each step, with the bytes that it made."""
        _, snapshot = fleet_reader.read_fleet(self._connection)
        cost("read the fleet", 0)
        data = pickle.dumps(snapshot, 5)
        cost("write down what the process is told", len(data))
        told: Snapshot = pickle.loads(data)
        index_of(told)
        cost("take it in and index it", 0)
        decision = place_verified(told, wanted, Policy(), lambda: False)
        cost("search and check", 0)
        return decision


class Changes:
    """The service as it is: what is known is kept on both sides."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._reader, self._sent, self._keeper = connection, FleetReader(), Sent(), Keeper(Memory())

    def plan(self, wanted: Request, cost: Callable[[str, int], None]) -> Decision:
        """One plan, as `Anew.plan`."""
        _, snapshot = self._reader.read(self._connection)
        cost("read the fleet", 0)
        change = self._sent.change_to(snapshot)
        data = pickle.dumps(change, 5)
        self._sent.taken(snapshot, change)
        cost("write down what the process is told", len(data))
        self._keeper.apply(pickle.loads(data))
        self._keeper.index()
        cost("take it in and index it", 0)
        nothing = pickle.dumps(self._sent.change_to(snapshot), 5)
        order = Order(1, Time(600), nothing, snapshot.flavours, "", Place(wanted, Policy()))
        decision = self._keeper.run(order).result
        cost("search and check", 0)
        assert isinstance(decision, Decision)
        return decision


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a plan costs around the search.")
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--changed", type=int, default=20, help="claims between two plans, each on a host of its own")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    r = random.Random(1)
    store = Store("sqlite://")
    upgrade(store.engine)
    with store.engine.connect() as connection, connection.begin():
        uuids = fill(connection, options.hosts, r)
        ways = (Anew(connection), Changes(connection))
        best: dict[tuple[str, str], tuple[float, int]] = {}
        for _ in range(options.rounds + 1):
            (group,) = r.sample([row[0] for row in connection.execute(schema.groups.select())], 1)
            wanted = [seat(uuid(r), host, {VCPU: 1}) for host in r.sample(uuids, options.changed)]
            claims.take(connection, group, wanted)
            one, other = (_measured(way, best) for way in ways)
            assert one == other
    store.close()
    _print(best, options.hosts, options.changed)


def _measured(way: Anew | Changes, best: dict[tuple[str, str], tuple[float, int]]) -> Decision:
    last = time.process_time()

    def cost(step: str, size: int) -> None:
        nonlocal last
        spent = (time.process_time() - last) * 1000
        known = best.get((type(way).__name__, step), (spent, size))
        best[type(way).__name__, step] = (min(spent, known[0]), min(size, known[1]))
        last = time.process_time()

    return way.plan(request(), cost)


def _print(best: dict[tuple[str, str], tuple[float, int]], hosts: int, changed: int) -> None:
    print(f"CPU ms of one plan, {hosts} hosts, {changed} of them changed since the last\n")
    print(f"{'step':<40}{'all anew':>10}{'changes':>10}")
    steps = list(dict.fromkeys(step for _, step in best))
    for step in steps:
        print(f"{step:<40}" + "".join(f"{best[way, step][0]:>10.1f}" for way in ("Anew", "Changes")))
    sums = [sum(ms for (name, _), (ms, _) in best.items() if name == way) for way in ("Anew", "Changes")]
    print(f"{'all':<40}" + "".join(f"{ms:>10.1f}" for ms in sums))
    sent = [sum(size for (name, _), (_, size) in best.items() if name == way) for way in ("Anew", "Changes")]
    print(f"{'bytes told':<40}" + "".join(f"{size:>10}" for size in sent))


if __name__ == "__main__":
    main()

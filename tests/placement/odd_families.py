"""Families that speak against themselves: amounts nobody has, fleets of which one host is open, wishes that quarrel,
partitions under NUMA. Built on ``instances.tiny``; what is true of them is found by ``brute.Brute``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from placement.constraints import (
    Apart,
    AtMost,
    Constraint,
    Near,
    Prefer,
    Scope,
    Selector,
    SpareHosts,
    SpreadOver,
    Together,
    Within,
)
from placement.model import Cell, Devices, Flavour, Host, Node, Pool, Request, Snapshot, Strategy
from tests.placement.families import Case
from tests.placement.instances import tiny

WEIGHTS = (None, 1, 2, 3, 1000, 10**6)
LARGE = 1 << 50


def odd_amounts(seed: int) -> Case:
    """Hosts of no capacity, nodes that ask for nothing, for what nobody has, for all of a host or for one too much;
    bytes up to 2**50 beside single units; flavours of nothing."""
    r = random.Random(seed)
    snapshot, request = tiny(seed, rules=r.random() < 0.5)
    names = sorted({name for host in snapshot.hosts for name in host.capacity})
    scale = {name: r.choice([1, 1, 7, 1 << 20, LARGE]) for name in names}
    hosts = []
    for host in snapshot.hosts:
        capacity = {name: r.choice([0, 1, 2, 5]) * scale[name] + r.choice([0, 0, 1, 13]) for name in names}
        used = {name: r.choice([0, 0, 1, amount, amount // 2, amount + 1]) for name, amount in capacity.items()}
        if r.random() < 0.2:
            capacity.pop(r.choice(names), None)
        hosts.append(replace(host, capacity=capacity, used=used))
    nodes = []
    for node in request.nodes:
        demand = {name: r.choice([0, 0, 1, scale[name], 2 * scale[name] + 1]) for name in names}
        if r.random() < 0.2:
            whole = r.choice(hosts)
            demand = {name: max(0, whole.free(name)) + (r.random() < 0.2) for name in names}
        if r.random() < 0.1:
            demand["nobody.has"] = r.choice([0, 0, 1])
        nodes.append(replace(node, demand=demand))
    flavours = (Flavour({}), Flavour({names[0]: scale[names[0]]})) if r.random() < 0.3 else ()
    return Snapshot(tuple(hosts), flavours), replace(request, nodes=tuple(nodes))


def one_open(seed: int) -> Case:
    """All hosts but one are closed, left out or held by somebody else's gang, with rules that ask for several."""
    r = random.Random(seed)
    snapshot, request = tiny(seed, rules=True, few=r.random() < 0.3)
    lucky = r.choice(snapshot.hosts).id
    hosts, excluded = [], set(request.excluded_hosts)
    for host in snapshot.hosts:
        members = tuple(replace(m, demand={"cpu": r.randint(0, 2)}) for m in host.members)
        host = replace(host, members=members)
        if host.id == lucky:
            hosts.append(replace(host, schedulable=True))
            continue
        how = r.randint(0, 2)
        if how == 0 and members:
            host = replace(host, members=tuple(replace(m, exclusive=True) for m in members))
        elif how == 1:
            excluded.add(host.id)
        else:
            host = replace(host, schedulable=False)
        hosts.append(host)
    rules = list(request.constraints)
    if r.random() < 0.5:
        everybody = Selector()
        more: list[Constraint] = [
            SpreadOver(everybody, r.choice(list(Scope)), r.randint(1, 2), r.choice(WEIGHTS)),
            SpareHosts(1, r.choice(WEIGHTS)),
            AtMost(everybody, r.randint(1, 3), r.choice(list(Scope)), r.choice(WEIGHTS)),
        ]
        rules.append(r.choice(more))
    return Snapshot(tuple(hosts), snapshot.flavours), replace(
        request, constraints=tuple(rules), excluded_hosts=frozenset(excluded)
    )


def quarrels(seed: int) -> Case:
    """Wishes and rules that cannot all hold, at weights from 1 to a million: together and apart, spread over many and
    within few, one kind of host and the other, selectors that pick nobody or a label that nobody bears."""
    r = random.Random(seed)
    snapshot, request = tiny(seed, rules=False, numa=r.random() < 0.2)
    everybody, nobody = Selector(), Selector(labels={"group": "none"})
    red, old = Selector(labels={"group": "red"}), Selector(labels={"group": "old"})
    first = Selector(frozenset({request.nodes[0].id}))
    scopes = list(Scope)

    def picked() -> Selector:
        return r.choice([everybody, everybody, nobody, red, old, first])

    pairs: list[list[Constraint]] = [
        [
            Together(picked(), r.choice(scopes), r.choice(WEIGHTS)),
            AtMost(picked(), r.randint(1, 2), r.choice(scopes), r.choice(WEIGHTS)),
        ],
        [
            SpreadOver(picked(), r.choice(scopes), r.randint(1, 4), r.choice(WEIGHTS)),
            Within(picked(), r.choice(scopes), r.randint(1, 2), r.choice(WEIGHTS)),
        ],
        [
            Prefer("disk", ("ssd",), picked(), r.choice(WEIGHTS)),
            Prefer("disk", ("hdd", "none"), picked(), r.choice(WEIGHTS)),
        ],
        [
            Near(first, picked(), r.choice(scopes), r.choice(WEIGHTS)),
            Apart(first, picked(), r.choice(scopes), r.choice(WEIGHTS)),
        ],
        [SpareHosts(r.randint(1, 3), r.choice(WEIGHTS)), SpareHosts(1, r.choice(WEIGHTS))],
    ]
    rules = [rule for pair in r.sample(pairs, r.randint(1, 2)) for rule in pair]
    return snapshot, replace(request, constraints=tuple(rules))


def partitions(seed: int) -> Case:
    """Hosts of two cells with accelerators in partitions that lie across them, some broken, and nodes that want theirs
    of one cell, of one partition, of both or anyhow, beside those that only take cells."""
    r = random.Random(seed)
    hosts = []
    for number in range(r.randint(1, 3)):
        cells = tuple(Cell({"cpu": r.randint(0, 4)}, {"cpu": r.randint(0, 1)}) for _ in range(r.choice([1, 2, 2])))
        pools = tuple(
            Pool("gpu.a100", size, r.randint(0, size), r.choice([None, *range(len(cells))]), r.choice(["", "x", "y"]))
            for size in (r.randint(0, 3) for _ in range(r.randint(1, 4)))
            if size
        )
        loose = r.choice([0, 0, 1])
        capacity = {
            "cpu": sum(c.capacity["cpu"] for c in cells),
            "gpu.a100": sum(p.capacity for p in pools) + (0 if pools else loose),
        }
        used = {"cpu": sum(c.used["cpu"] for c in cells), "gpu.a100": sum(p.used for p in pools)}
        hosts.append(
            Host(
                f"h{number}",
                r.choice(["east", "west"]),
                capacity,
                used,
                r.choice([None, "r1", "r2"]),
                {"disk": r.choice(["ssd", "hdd"])},
                r.random() > 0.1,
                (),
                cells,
                pools,
            )
        )
    nodes = []
    for number in range(r.randint(1, 3)):
        cells_wanted = r.choice([0, 1, 1, 2])
        gpus = r.choice([0, 1, 1, 2, 3])
        local, joint = bool(cells_wanted) and r.random() < 0.6, r.random() < 0.5
        devices = (Devices("gpu.a100", r.randint(1, gpus), local, joint),) if gpus and (local or joint) else ()
        demand = {"cpu": r.choice([0, 1, 2]), "gpu.a100": gpus}
        nodes.append(
            Node(
                f"n{number}",
                demand,
                count=r.randint(1, 2),
                cells=cells_wanted,
                devices=devices,
                labels={"group": "red"},
            )
        )
    rules: list[Constraint] = [
        AtMost(Selector(), r.randint(1, 3), r.choice(list(Scope)), r.choice([None, 2])),
        SpreadOver(Selector(), r.choice(list(Scope)), r.randint(1, 2), r.choice([None, 3])),
        Within(Selector(), Scope.RACK, 1, r.choice([None, 1])),
        SpareHosts(1, r.choice([None, 5])),
    ]
    strategy = r.choice(list(Strategy))
    return Snapshot(tuple(hosts)), Request(tuple(nodes), strategy, tuple(r.sample(rules, r.choice([0, 0, 1, 2]))))


ODD_FAMILIES: dict[str, Callable[[int], Case]] = {
    build.__name__: build for build in (odd_amounts, one_open, quarrels, partitions)
}

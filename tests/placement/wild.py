"""Large fleets as they are: no two hosts alike, memory in bytes, foreign use as measured, sizes by the hundred."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from placement.constraints import Apart, AtMost, Near, Prefer, Scope, Selector, SpareHosts, SpreadOver, Within
from placement.model import Cell, Devices, Host, Member, Node, Pool, Request, Snapshot, Strategy

GIB = 1 << 30
Build = Callable[[int, Strategy, int], tuple[Snapshot, Request]]
"""(how many hosts, strategy, seed) -> case."""


def fleet(size: int, seed: int) -> Snapshot:
    """Hosts of three makes, none like another: what is in use was measured."""
    r = random.Random(seed)
    hosts = []
    for n in range(size):
        cpu, gib = r.choice(((64, 256), (96, 384), (128, 1024)))
        used = {"vcpu": r.randint(0, cpu * 3 // 4), "memory": r.randint(GIB, gib * GIB * 3 // 4)}
        capacity = {"vcpu": cpu, "memory": gib * GIB - r.randint(0, GIB)}
        hosts.append(Host(f"h{n:06d}", f"z{n % 3}", capacity, used, f"r{n // 40}"))
    return Snapshot(tuple(hosts))


def sizes(count: int, seed: int) -> tuple[Node, ...]:
    """Nodes of `count` sizes, two or three of each."""
    r = random.Random(seed)
    return tuple(
        Node(f"n{n}", {"vcpu": r.randint(1, 24), "memory": r.randint(1, 96 * 1024) << 20}, count=r.randint(2, 3))
        for n in range(count)
    )


def all_differ(size: int, strategy: Strategy, seed: int) -> tuple[Snapshot, Request]:
    """Four hundred sizes."""
    return fleet(size, seed), Request(sizes(400, seed), strategy)


def few_sizes(size: int, strategy: Strategy, seed: int) -> tuple[Snapshot, Request]:
    """Five sizes in whole GiB, of each as many nodes as a tenth of the hosts, and at most two hundred."""
    shapes = ((2, 8), (4, 16), (8, 32), (16, 64), (8, 128))
    nodes = tuple(
        Node(f"n{c}-{g}", {"vcpu": c, "memory": g * GIB}, count=max(1, min(200, size // 10))) for c, g in shapes
    )
    return fleet(size, seed), Request(nodes, strategy)


def ten_resources(size: int, strategy: Strategy, seed: int) -> tuple[Snapshot, Request]:
    """Ten resources, every amount drawn at random."""
    r = random.Random(seed)
    names = [f"r{d}" for d in range(10)]
    hosts = tuple(
        Host(f"h{n:06d}", "z", {k: r.randint(10**9, 10**10) for k in names}, rack=f"r{n // 40}") for n in range(size)
    )
    nodes = tuple(Node(f"n{n}", {k: r.randint(10**7, 10**9) for k in names}) for n in range(300))
    return Snapshot(hosts), Request(nodes, strategy)


def sockets(size: int, strategy: Strategy, seed: int) -> tuple[Snapshot, Request]:
    """NUMA: hosts of two cells with guests that are not pinned."""
    r = random.Random(seed)
    hosts = []
    for host in fleet(size, seed).hosts:
        half = {name: amount // 2 for name, amount in host.capacity.items()}
        taken = [{name: r.randint(0, amount // 3) for name, amount in host.used.items()} for _ in (0, 1)]
        hosts.append(replace(host, cells=tuple(Cell(half, used) for used in taken)))
    nodes = tuple(replace(node, cells=1 + n % 2) for n, node in enumerate(sizes(100, seed)))
    return Snapshot(tuple(hosts)), Request(nodes, strategy)


def ruled(size: int, strategy: Strategy, seed: int) -> tuple[Snapshot, Request]:
    """Anti-affinity by rack, a spread and a nearness over sizes by the hundred."""
    nodes = tuple(replace(node, labels={"app": "ab"[n % 2]}) for n, node in enumerate(sizes(150, seed)))
    rules = (
        AtMost(Selector(labels={"app": "a"}), 9, Scope.RACK),
        SpreadOver(scope=Scope.RACK, minimum=4),
        Near(Selector(frozenset({"n0"})), Selector(frozenset({"n1"})), Scope.RACK),
    )
    return fleet(size, seed), Request(nodes, strategy, rules)


def models(size: int, strategy: Strategy, seed: int) -> tuple[Snapshot, Request]:
    """GPU models as labels; the last kind asks for more than any host of its model has."""
    r = random.Random(seed)
    makes = [f"g{n}" for n in range(12)]
    hosts = tuple(
        replace(host, labels={"gpu": makes[n % 12]}, capacity={**host.capacity, "gpu": 1 + n % 8})
        for n, host in enumerate(fleet(size, seed).hosts)
    )
    nodes = tuple(
        replace(node, demand={**node.demand, "gpu": r.randint(0, 2)}, host_labels={"gpu": (r.choice(makes),)})
        for node in sizes(200, seed)
    )
    stuck = Node("stuck", {"vcpu": 1, "gpu": 9}, host_labels={"gpu": ("g3",)})
    return Snapshot(hosts), Request((*nodes, stuck), strategy)


def everything(size: int, strategy: Strategy, seed: int) -> tuple[Snapshot, Request]:
    """All at once: NUMA cells, accelerators of one cell or partition, members with labels, hosts that are closed, held
    or overcommitted, nodes that want a host alone, rules and wishes of every kind over sizes by the hundred."""
    r = random.Random(seed)
    hosts = []
    for n, host in enumerate(sockets(size, strategy, seed)[0].hosts):
        pools = tuple(Pool("gpu.a", 4, r.randint(0, 4), cell, r.choice(["", "x", "y"])) for cell in (0, 1))
        members = tuple(
            Member(f"m{n}-{k}", labels={"app": r.choice("abc")}, exclusive=r.random() < 0.02) for k in range(n % 4)
        )
        much = {"vcpu": host.capacity["vcpu"] + 1} if r.random() < 0.05 else {}
        hosts.append(
            replace(
                host,
                capacity={**host.capacity, "gpu.a": 8},
                used={**host.used, "gpu.a": sum(pool.used for pool in pools), **much},
                labels={"disk": f"d{n % 3}"},
                schedulable=r.random() > 0.05,
                members=members,
                pools=pools,
            )
        )
    nodes = []
    for n, node in enumerate(sizes(120, seed)):
        wants = Devices("gpu.a", 2, local=n % 3 == 0, joint=n % 3 == 1)
        nodes.append(
            replace(
                node,
                demand={**node.demand, "gpu.a": 2} if n % 4 == 0 else node.demand,
                devices=(wants,) if n % 4 == 0 and n % 3 < 2 else (),
                cells=1 + n % 2 if n % 3 == 0 else 0,
                labels={"app": "abc"[n % 3]},
                host_labels={"disk": ("d0", "d1")} if n % 5 == 0 else {},
                exclusive=n % 40 == 7,
                zone="z1" if n % 11 == 0 else None,
            )
        )
    rules = (
        AtMost(limit=max(3, 300 // max(1, size // 40)), scope=Scope.RACK),
        AtMost(Selector(labels={"app": "a"}), 2),
        SpreadOver(scope=Scope.RACK, minimum=min(4, size // 40)),
        Apart(Selector(frozenset({"n0"})), Selector(labels={"app": "c"})),
        Near(Selector(frozenset({"n1"})), Selector(frozenset({"n2"})), Scope.RACK),
        Within(Selector(labels={"app": "b"}), Scope.ZONE, 2),
        Prefer("disk", ("d0",), weight=3),
        SpareHosts(1, weight=2),
    )
    return Snapshot(tuple(hosts)), Request(tuple(nodes), strategy, rules)


FAMILIES: dict[str, Build] = {
    build.__name__: build for build in (all_differ, few_sizes, ten_resources, sockets, ruled, models)
}

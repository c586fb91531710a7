"""Gangs of 16 to 64 accelerators on 1,000 hosts that have eight each, on two NUMA cells and in partitions."""

from __future__ import annotations

import random
from collections.abc import Iterator

from placement.model import Cell, Devices, Host, Node, Pool, Request, Snapshot, Strategy

GIB = 1 << 30


def fleet(hosts: int, seed: int) -> Snapshot:
    """Hosts of 2 x 64 vCPUs and 2 x 1 TiB, each cell with a partition of four (every third host: two of two), at 40 %
    taken; memory in bytes, so that hosts all differ."""
    r = random.Random(seed)
    return Snapshot(tuple(_host(r, number) for number in range(hosts)))


def _host(r: random.Random, number: int) -> Host:
    size = 2 if number % 3 == 0 else 4
    pools, cells = [], []
    for cell in (0, 1):
        for part in range(4 // size):
            busy = r.choice([0, 0, 0, 1, 2, size])
            pools.append(Pool("gpu.h100", size, min(busy, size), cell, f"cell{cell}-{part}"))
        taken = r.choice([0, r.randrange(600 * GIB)])
        cells.append(Cell({"vcpu": 64, "memory": 1024 * GIB}, {"vcpu": r.randrange(24), "memory": taken}))
    used = {name: sum(cell.used[name] for cell in cells) for name in ("vcpu", "memory")}
    used["gpu.h100"] = sum(pool.used for pool in pools)
    capacity = {"vcpu": 128, "memory": 2048 * GIB, "gpu.h100": 8}
    return Host(f"h{number:05}", "zone", capacity, used, f"r{number // 20}", cells=tuple(cells), pools=tuple(pools))


def gangs(count: int, mixed: bool, seed: int) -> Iterator[tuple[Snapshot, Request]]:
    """Each on a fleet of its own: members that take 2, 4 or 8 devices of one cell and partition (8: of both cells), all
    alike; or `mixed`: a pinned head without any, and members of two sizes."""
    for number in range(count):
        r = random.Random(seed * 1_000 + number)
        total, strategy = r.choice([16, 32, 64]), r.choice([Strategy.FEWEST_HOSTS, Strategy.LEAST_LOST_VALUE])
        snapshot = fleet(1_000, seed * 1_000 + number)
        if not mixed:
            each = r.choice([2, 4, 8])
            yield snapshot, Request((_members("worker", each, total // each),), strategy)
            continue
        head = Node("head", {"vcpu": 8, "memory": 64 * GIB}, cells=1)
        large = _members("large", 4, total // 8)
        yield snapshot, Request((head, large, _members("small", 2, total // 4)), strategy)


def _members(name: str, each: int, count: int) -> Node:
    demand = {"vcpu": 4 * each, "memory": 100 * GIB * each, "gpu.h100": each}
    cells = 2 if each == 8 else 1
    return Node(name, demand, count=count, cells=cells, devices=(Devices("gpu.h100", each, True, each < 8),))

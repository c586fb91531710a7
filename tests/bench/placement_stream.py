"""Streams of requests on a fleet that fills up: what the default strategy gains over others in vCPUs placed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from placement.engine import place
from placement.model import Flavour, Node, Policy, Request, Snapshot, Status, Strategy
from placement.problem.gang import collapse
from placement.problem.index import Floats, Ints
from placement.problem.scoring import free_for, room_value
from tests.bench import placement_cases as cases

QUICK = Policy(explain=False, rounds=10, dives=1, branches=0)
STREAM = 1500
FGD = "fragmentation gradient descent"
"""Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX
ATC 2023: the host whose fragmentation grows least, which is the free room that a request drawn from the workload cannot
use. Sizes are weighed by how often the stream has them, which is more than a scheduler knows; room is counted by each
resource as a share of the largest host's."""


def _gains(totals: dict[str, int]) -> list[str]:
    best = totals["least_lost_value"]
    return [f"{100 * (best / total - 1):+.1f} % against {name}" for name, total in totals.items() if total != best]


def generated(seeds: int) -> list[str]:
    """Gangs of alike nodes through the whole planner, until eight in a row do not fit."""
    totals: dict[str, int] = {}
    for seed in range(seeds):
        for strategy in (Strategy.LEAST_LOST_VALUE, Strategy.FEWEST_HOSTS, Strategy.SPREAD):
            totals[strategy.value] = totals.get(strategy.value, 0) + _stream(seed, strategy)
    return _gains(totals)


def _stream(seed: int, strategy: Strategy) -> int:
    r = random.Random(seed)
    sizes = [*cases.FLAVOURS, (8, 64), (16, 16)]
    hosts = tuple(cases.host(n, *r.choice(cases.MODELS)) for n in range(60))
    snapshot = Snapshot(hosts, tuple(Flavour({"cpu": c, "memory": g * cases.GIB}) for c, g in sizes))
    placed = failures = 0
    while failures < 8:
        size = r.choice(sizes)
        node = Node("n", {"cpu": size[0], "memory": size[1] * cases.GIB}, count=r.randint(1, 6))
        decision = place(snapshot, Request((node,), strategy), QUICK)
        if decision.status is not Status.PLACED:
            failures += 1
            continue
        failures = 0
        placed += size[0] * len(decision.assignments)
        known = {host.id: host for host in snapshot.hosts}
        for assignment in decision.assignments:
            host = known[assignment.host]
            used = {name: amount + node.demand[name] for name, amount in host.used.items()}
            known[host.id] = replace(host, used=used)
        snapshot = snapshot.updated(tuple(known[name] for name in {a.host for a in decision.assignments}))
    return placed


def recorded(data: Path, seeds: int) -> list[str]:
    """Huawei's requests one by one on 120 of its hosts, by each rule for the next host."""
    totals: dict[str, int] = {}
    for file in ("C1", "C2"):
        snapshot, request = cases.topology(data, file, numa=False)
        sizes = sorted({(node.demand["cpu"], node.demand["ram"]) for node in request.nodes})
        flavours = tuple(Flavour({"cpu": cpu, "ram": ram}) for cpu, ram in sizes)
        for seed in range(seeds):
            r = random.Random(seed)
            fleet = Snapshot(tuple(r.sample(snapshot.hosts, 120)), flavours)
            stream = r.sample(request.nodes, STREAM)
            for rule in ("least_lost_value", FGD, "best-fit", "dot-product", "most free memory"):
                totals[rule] = totals.get(rule, 0) + _one_by_one(fleet, stream, rule)
    return _gains(totals)


def _one_by_one(fleet: Snapshot, stream: list[Node], rule: str) -> int:
    gang = collapse(fleet, Request((stream[0],)))
    value = room_value(gang)
    room = free_for(gang.index, value.names).copy()
    largest = room.max(axis=0)
    placed = 0
    often = Counter(tuple(node.demand[name] for name in value.names) for node in stream)
    sizes, weights = np.array(list(often), np.int64), np.array(list(often.values()), np.float64) / len(stream)
    for node in stream:
        size = np.array([node.demand[name] for name in value.names], np.int64)
        fits = np.flatnonzero((room >= size).all(axis=1))
        if not len(fits):
            continue
        left = ((room[fits] - size) / largest).sum(axis=1)
        if rule == "least_lost_value":
            chosen = np.lexsort([left, value.of(room[fits]) - value.of(room[fits] - size)])[0]
        elif rule == FGD:
            grows = _fragments(room[fits] - size, sizes, weights, largest)
            chosen = np.argmin(grows - _fragments(room[fits], sizes, weights, largest))
        elif rule == "best-fit":
            chosen = np.argmin(left)
        elif rule == "dot-product":
            chosen = np.argmax(((room[fits] / largest) * (size / largest)).sum(axis=1))
        else:
            chosen = np.argmax(room[fits][:, value.names.index("ram")])
        room[fits[chosen]] -= size
        placed += node.demand["cpu"]
    return placed


def _fragments(room: Ints, sizes: Ints, weights: Floats, largest: Ints) -> Floats:
    """float64[H]: how much of each room a request of the workload cannot use, on average."""
    unusable = (room[:, None, :] < sizes[None, :, :]).any(axis=2) @ weights
    fragments: Floats = unusable * (room / largest).sum(axis=1)
    return fragments

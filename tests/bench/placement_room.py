"""Room made by moves beside preemption node by node, as schedulers do it, and by moves and ends: bytes, times."""

from __future__ import annotations

import random
import time

import numpy as np

from placement.model import Host, Member, Node, Proof, Request, Snapshot, Status, joined
from placement.modes.evict import evict
from placement.modes.evict_check import check_evictions
from placement.modes.evict_or_move import evict_or_move
from placement.modes.make_room import make_room
from placement.modes.moves import Leaving, Neighbours
from placement.modes.room_check import check_room
from placement.problem.index import index_of
from tests.bench import placement_report as report
from tests.bench.placement_report import QUIET, Aim, Row

VCPUS = 64
GIB = 1 << 30


def fleet(hosts: int, use: float, seed: int) -> tuple[Snapshot, list[Neighbours]]:
    """Hosts of 64 vCPUs and 256 GiB, used to about ``use``, by groups of five members that may move."""
    r = random.Random(seed)
    found: list[Host] = []
    members: list[Member] = []
    for number in range(hosts):
        host = Host(f"h{number}", "z", {"vcpu": VCPUS, "memory": 256 * GIB})
        target = min(1.0, r.gauss(use, 0.06)) * VCPUS
        while (size := r.choice([1, 2, 2, 4, 4, 8, 16])) and host.used.get("vcpu", 0) + size <= target:
            member = Member(f"m{len(members)}", {"vcpu": size, "memory": size * r.choice([2, 4, 4]) * GIB})
            host = joined(host, member)
            members.append(member)
        found.append(host)
    groups = [members[first : first + 5] for first in range(0, len(members), 5)]
    neighbours = [
        Neighbours(tuple(Node(m.id, m.demand, "z") for m in group), {m.id: m.demand["memory"] for m in group})
        for group in groups
    ]
    return Snapshot(tuple(found)), neighbours


def node_by_node(snapshot: Snapshot, request: Request) -> tuple[int, int]:
    """(members, bytes) that leave where each node takes the host that is cheapest for it alone, homes aside."""
    hosts = {host.id: host for host in snapshot.hosts}
    gone = bytes_gone = 0
    for node in request.nodes:
        for _ in range(node.count):
            best: tuple[int, str, list[Member]] | None = None
            for host in hosts.values():
                leaving = _leaving(host, node)
                if leaving is None:
                    continue
                cost = sum(m.demand["memory"] for m in leaving)
                if best is None or cost < best[0]:
                    best = cost, host.id, leaving
            if best is None:
                return gone, bytes_gone
            cost, where, leaving = best
            gone, bytes_gone = gone + len(leaving), bytes_gone + cost
            names = {m.id for m in leaving}
            left = hosts[where]
            used = {k: left.used.get(k, 0) - sum(m.demand.get(k, 0) for m in leaving) for k in left.capacity}
            rest = tuple(m for m in left.members if m.id not in names)
            hosts[where] = joined(
                Host(left.id, left.zone, left.capacity, used, members=rest), Member("new", node.demand)
            )
    return gone, bytes_gone


def _leaving(host: Host, node: Node) -> list[Member] | None:
    """The smallest members first until the node fits, and then all of them that it fits without; None where never."""
    free = {name: host.free(name) for name in node.demand}
    leaving: list[Member] = []
    for member in sorted((m for m in host.members if m.id != "new"), key=lambda m: m.demand["memory"]):
        if all(free[name] >= amount for name, amount in node.demand.items()):
            break
        leaving.append(member)
        free = {name: amount + member.demand.get(name, 0) for name, amount in free.items()}
    if any(free[name] < amount for name, amount in node.demand.items()):
        return None
    for member in sorted(leaving, key=lambda m: -m.demand["memory"]):
        spare = {name: amount - member.demand.get(name, 0) for name, amount in free.items()}
        if all(spare[name] >= amount for name, amount in node.demand.items()):
            leaving.remove(member)
            free = spare
    return leaving


def row(name: str, figure: str, aims: tuple[Aim, ...], use: float, node: Node, seeds: int, hosts: int = 1000) -> Row:
    """One row: ``seeds`` fleets, the same gang on each."""
    found = Row(name, figure, aims)
    fewer, lighter, possible = [], [], []
    for seed in range(seeds):
        snapshot, neighbours = fleet(hosts, use, seed)
        request = Request((node,))
        index_of(snapshot)
        cpu, wall = time.process_time(), time.monotonic()
        room = make_room(snapshot, request, neighbours, QUIET)
        found.cpu_ms.append((time.process_time() - cpu) * 1000)
        found.wall_ms.append((time.monotonic() - wall) * 1000)
        assert check_room(snapshot, request, neighbours, room) == ()
        found.placed += room.status is Status.PLACED
        found.proven += room.proof in (Proof.OPTIMAL, Proof.INFEASIBLE)
        if room.status is Status.PLACED and room.cost:
            found.gaps.append((room.cost - (room.lower_bound or 0)) / room.cost)
            members, moved = node_by_node(snapshot, request)
            fewer.append(100 * (1 - len(room.moves) / members))
            lighter.append(100 * (1 - room.cost / moved))
            possible.append(100 * (1 - (room.lower_bound or 0) / moved))
    if fewer:
        found.figures["% fewer moves"] = fewer
        found.notes.append(
            f"{np.mean(fewer):.0f} % fewer members and {np.mean(lighter):.0f} % fewer bytes than node by node"
        )
        found.notes.append(f"no plan moves more than {np.mean(possible):.0f} % fewer bytes: that is the bound")
    return found


def ends_row(seeds: int, hosts: int = 80, use: float = 0.95, count: int = 10) -> Row:
    """Half of the groups may end, at their bytes, and all may move: the fewest bytes that end."""
    found = Row(f"room by ends and moves, {count} whole hosts of {hosts} at {use:.0%}", "(also)")
    fewer, ending = [], 0
    for seed in range(seeds):
        snapshot, neighbours = fleet(hosts, use, seed)
        shuffled = random.Random(seed).sample(neighbours, len(neighbours))
        leaving = [Leaving(group.nodes, sum(group.costs.values())) for group in shuffled[::2]]
        request = Request((Node("n", {"vcpu": VCPUS, "memory": 256 * GIB}, count=count),))
        index_of(snapshot)
        cpu, wall = time.process_time(), time.monotonic()
        plan = evict_or_move(snapshot, request, leaving, neighbours, QUIET)
        found.cpu_ms.append((time.process_time() - cpu) * 1000)
        found.wall_ms.append((time.monotonic() - wall) * 1000)
        assert check_evictions(snapshot, request, leaving, plan, neighbours) == ()
        found.placed += plan.status is Status.PLACED
        found.proven += plan.proof in (Proof.OPTIMAL, Proof.INFEASIBLE)
        if plan.status is Status.PLACED and plan.cost:
            ending += 1
            found.gaps.append((plan.cost - (plan.lower_bound or 0)) / plan.cost)
            alone = evict(snapshot, request, leaving, QUIET)
            if alone.cost:
                fewer.append(100 * (1 - plan.cost / alone.cost))
    found.notes.append(f"some end in {ending} of {seeds}")
    if fewer:
        found.notes.append(f"{np.mean(fewer):.0f} % fewer bytes end than without moves, where both have a plan")
    return found


def rows(seeds: int) -> list[Row]:
    """Whole hosts and halves of hosts, at 80, 90 and 95 % use."""
    whole = Node("n", {"vcpu": 64, "memory": 256 * GIB}, count=16)
    fast = report.p99(50)
    half = Node("n", {"vcpu": 32, "memory": 128 * GIB}, count=40)
    return [
        row(
            "room for 16 whole hosts, 1,000 at 80 %", "proven, p99 <= 50 ms", (report.proven(), fast), 0.8, whole, seeds
        ),
        row(
            "room for 16 whole hosts, 1,000 at 90 %",
            ">= 90 % proven, p99 <= 50 ms, 20 % fewer moves",
            (report.proven(0.9), fast, report.figure("% fewer moves", least=20)),
            0.9,
            whole,
            seeds,
        ),
        row(
            "room for 16 whole hosts, 1,000 at 95 %",
            "gap <= 5 %",
            (report.placed, report.gap(0.05)),
            0.95,
            whole,
            seeds,
        ),
        row("room for 40 halves, 1,000 at 90 %", "(also)", (), 0.9, half, seeds),
        ends_row(max(4, seeds // 2)),
    ]

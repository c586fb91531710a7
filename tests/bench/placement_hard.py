"""Fleets as they are: hosts that all differ, racks that may fail, single nodes in turn, families made to hurt.

The families are drawn from a seed that the clock gives, printed with their row; ``--random`` draws the same again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from placement.constraints import AtMost, Scope
from placement.engine import place
from placement.model import Flavour, Member, Node, Request, Snapshot, Status, Strategy, joined
from placement.problem.gang import collapse
from placement.problem.index import index_of
from placement.problem.scoring import free_for, room_value
from placement.search.greedy import greedy
from tests.bench import placement_cases as cases
from tests.bench import placement_report as report
from tests.bench.placement_report import QUIET, Case, Row, decide
from tests.placement import hostile, wild

BOTH = (Strategy.LEAST_LOST_VALUE, Strategy.FEWEST_HOSTS)
SIZED = ("all_differ", "few_sizes", "ten_resources", "sockets", "ruled", "models")
OWN = ("many_kinds", "awkward_units", "near_chain", "every_rule")
"""Six families by the number of hosts, and four with fleets of their own."""


def differing(hosts: int, seeds: int) -> list[Row]:
    """Hosts that all differ and 400 sizes: when the first answer is there, and how good it is after a second."""
    rows = []
    for strategy in BOTH:
        row = Row(
            f"{hosts:,} hosts that all differ, 400 sizes, {strategy.value}",
            "first in 200 ms, gap <= 2 % in 1 s",
            (report.gap(0.02), report.figure("first after ms", most=200)),
        )
        first = []
        for seed in range(seeds):
            case = wild.all_differ(hosts, strategy, seed)
            decision, cpu, wall = decide(case, 1.0)
            row.add(decision, cpu, wall)
            first.append(first_answer(case))
        row.figures["first after ms"] = [max(ms or 10_000 for ms in first)]
        told = ", ".join(sorted({f"{ms} ms" if ms else "none in 1 s" for ms in first}))
        row.notes.append(f"first answer there after {told}")
        rows.append(row)
    return rows


def first_answer(case: Case) -> int:
    """The shortest of a row of deadlines, in ms of CPU, by which there was an answer; 0: by none."""
    for milliseconds in (50, 100, 200, 400, 1000):
        decision, _, _ = decide(case, milliseconds / 1000)
        if decision.status is Status.PLACED:
            return milliseconds
    return 0


def families(sizes: Sequence[int], drawn: int) -> list[Row]:
    """Each family with a deadline of half a second of CPU: how late the answer is, and whether greedy had one."""
    made: list[tuple[str, Callable[[], Case]]] = []
    for number, name in enumerate(SIZED):
        for hosts in sizes:
            strategy = BOTH[(drawn + number) % 2]
            made.append((f"{name}, {hosts:,} hosts", partial(wild.FAMILIES[name], hosts, strategy, drawn)))
    made += [(name, partial(hostile.CASES[name], Strategy.FEWEST_HOSTS)) for name in OWN]
    row = Row(
        f"{len(SIZED) + len(OWN)} families, half a second",
        "late by <= 50 ms, an answer where greedy has one",
        (report.figure("latest ms", most=50), report.figure("without an answer", most=0)),
    )
    late: list[tuple[float, str]] = []
    without: list[str] = []
    for name, build in made:
        case = build()
        decision, cpu, wall = decide(case, 0.5)
        row.add(decision, cpu, wall)
        late.append((1000 * (cpu - 0.5), name))
        if decision.status is not Status.PLACED and greedy_has_one(case):
            without.append(name)
    worst = sorted(late, reverse=True)[:3]
    row.figures["latest ms"], row.figures["without an answer"] = [worst[0][0]], [float(len(without))]
    row.notes.append(f"drawn from {drawn}")
    row.notes.append("latest " + ", ".join(f"{name} {max(0, ms):.0f} ms" for ms, name in worst))
    row.notes.append(f"no answer where greedy has one: {', '.join(without) or 'nowhere'}")
    return [row]


def greedy_has_one(case: Case, seconds: float = 0.5) -> bool:
    """Whether plain greedy places the whole gang in as much CPU time."""
    gang = collapse(*case)
    end = time.process_time() + seconds
    board = greedy(gang, case[1].strategy, lambda: time.process_time() > end)
    return board is not None and len(board.assignments) == gang.size


def random_cuts(hosts: int, cuts: int, seed: int) -> Case:
    """All free room of some hosts, cut at random into pieces of odd sizes: the gang that fills everything."""
    r = random.Random(seed)
    snapshot = cases.fleet(hosts, seed)
    pieces = []
    for host in snapshot.hosts:
        room = [(host.free("cpu"), host.free("memory") // cases.GIB)]
        for _ in range(max(0, cuts // hosts - 1)):
            cpu, gib = room.pop(r.randrange(len(room)))
            if cpu < 2 or gib < 2:
                room.append((cpu, gib))
                continue
            a, b = r.randint(1, cpu - 1), r.randint(1, gib - 1)
            room += [(a, b), (cpu - a, gib - b)]
        pieces += [piece for piece in room if piece[0] and piece[1]]
    r.shuffle(pieces)
    return snapshot, cases.request(pieces)


def cuts(seeds: int) -> list[Row]:
    """Zero slack where no two pieces are alike."""
    row = Row("zero slack, 40 to 150 hosts, 200 random cuts", "placed in 2 s", (report.placed,))
    for seed in range(seeds):
        row.add(*decide(random_cuts((40, 80, 150)[seed % 3], 200, seed), 2.0))
    row.notes.append("each can be placed: it was cut from the room")
    return [row]


def survive(seeds: int) -> list[Row]:
    """A gang of which, whichever rack is lost, three quarters are left."""
    row = Row("10,000 x 200, any rack may be lost", "proven, <= 100 ms", (report.proven(), report.p99(100)))
    for seed in range(seeds):
        snapshot, request = cases.fleet(10_000, seed), cases.gang(200, seed)
        row.add(*decide((snapshot, replace(request, constraints=(AtMost(limit=50, scope=Scope.RACK),)))))
    row.notes.append("150 of 200 members are left")
    return [row]


def singles(nodes: int) -> list[Row]:
    """Single nodes one after another on 10,000 hosts, the fleet kept current, beside a plain best fit on arrays."""
    rows = []
    for strategy in (*BOTH, Strategy.SPREAD):
        row = Row(
            f"single nodes, 10,000 hosts, {strategy.value}",
            "1,000 a CPU second, p99 <= 3 ms",
            (report.figure("a CPU second", least=1000), report.p99(3)),
        )
        snapshot = cases.fleet(10_000, 0)
        flavours = tuple(Flavour({"cpu": cpu, "memory": gib * cases.GIB}) for cpu, gib in cases.FLAVOURS)
        snapshot = Snapshot(snapshot.hosts, flavours)
        asked = [replace(node, count=1) for node in cases.gang(nodes, 0).nodes]
        place(snapshot, Request((asked[0],), strategy), QUIET)
        spent, placed = _one_by_one(snapshot, asked, strategy, row)
        row.figures["a CPU second"] = [placed / spent]
        row.notes.append(f"{placed / spent:,.0f} a CPU second, the fleet kept current in it")
        if strategy is Strategy.LEAST_LOST_VALUE:
            other, of = _best_fit(snapshot, asked)
            row.notes.append(f"best fit on bare arrays {of / other:,.0f}")
        rows.append(row)
    return rows


def _one_by_one(snapshot: Snapshot, asked: Sequence[Node], strategy: Strategy, row: Row) -> tuple[float, int]:
    where = {host.id: number for number, host in enumerate(snapshot.hosts)}
    begun = time.process_time()
    for node in asked:
        cpu, wall = time.process_time(), time.monotonic()
        request = Request((node,), strategy)
        decision = place(snapshot, request, QUIET)
        (landed,) = decision.assignments
        host = snapshot.hosts[where[landed.host]]
        snapshot = snapshot.updated((joined(host, Member(node.id, node.demand)),))
        row.add(decision, time.process_time() - cpu, time.monotonic() - wall)
    return time.process_time() - begun, len(asked)


def _best_fit(snapshot: Snapshot, asked: Sequence[Node]) -> tuple[float, int]:
    gang = collapse(snapshot, Request((asked[0],)))
    value = room_value(gang)
    room = free_for(index_of(snapshot), value.names).copy()
    largest = room.max(axis=0)
    begun = time.process_time()
    for node in asked:
        size = np.array([node.demand[name] for name in value.names], np.int64)
        fits = np.flatnonzero((room >= size).all(axis=1))
        room[fits[np.argmin(((room[fits] - size) / largest).sum(axis=1))]] -= size
    return time.process_time() - begun, len(asked)

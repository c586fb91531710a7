"""Requests made to hurt, and ``python -m tests.placement.hostile CASE STRATEGY``: decides one in a process of its own.

Prints the status, the proof and the peak memory in MiB.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

from placement.check import check
from placement.constraints import (
    EVERYTHING,
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
)
from placement.engine import place
from placement.model import Cell, Flavour, Host, Node, Request, Snapshot, Status, Strategy
from placement.resources import MAX_AMOUNT

Build = Callable[[Strategy], tuple[Snapshot, Request]]
CPU_SECONDS = 2.0


def fleet(size: int, **capacity: int) -> Snapshot:
    """Equal hosts, twenty a rack, in three zones."""
    has = capacity or {"cpu": 64, "mem": 256}
    return Snapshot(tuple(Host(f"h{n:06d}", f"z{n % 3}", has, {}, f"r{n // 20}") for n in range(size)))


def named(*ids: str) -> Selector:
    return Selector(frozenset(ids))


def singles(count: int) -> tuple[Node, ...]:
    return tuple(Node(f"n{n}", {"cpu": 1}) for n in range(count))


def many_nodes(strategy: Strategy) -> tuple[Snapshot, Request]:
    """A hundred thousand nodes of 77 sizes."""
    nodes = tuple(Node(f"n{n}", {"cpu": 1 + n % 7, "mem": n % 11}) for n in range(100_000))
    return fleet(2000, cpu=400, mem=10**8), Request(nodes, strategy)


def many_kinds(strategy: Strategy) -> tuple[Snapshot, Request]:
    """Ten thousand hosts of which no two are alike, and 9,900 nodes of 4,950 sizes; most hosts take no two of them."""
    hosts = tuple(Host(f"h{n:06d}", "z", {"cpu": 10_000 + n, "mem": 30_000 - n}) for n in range(10_000))
    nodes = tuple(Node(f"n{n}", {"cpu": 6_000 + n // 4, "mem": 16_000 - n // 2}) for n in range(9_900))
    return Snapshot(hosts), Request(nodes, strategy)


def many_classes(strategy: Strategy) -> tuple[Snapshot, Request]:
    """A hundred thousand hosts of which no two are alike, and a thousand kinds of nodes."""
    hosts = tuple(Host(f"h{n:06d}", "z", {"cpu": 1 + n % 997, "mem": 1 + n}) for n in range(100_000))
    nodes = tuple(Node(f"n{n}", {"cpu": 1 + n % 13, "mem": 1 + n % 101}) for n in range(1000))
    return Snapshot(hosts), Request(nodes, strategy)


def awkward_units(strategy: Strategy) -> tuple[Snapshot, Request]:
    """Ten resources whose amounts have no common factor and differ in every node."""
    capacity = {f"r{d}": 10**13 + 7 * d for d in range(10)}
    nodes = tuple(
        Node(f"n{n}", {f"r{d}": 10**9 + (n * 7919 * (d + 3)) % 10**12 for d in range(10)}) for n in range(1000)
    )
    return fleet(500, **capacity), Request(nodes, strategy)


def many_resources(strategy: Strategy) -> tuple[Snapshot, Request]:
    """Sixty-four resources and a thousand flavours over them."""
    flavours = tuple(Flavour({f"r{d}": 1 + (n * d) % 9973 for d in range(64)}) for n in range(1000))
    nodes = tuple(Node(f"n{n}", {f"r{d}": 1 + (n * d * 31) % 9973 for d in range(64)}) for n in range(200))
    return Snapshot(fleet(300, **{f"r{d}": 10**6 for d in range(64)}).hosts, flavours), Request(nodes, strategy)


def huge_amounts(strategy: Strategy) -> tuple[Snapshot, Request]:
    """Amounts whose sums only just fit 62 bits."""
    nodes = tuple(Node(f"n{n}", {"cpu": MAX_AMOUNT // 50 - n, "mem": MAX_AMOUNT // 60 + n}) for n in range(30))
    return fleet(3, cpu=MAX_AMOUNT // 3, mem=MAX_AMOUNT // 3), Request(nodes, strategy)


def near_chain(strategy: Strategy) -> tuple[Snapshot, Request]:
    """A thousand nodes, each wanted near the next."""
    rules = tuple(Near(named(f"n{n}"), named(f"n{n + 1}"), Scope.RACK) for n in range(999))
    return fleet(300), Request(singles(1000), strategy, rules)


def rack_chain(strategy: Strategy) -> tuple[Snapshot, Request]:
    """Two hundred rules that one after another tie everything to one rack."""
    rules = tuple(Together(named(f"n{n}", f"n{n + 1}"), Scope.RACK) for n in range(200))
    return fleet(300), Request(singles(201), strategy, rules)


def clique(strategy: Strategy) -> tuple[Snapshot, Request]:
    """Forty-four nodes that all must be apart, on forty hosts."""
    rules = tuple(Apart(named(f"n{a}"), named(f"n{b}")) for a in range(44) for b in range(a))
    return fleet(40), Request(singles(44), strategy, rules)


def contradictions(strategy: Strategy) -> tuple[Snapshot, Request]:
    """Fifty thousand nodes under rules of which each pair contradicts itself."""
    nodes = tuple(Node(f"n{n}", {"cpu": 1}, labels={"g": str(n % 60)}) for n in range(50_000))
    rules = [Together(Selector(labels={"g": str(n)})) for n in range(60)]
    limits = [AtMost(Selector(labels={"g": str(n)}), 1) for n in range(60)]
    return fleet(1000), Request(nodes, strategy, (*rules, *limits))


def numa(strategy: Strategy) -> tuple[Snapshot, Request]:
    """Ten thousand NUMA nodes, on hosts that have less than a quarter of what they ask for."""
    hosts = tuple(Host(f"h{n}", "z", {"cpu": 64}, cells=(Cell({"cpu": 32}),) * 2) for n in range(300))
    return Snapshot(hosts), Request(tuple(Node(f"n{n}", {"cpu": 1 + n % 16}, cells=1 + n % 2) for n in range(10_000)))


def every_rule(strategy: Strategy) -> tuple[Snapshot, Request]:
    """Two thousand nodes under every rule and every wish at once, on hosts of three kinds in racks of all zones."""
    hosts = tuple(
        Host(f"h{n}", f"z{n % 3}", {"cpu": 40 + n % 7}, rack=f"r{n % 50}", labels={"disk": f"d{n % 3}"})
        for n in range(2000)
    )
    wanted = tuple(Node(f"n{n}", {"cpu": 1 + n % 5}, host_labels={"disk": ("d0", "d1")}) for n in range(2000))
    rules: tuple[Constraint, ...] = (
        *(AtMost(EVERYTHING, limit, scope) for limit, scope in ((3, Scope.HOST), (60, Scope.RACK), (900, Scope.ZONE))),
        *(
            SpreadOver(EVERYTHING, scope, least)
            for least, scope in ((700, Scope.HOST), (40, Scope.RACK), (3, Scope.ZONE))
        ),
        SpareHosts(900),
        Prefer("disk", ("d0",), EVERYTHING, 7),
        Apart(EVERYTHING, Selector(labels={"g": "other"}), weight=3),
        Near(EVERYTHING, Selector(labels={"g": "third"}), weight=2),
    )
    return Snapshot(hosts), Request(wanted, strategy, rules)


CASES: dict[str, Build] = {
    build.__name__: build
    for build in (
        many_nodes,
        many_kinds,
        many_classes,
        awkward_units,
        many_resources,
        huge_amounts,
        near_chain,
        rack_chain,
        clique,
        contradictions,
        numa,
        every_rule,
    )
}


def main() -> None:
    """Decides one case with a deadline in CPU time, and verifies what it placed."""
    snapshot, request = CASES[sys.argv[1]](Strategy(sys.argv[2]))
    start = time.process_time()
    decision = place(snapshot, request, stop=lambda: time.process_time() - start > CPU_SECONDS)
    if decision.status is Status.PLACED:
        assert check(snapshot, request, decision) == ()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(decision.status.value, decision.proof.value, peak)


if __name__ == "__main__":
    main()

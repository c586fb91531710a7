"""``python -m tests.bench.placement_bench [ROW ...] [--out FOLDER] [--quick] [--seeds N] [--peers] [--plot]``

Every row of the placement figures in one run, ours beside plain greedy, the naive models and real peers. Every decision
is verified by the independent check. ``--quick`` takes two to three minutes of a quiet machine, the whole run a quarter
of an hour: rows that could take longer stop at a budget and say how far they came.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from placement.check import check
from placement.constraints import AtMost, Scope, Selector, SpreadOver
from placement.engine import place
from placement.model import Node, Policy, Proof, Request, Snapshot, Strategy
from placement.problem.gang import collapse
from placement.search.greedy import greedy
from tests.bench import placement_cases as cases
from tests.bench import placement_devices as devices
from tests.bench import placement_ganeti as ganeti
from tests.bench import placement_hard as hard
from tests.bench import placement_peers as peers
from tests.bench import placement_report as report
from tests.bench import placement_room as rooms
from tests.bench import placement_stream as streams
from tests.bench.placement_report import HEAD, QUIET, Case, Row, decide, plot, sizes_rows, write

RULES = ("first-fit", "best-fit", "dot-product")


def measure(row: Row, made: Iterable[Case], seconds: float | None = None, beside: bool = False) -> Row:
    """Fills a row; ``beside`` compares the plain greedy rules on the same cases."""
    for case in made:
        decision, cpu, wall = decide(case, seconds)
        row.add(decision, cpu, wall)
        if beside and decision.objective:
            for rule in RULES:
                other = peers.plain_greedy(*case, rule)
                if other.placed == case[1].size and other.hosts:
                    row.extra.setdefault(rule, []).append(100 * (other.hosts / decision.objective - 1))
                elif f"{rule} leaves nodes out" not in row.notes:
                    row.notes.append(f"{rule} leaves nodes out")
    return row


def row_small(options: argparse.Namespace) -> list[Row]:
    """1,000 hosts, 200 nodes."""
    n = options.seeds
    common = ((cases.fleet(1000, s), cases.gang(200, s)) for s in range(5 * n))
    odd = ((cases.fleet(1000, s), cases.odd_gang(200, s, 12)) for s in range(5 * n))
    return [
        measure(Row("1,000 x 200", "proven, p99 <= 3.5 ms", (report.proven(), report.p99(3.5))), common, beside=True),
        measure(Row("1,000 x 200, odd sizes", "(harder)"), odd, beside=True),
    ]


def row_large(options: argparse.Namespace) -> list[Row]:
    """10,000 hosts, 1,000 nodes."""
    n = options.seeds
    common = ((cases.fleet(10_000, s), cases.gang(1000, s)) for s in range(2 * n))
    odd = ((cases.fleet(10_000, s), cases.odd_gang(1000, s, 12)) for s in range(n))
    return [
        measure(Row("10,000 x 1,000", "proven, p99 <= 9.5 ms", (report.proven(), report.p99(9.5))), common),
        measure(Row("10,000 x 1,000, odd sizes", "(harder)"), odd),
    ]


def row_topology(options: argparse.Namespace) -> list[Row]:
    """Huawei's hosts, both files, sockets summed and NUMA-exact."""
    data = cases.shared_data()
    if data is None:
        return [Row("1,710 x 4,998", "proven, <= 100 ms", notes=["data not found"])]
    rows = []
    for numa, most in ((False, 100.0), (True, 200.0)):
        for file in ("C1", "C2"):
            row = Row(
                f"1,710 x 4,998 {file}{', NUMA-exact' if numa else ''}",
                f"proven, <= {most:.0f} ms",
                (report.proven(), report.p99(most)),
            )
            case = cases.topology(data, file, numa)
            measure(row, [case] * 5, None if not numa else 0.5, beside=False)
            if not numa:
                best = decide(case)[0].objective or 1
                for rule in RULES:
                    other = peers.plain_greedy(*case, rule)
                    row.extra[rule] = [100 * ((other.hosts or 0) / best - 1)]
            rows.append(row)
    return rows


def row_full(options: argparse.Namespace) -> list[Row]:
    """Fleets that the gang fills almost or wholly."""
    nearly = (cases.nearly_full(100, s, 0.97) for s in range(3 * options.seeds))
    none = (cases.zero_slack(1000, s) for s in range(max(2, options.seeds // 3)))
    return [
        measure(
            Row("gang filling 100 hosts to 97 %", "always placed, <= 50 ms", (report.placed, report.p99(50))),
            nearly,
            2.0,
            beside=True,
        ),
        measure(Row("zero slack on 1,000 hosts", "all placed in 5 s", (report.placed,)), none, 5.0),
    ]


def row_custom(options: argparse.Namespace) -> list[Row]:
    """Hundreds of custom sizes."""
    made = ((cases.fleet(10_000, s), cases.custom_gang(1000, s)) for s in range(max(3, options.seeds // 2)))
    return [measure(Row("10,000 x 1,000, 300 custom sizes", "gap <= 1 % in 1 s", (report.gap(0.01),)), made, 1.0)]


def row_vector(options: argparse.Namespace) -> list[Row]:
    """Academic vector packing: known optima hit within 1 s and within 10 s of CPU, as many as the budget allows."""
    data = cases.shared_data()
    if data is None:
        return [Row("vector packing", "hits: 85 % in 1 s, 95 % in 10 s", notes=["data not found"])]
    short = Row("vector packing, 1 s", "hit 85 %", (report.figure("hit %", least=85),))
    long = Row("vector packing, 10 s", "hit 95 %", (report.figure("hit %", least=95),))
    hits = {1: 0, 10: 0}
    known = 0
    missed = []
    made = cases.vector_instances(data)
    random.Random(1).shuffle(made)
    end = time.monotonic() + options.budget
    for name, optimum, snapshot, request in made:
        if time.monotonic() > end:
            break
        known += optimum > 0
        decision, cpu, wall = decide((snapshot, request), 1.0)
        short.add(decision, cpu, wall)
        final = decision
        if decision.proof is not Proof.OPTIMAL and decision.objective != optimum:
            final, cpu, wall = decide((snapshot, request), 10.0)
        long.add(final, cpu, wall)
        assert optimum < 0 or (final.lower_bound or 0) <= optimum <= (final.objective or 10**9), name
        hits[1] += optimum > 0 and decision.objective == optimum
        hits[10] += optimum > 0 and final.objective == optimum
        if optimum > 0 and final.objective != optimum:
            missed.append(f"{name} {final.objective} for {optimum}")
    for row, seconds in ((short, 1), (long, 10)):
        share = 100 * hits[seconds] / max(1, known)
        row.figures["hit %"] = [share]
        row.notes.append(f"hit {hits[seconds]} of {known} known ({share:.1f} %)")
        row.notes.append(f"{len(short.cpu_ms)} of {len(made)} files in the budget of {options.budget:.0f} s")
    if missed:
        long.notes.append(f"missed {', '.join(missed)}")
    return [short, long]


def racks_and_tags(seed: int) -> Case:
    """10,000 hosts of which a fifth bear a tag; 1,000 nodes, some tagged, at most six a rack, spread over 40 racks."""
    r = random.Random(seed)
    snapshot = cases.fleet(10_000, seed)
    hosts = tuple(replace(host, labels={"net": "fast"} if r.random() < 0.2 else {}) for host in snapshot.hosts)
    nodes = []
    for number in range(1000):
        cpu, gib = r.choices(cases.FLAVOURS, cases.SHARES)[0]
        labels = {"app": f"app-{number % 10}"}
        wants = {"net": ("fast",)} if number % 4 == 0 else {}
        nodes.append(Node(f"n{number}", {"cpu": cpu, "memory": gib * cases.GIB}, labels=labels, host_labels=wants))
    rules = (
        AtMost(limit=8, scope=Scope.RACK),
        AtMost(Selector(labels={"app": "app-0"}), 1, Scope.RACK),
        SpreadOver(scope=Scope.RACK, minimum=40),
    )
    return Snapshot(hosts), Request(tuple(nodes), Strategy.FEWEST_HOSTS, rules)


def row_rules(options: argparse.Namespace) -> list[Row]:
    """Rack and tag rules at scale, beside the greedy that keeps the same rules."""
    row = Row("10,000 x 1,000, rack and tag rules", "better than greedy, bound stated")
    for seed in range(max(2, options.seeds // 4)):
        case = racks_and_tags(seed)
        decision, cpu, wall = decide(case, 5.0)
        row.add(decision, cpu, wall)
        gang = collapse(*case)
        board = greedy(gang, Strategy.FEWEST_HOSTS, lambda: False)
        if board is not None and decision.objective:
            hosts = len({host for _, host, _ in board.assignments})
            row.extra.setdefault("greedy with rules", []).append(100 * (hosts / decision.objective - 1))
    return [row]


def row_explain(options: argparse.Namespace) -> list[Row]:
    """Conflict and cures at 1,000 hosts, by several ways of not fitting."""
    row = Row("conflict and cure, 1,000 hosts", "<= 100 ms, no false cure", (report.p99(100),))
    gib = cases.GIB
    big = Node("n", {"cpu": 16, "memory": 64 * gib})
    asks: list[Callable[[], Request]] = [
        lambda: Request((replace(big, count=4000),)),
        lambda: Request((replace(big, count=40),), constraints=(AtMost(limit=1, scope=Scope.RACK),)),
        lambda: Request((replace(big, zone="nowhere"),)),
        lambda: Request((replace(big, demand={"cpu": 500, "memory": gib}),)),
        lambda: Request((replace(big, count=9, exclusive=True, host_labels={"net": ("fast",)}),)),
    ]
    for seed in range(max(2, options.seeds // 4)):
        snapshot = cases.fleet(1000, seed)
        for ask in asks:
            decision, cpu, wall = decide((snapshot, ask()), policy=Policy())
            assert decision.explanation is not None
            row.add(decision, cpu, wall)
    row.notes.append("gang too large, racks, zone, size, labels")
    return [row]


def row_deadline(options: argparse.Namespace) -> list[Row]:
    """Wall-clock deadlines on hard cases: how late the answer is, and that its bounds hold."""
    row = Row("deadline honesty", "late by <= 50 ms, bounds hold", (report.figure("latest ms", most=50),))
    made = [cases.zero_slack(300, 1), (cases.fleet(10_000, 1), cases.custom_gang(1000, 1)), racks_and_tags(1)]
    late = []
    for case in made:
        truth, _, _ = decide(case, 30.0)
        for milliseconds in (20, 50, 200, 1000):
            end = time.monotonic() + milliseconds / 1000
            cpu, wall = time.process_time(), time.monotonic()
            decision = place(*case, QUIET, lambda end=end: time.monotonic() > end)  # type: ignore[misc]
            late.append((time.monotonic() - end) * 1000)
            row.add(decision, time.process_time() - cpu, time.monotonic() - wall)
            assert check(*case, decision) == ()
            if decision.objective is not None and truth.objective is not None:
                assert (decision.lower_bound or 0) <= truth.objective
                assert (truth.lower_bound or 0) <= decision.objective
    row.figures["latest ms"] = [max(late)]
    row.notes.append(f"latest {max(late):.0f} ms after a deadline of 20 to 1,000 ms")
    return [row]


def row_peers(options: argparse.Namespace) -> list[Row]:
    """The naive models and the real schedulers beside ours, each on the same fleet and gang."""
    whole = cases.fleet(1000, 0), cases.gang(200, 0)
    one = whole[0], replace(whole[1], nodes=whole[1].nodes[:1])
    few = cases.fleet(100, 0), replace(whole[1], nodes=whole[1].nodes[:20])
    rows = [_beside(whole, [peers.plain_greedy(*whole, rule) for rule in RULES])]
    rows.append(_beside(whole, [peers.naive_cp_sat(*whole, options.naive), peers.naive_scip(*whole, options.naive)]))
    if options.peers:
        rows.append(_beside(few, [ganeti.hail(*few, 60.0)]))
        if not options.quick:
            rows.append(_beside(one, [ganeti.hail(*one, 90.0)]))
            rows.append(_beside(whole, [peers.openstack_placement(*whole, 200, 60.0)]))
    return [row for found in rows for row in found]


def _beside(case: Case, outcomes: list[peers.Outcome]) -> list[Row]:
    """A row for each peer: our own figures in the columns; in the notes its own, and how many times ours they are."""
    rows = []
    for outcome in outcomes:
        row = Row(f"ours beside {outcome.name}", f"{len(case[0].hosts):,} x {case[1].size:,}")
        for _ in range(5):
            decision, cpu, wall = decide(case)
            row.add(decision, cpu, wall)
        if outcome.placed:
            ratio = outcome.seconds * 1000 / float(np.median(row.cpu_ms))
            row.notes.append(f"{outcome.seconds * 1000:.0f} ms, {ratio:,.0f} times ours")
            row.notes.append(f"it placed {outcome.placed} on {outcome.hosts} hosts, ours on {decision.objective}")
        elif outcome.seconds:
            row.notes.append(f"nothing after {outcome.seconds * 1000:.0f} ms")
        row.notes.extend([outcome.note] if outcome.note else [])
        rows.append(row)
    return rows


def row_stream(options: argparse.Namespace) -> list[Row]:
    """Requests one after the other: how much more the default strategy places."""
    data = cases.shared_data()
    rows = [Row("stream of gangs, 60 hosts", "more placed", notes=streams.generated(max(2, options.seeds // 4)))]
    notes = streams.recorded(data, 3) if data is not None else ["data not found"]
    return [*rows, Row("stream of recorded requests, 120 hosts", "more placed than best-fit", notes=notes)]


def row_room(options: argparse.Namespace) -> list[Row]:
    """Room for a gang by moves of others."""
    return rooms.rows(max(4, options.seeds))


def row_devices(options: argparse.Namespace) -> list[Row]:
    """Gangs of 16 to 64 accelerators where their cells and partitions have them; 1,000 hosts."""
    n, aims = 10 * options.seeds, (report.proven(), report.p99(50))
    return [
        measure(Row("devices together, one size", "proven, p99 <= 50 ms", aims), devices.gangs(n, False, 1)),
        measure(Row("devices together, a head and two sizes", "proven, p99 <= 50 ms", aims), devices.gangs(n, True, 2)),
    ]


def row_differ(options: argparse.Namespace) -> list[Row]:
    """Fleets of which no two hosts are alike."""
    sizes = (1000, 10_000)
    return [row for hosts in sizes for row in hard.differing(hosts, max(1, options.seeds // 5))]


def row_families(options: argparse.Namespace) -> list[Row]:
    """Families made to hurt, drawn anew in each run."""
    return hard.families((1000, 10_000) if options.quick else (1000, 10_000, 50_000), options.random)


def row_cuts(options: argparse.Namespace) -> list[Row]:
    """Fleets that the gang fills to the last byte, in pieces of which no two are alike."""
    return hard.cuts(max(3, options.seeds // 2))


def row_survive(options: argparse.Namespace) -> list[Row]:
    """Gangs that may lose any rack."""
    return hard.survive(options.seeds)


def row_singles(options: argparse.Namespace) -> list[Row]:
    """Single nodes one after another."""
    return hard.singles(500 if options.quick else 3000)


ROWS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "small": row_small,
    "large": row_large,
    "topology": row_topology,
    "full": row_full,
    "custom": row_custom,
    "rules": row_rules,
    "explain": row_explain,
    "devices": row_devices,
    "deadline": row_deadline,
    "differ": row_differ,
    "families": row_families,
    "cuts": row_cuts,
    "survive": row_survive,
    "singles": row_singles,
    "stream": row_stream,
    "peers": row_peers,
    "room": row_room,
    "vector": row_vector,
}


def parsed() -> argparse.Namespace:
    """The command line; ``--quick`` lowers what was not given."""
    parser = argparse.ArgumentParser(description="Benchmark of the planner.")
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="which rows; all without")
    parser.add_argument("--quick", action="store_true", help="two to three minutes instead of fifteen")
    parser.add_argument("--seeds", type=int, help="how many fleets a row; 20, quick 4")
    parser.add_argument("--naive", type=float, help="seconds for each naive model; 20, quick 5")
    parser.add_argument("--budget", type=float, help="seconds for all vector packing instances; 420, quick 30")
    parser.add_argument("--random", type=int, default=int(time.time()), help="what families are drawn from; the clock")
    parser.add_argument("--peers", action="store_true", help="also run the real peers, where they install")
    parser.add_argument("--plot", action="store_true", help="also draw latency against fleet size")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the table and the plot")
    options = parser.parse_args()
    for name, value, quick in (("seeds", 20, 4), ("naive", 20.0, 5.0), ("budget", 420.0, 30.0)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else value)
    return options


def main() -> None:
    """Runs the rows that are named, or all, and writes the table after each, so that nothing is lost."""
    options = parsed()
    warm = cases.fleet(1000, 1), cases.odd_gang(200, 39, 12)
    decide(warm)
    print(HEAD, flush=True)
    lines: list[str] = []
    sizes: list[str] = []
    sections = [("Cases", lines), ("Latency against fleet size", sizes)]
    for name in options.rows or ROWS:
        for row in ROWS[name](options):
            lines.append(row.line())
            print(lines[-1], flush=True)
        write(options.out, sections[:1])
    if options.plot:
        rows = sizes_rows(4 if options.quick else 10)
        sizes.extend(row.line() for row in rows.values())
        print("\n".join(sizes))
        print(plot(rows, options.out))
    print(write(options.out, sections if sizes else sections[:1]))


if __name__ == "__main__":
    main()

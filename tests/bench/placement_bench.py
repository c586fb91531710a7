"""``python -m tests.bench.placement_bench [ROW ...] [--out FOLDER] [--seeds N] [--naive SECONDS] [--peers] [--plot]``

Every row of the placement figures in one run, ours beside plain greedy, the naive models and real peers. Times are CPU
milliseconds of the planner's process (the machine is shared) with the wall clock's p99 beside them; the index of a
snapshot is built before, as the service keeps it. Every decision is verified by the independent check.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from placement.check import check
from placement.constraints import AtMost, Scope, Selector, SpreadOver
from placement.engine import place
from placement.gang import collapse
from placement.greedy import greedy
from placement.model import Decision, Node, Policy, Proof, Request, Snapshot, Status, Strategy
from tests.bench import placement_cases as cases
from tests.bench import placement_peers as peers
from tests.bench import placement_stream as streams

QUIET = Policy(explain=False)
Case = tuple[Snapshot, Request]
RULES = ("first-fit", "best-fit", "dot-product")


@dataclass
class Row:
    """One line of the table."""

    name: str
    figure: str
    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    proven: int = 0
    placed: int = 0
    extra: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, decision: Decision, cpu: float, wall: float) -> None:
        """Counts one decision."""
        self.cpu_ms.append(cpu * 1000)
        self.wall_ms.append(wall * 1000)
        self.placed += decision.status is Status.PLACED
        self.proven += decision.proof in (Proof.OPTIMAL, Proof.INFEASIBLE)
        if decision.gap is not None:
            self.gaps.append(decision.gap)

    def line(self) -> str:
        """The row in Markdown."""
        n = len(self.cpu_ms)
        if not n:
            return f"| {self.name} | {self.figure} | - | - | - | - | - | {'; '.join(self.notes)} |"
        p50, p99 = np.percentile(self.cpu_ms, [50, 99])
        gap = f"{100 * max(self.gaps):.2f} %" if self.gaps else "-"
        more = [f"{name} {np.mean(values):+.1f} %" for name, values in self.extra.items() if values]
        return (
            f"| {self.name} | {self.figure} | {p50:.1f} | {p99:.1f} | {np.percentile(self.wall_ms, 99):.0f} | "
            f"{self.placed}/{n} | {self.proven}/{n}, gap {gap} | {'; '.join(more + self.notes)} |"
        )


HEAD = (
    "| case | to reach | p50 CPU ms | p99 CPU ms | p99 wall ms | placed | proven | hosts beyond ours, notes |\n"
    "|---|---|---|---|---|---|---|---|"
)


def decide(case: Case, seconds: float | None = None, policy: Policy = QUIET) -> tuple[Decision, float, float]:
    """(decision, CPU seconds, wall seconds), verified; ``seconds`` of CPU are the deadline."""
    snapshot, request = case
    snapshot.index()
    if any(host.cells for host in snapshot.hosts):
        snapshot.index().cells()
    gc.collect()
    gc.disable()
    cpu, wall = time.process_time(), time.monotonic()
    stop = (lambda: False) if seconds is None else (lambda: time.process_time() - cpu > seconds)
    decision = place(snapshot, request, policy, stop)
    spent = time.process_time() - cpu, time.monotonic() - wall
    gc.enable()
    wrong = check(snapshot, request, decision)
    if decision.status is Status.PLACED and wrong:
        raise AssertionError(f"the check found {wrong[:3]}")
    return decision, *spent


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
        measure(Row("1,000 x 200", "proven, p99 <= 5 ms"), common, beside=True),
        measure(Row("1,000 x 200, odd sizes", "(harder)"), odd, beside=True),
    ]


def row_large(options: argparse.Namespace) -> list[Row]:
    """10,000 hosts, 1,000 nodes."""
    n = options.seeds
    common = ((cases.fleet(10_000, s), cases.gang(1000, s)) for s in range(2 * n))
    odd = ((cases.fleet(10_000, s), cases.odd_gang(1000, s, 12)) for s in range(n))
    return [
        measure(Row("10,000 x 1,000", "proven, p99 <= 15 ms"), common),
        measure(Row("10,000 x 1,000, odd sizes", "(harder)"), odd),
    ]


def row_topology(options: argparse.Namespace) -> list[Row]:
    """Huawei's hosts, both files, sockets summed and NUMA-exact."""
    data = cases.shared_data()
    if data is None:
        return [Row("1,710 x 4,998", "proven, <= 100 ms", notes=["data not found"])]
    rows = []
    for numa, figure in ((False, "proven, <= 100 ms"), (True, "gap <= 0.5 % in 0.5 s")):
        for file in ("C1", "C2"):
            row = Row(f"1,710 x 4,998 {file}{', NUMA-exact' if numa else ''}", figure)
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
        measure(Row("gang filling 100 hosts to 97 %", "always placed, <= 50 ms"), nearly, 2.0, beside=True),
        measure(Row("zero slack on 1,000 hosts", "all placed in 5 s"), none, 5.0),
    ]


def row_custom(options: argparse.Namespace) -> list[Row]:
    """Hundreds of custom sizes."""
    made = ((cases.fleet(10_000, s), cases.custom_gang(1000, s)) for s in range(max(3, options.seeds // 2)))
    return [measure(Row("10,000 x 1,000, 300 custom sizes", "gap <= 1 % in 1 s"), made, 1.0)]


def row_vector(options: argparse.Namespace) -> list[Row]:
    """Academic vector packing: known optima hit within 1 s and within 10 s of CPU."""
    data = cases.shared_data()
    if data is None:
        return [Row("vector packing", "hits: 85 % in 1 s, 95 % in 10 s", notes=["data not found"])]
    short, long = Row("vector packing, 1 s", "hit 85 %"), Row("vector packing, 10 s", "hit 95 %")
    hits = {1: 0, 10: 0}
    known = 0
    missed = []
    for name, optimum, *case in cases.vector_instances(data)[:: options.every]:
        known += optimum > 0
        decision, cpu, wall = decide((case[0], case[1]), 1.0)
        short.add(decision, cpu, wall)
        final = decision
        if decision.proof is not Proof.OPTIMAL and decision.objective != optimum:
            final, cpu, wall = decide((case[0], case[1]), 10.0)
        long.add(final, cpu, wall)
        assert optimum < 0 or (final.lower_bound or 0) <= optimum <= (final.objective or 10**9), name
        hits[1] += optimum > 0 and decision.objective == optimum
        hits[10] += optimum > 0 and final.objective == optimum
        if optimum > 0 and final.objective != optimum:
            missed.append(f"{name} {final.objective} for {optimum}")
    short.notes.append(f"hit {hits[1]} of {known} known ({100 * hits[1] / known:.1f} %)")
    long.notes.append(f"hit {hits[10]} of {known} known ({100 * hits[10] / known:.1f} %); missed {', '.join(missed)}")
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
    row = Row("conflict and cure, 1,000 hosts", "<= 100 ms")
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
    row = Row("deadline honesty", "late by <= 50 ms, bounds hold")
    made = [cases.zero_slack(300, 1), (cases.fleet(10_000, 1), cases.custom_gang(1000, 1)), racks_and_tags(1)]
    late = []
    for case in made:
        truth, _, _ = decide(case, 30.0)
        for milliseconds in (20, 50, 200, 1000):
            end = time.monotonic() + milliseconds / 1000
            start = time.process_time()
            decision = place(*case, QUIET, lambda end=end: time.monotonic() > end)  # type: ignore[misc]
            late.append((time.monotonic() - end) * 1000)
            row.add(decision, time.process_time() - start, 0.0)
            assert check(*case, decision) == ()
            if decision.objective is not None and truth.objective is not None:
                assert (decision.lower_bound or 0) <= truth.objective
                assert (truth.lower_bound or 0) <= decision.objective
    row.notes.append(f"latest {max(late):.0f} ms after a deadline of 20 to 1,000 ms")
    return [row]


def row_peers(options: argparse.Namespace) -> list[Row]:
    """The naive models and the real schedulers on 1,000 x 200."""
    case = cases.fleet(1000, 0), cases.gang(200, 0)
    decision, cpu, _ = decide(case)
    outcomes = [peers.Outcome("ours", cpu, decision.objective, 200, decision.proof.value)]
    outcomes += [peers.plain_greedy(*case, rule) for rule in RULES]
    outcomes += [peers.naive_cp_sat(*case, options.naive), peers.naive_scip(*case, options.naive)]
    if options.peers:
        outcomes += [
            peers.openstack_placement(*case, 200),
            peers.ganeti_hspace(1000, 2, 60.0),
            peers.ganeti_hspace(50, 2, 60.0),
        ]
    return [
        Row(
            f"peer: {o.name}",
            "1,000 x 200",
            notes=[f"{o.seconds * 1000:.1f} ms, hosts {o.hosts}, placed {o.placed}, {o.note}"],
        )
        for o in outcomes
    ]


def row_stream(options: argparse.Namespace) -> list[Row]:
    """Requests one after the other: how much more the default strategy places."""
    data = cases.shared_data()
    rows = [Row("stream of gangs, 60 hosts", "more placed", notes=streams.generated(max(2, options.seeds // 4)))]
    notes = streams.recorded(data, 3) if data is not None else ["data not found"]
    return [*rows, Row("stream of recorded requests, 120 hosts", "more placed than best-fit", notes=notes)]


ROWS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "small": row_small,
    "large": row_large,
    "topology": row_topology,
    "full": row_full,
    "custom": row_custom,
    "rules": row_rules,
    "explain": row_explain,
    "deadline": row_deadline,
    "stream": row_stream,
    "peers": row_peers,
    "vector": row_vector,
}


def plot(folder: Path) -> Path:
    """Latency against fleet size, to 20,000 hosts, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sizes = (100, 300, 1000, 3000, 10_000, 20_000)
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for nodes, style in ((50, ":"), (200, "-"), (1000, "--")):
        times = []
        for hosts in sizes:
            fits = hosts >= nodes // 4
            runs = [decide((cases.fleet(hosts, s), cases.gang(nodes, s)))[1] * 1000 for s in range(5)] if fits else []
            times.append(float(np.median(runs)) if runs else float("nan"))
        axes.plot(sizes, times, style, marker="o", label=f"{nodes} nodes")
    axes.set(xscale="log", yscale="log", xlabel="hosts", ylabel="median CPU ms, proven optimal")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    path = folder / "placement_latency.png"
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    return path


def main() -> None:
    """Runs the rows that are named, or all."""
    parser = argparse.ArgumentParser(description="Benchmark of the planner.")
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], help="which rows; all without")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--naive", type=float, default=20.0, help="seconds for each naive model")
    parser.add_argument("--every", type=int, default=1, help="only each so-manieth vector packing instance")
    parser.add_argument("--peers", action="store_true", help="also install and run the real peers")
    parser.add_argument("--plot", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for the table and the plot")
    options = parser.parse_args()
    from placement.exact_master import _library

    _library()
    lines = [HEAD]
    print(HEAD, flush=True)
    for name in options.rows or ROWS:
        for row in ROWS[name](options):
            lines.append(row.line())
            print(lines[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "placement_bench.md").write_text("\n".join(lines) + "\n")
    if options.plot:
        print(plot(options.out))


if __name__ == "__main__":
    main()

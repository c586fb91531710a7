"""How the placement benchmark measures a decision and tells what it found: rows of a table, the machine, the plot.

Times are CPU milliseconds of the planner's process, since machines are shared, with the wall clock's beside them.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from placement.check import check
from placement.engine import place
from placement.model import Decision, Policy, Proof, Request, Snapshot, Status
from placement.problem.index import index_of
from tests.bench import placement_cases as cases

QUIET = Policy(explain=False)
Case = tuple[Snapshot, Request]
SIZES = (100, 300, 1000, 3000, 10_000, 20_000)
GANGS = ((50, ":"), (200, "-"), (1000, "--"))

HEAD = (
    "| case | to reach | reached | p50 CPU ms | p99 CPU ms | p50 wall ms | p99 wall ms | placed | proven "
    "| hosts beyond ours, notes |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


Aim = Callable[["Row"], str]
"""What a row misses of one aim, in words; empty where it is reached."""


def p99(most_ms: float) -> Aim:
    """The 99th percentile of CPU time."""
    return lambda row: _above(float(np.percentile(row.cpu_ms, 99)), most_ms, "p99 {:.1f} ms")


def proven(share: float = 1.0) -> Aim:
    """So many decisions are proven."""
    return lambda row: "" if row.proven >= share * len(row.cpu_ms) else f"proven {row.proven} of {len(row.cpu_ms)}"


def placed(row: Row) -> str:
    """All are placed."""
    return "" if row.placed == len(row.cpu_ms) else f"placed {row.placed} of {len(row.cpu_ms)}"


def gap(share: float) -> Aim:
    """No gap is wider, and each case has one."""
    return lambda row: (
        _above(100 * max(row.gaps), 100 * share, "gap {:.2f} %")
        if len(row.gaps) == len(row.cpu_ms)
        else f"no bound for {len(row.cpu_ms) - len(row.gaps)}"
    )


def figure(name: str, least: float | None = None, most: float | None = None) -> Aim:
    """The mean of a row's own figure."""

    def missed(row: Row) -> str:
        value = float(np.mean(row.figures[name]))
        low, high = least is not None and value < least, most is not None and value > most
        return f"{name} {value:,.1f}" if low or high else ""

    return missed


def _above(value: float, most: float, told: str) -> str:
    return told.format(value) if value > most else ""


@dataclass
class Row:
    """One line of the table. ``aims``: what is to be reached; without, the row is there to compare with."""

    name: str
    figure: str
    aims: tuple[Aim, ...] = ()
    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    proven: int = 0
    placed: int = 0
    extra: dict[str, list[float]] = field(default_factory=dict)
    figures: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, decision: Decision, cpu: float, wall: float) -> None:
        """Counts one decision and the seconds that it took."""
        self.cpu_ms.append(cpu * 1000)
        self.wall_ms.append(wall * 1000)
        self.placed += decision.status is Status.PLACED
        self.proven += decision.proof in (Proof.OPTIMAL, Proof.INFEASIBLE)
        if decision.gap is not None:
            self.gaps.append(decision.gap)

    def verdict(self) -> str:
        """Whether its aims are reached, and by how much not."""
        if not self.aims or not (self.cpu_ms or self.figures):
            return "-"
        missed = [told for aim in self.aims if (told := aim(self))]
        return f"missed: {', '.join(missed)}" if missed else "reached"

    def line(self) -> str:
        """The row in Markdown."""
        n = len(self.cpu_ms)
        head = f"| {self.name} | {self.figure} | {self.verdict()} |"
        if not n:
            return f"{head} - | - | - | - | - | - | {'; '.join(self.notes)} |"
        times = [f"{value:.1f}" for spent in (self.cpu_ms, self.wall_ms) for value in np.percentile(spent, [50, 99])]
        widest = f"{100 * max(self.gaps):.2f} %" if self.gaps else "-"
        more = [f"{name} {np.mean(values):+.1f} %" for name, values in self.extra.items() if values]
        return (
            f"{head} {' | '.join(times)} | {self.placed}/{n} | "
            f"{self.proven}/{n}, gap {widest} | {'; '.join(more + self.notes)} |"
        )


def machine() -> str:
    """Where the figures were taken, and how busy it was."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{model}, {os.cpu_count()} processors, Linux {platform.release()}, Python {platform.python_version()}; "
        f"load {load}; {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC"
    )


def decide(case: Case, seconds: float | None = None, policy: Policy = QUIET) -> tuple[Decision, float, float]:
    """(decision, CPU seconds, wall seconds), verified; ``seconds`` of CPU are the deadline.

    The index is built before, as the service keeps it.
    """
    snapshot, request = case
    index = index_of(snapshot)
    if any(host.cells for host in snapshot.hosts):
        index.cells()
    if any(host.pools for host in snapshot.hosts):
        index.table()
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


def sizes_rows(seeds: int) -> dict[tuple[int, int], Row]:
    """(nodes, hosts) -> latency on fleets from a hundred to twenty thousand hosts, in common and odd sizes alike."""
    rows = {}
    for hosts in SIZES:
        fleets = [cases.fleet(hosts, seed) for seed in range(seeds)]
        for nodes, _ in GANGS:
            if hosts < nodes // 4:
                continue
            row = rows[nodes, hosts] = Row(f"{hosts:,} x {nodes:,}", "latency against fleet size")
            for seed, fleet in enumerate(fleets):
                request = cases.odd_gang(nodes, seed, 12) if seed % 2 else cases.gang(nodes, seed)
                row.add(*decide((fleet, request)))
    return rows


def plot(rows: dict[tuple[int, int], Row], folder: Path) -> Path:
    """Draws the rows of ``sizes_rows`` as ``placement_latency.png``: the median, and the slowest as a band above."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 5))
    for nodes, style in GANGS:
        hosts = [size for size in SIZES if (nodes, size) in rows]
        median = [float(np.median(rows[nodes, size].cpu_ms)) for size in hosts]
        slowest = [max(rows[nodes, size].cpu_ms) for size in hosts]
        (line,) = axes.plot(hosts, median, style, marker="o", label=f"{nodes:,} nodes")
        axes.fill_between(hosts, median, slowest, color=line.get_color(), alpha=0.12)
    decided = sum(len(row.cpu_ms) for row in rows.values())
    proven = sum(row.proven for row in rows.values())
    axes.set(xscale="log", yscale="log", xlabel="hosts", ylabel="CPU ms of a decision: median, band to the slowest")
    axes.set_title(f"{proven} of {decided} decisions proven optimal")
    figure.text(0.01, 0.01, machine(), fontsize=6)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("{x:,.0f}")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    path = folder / "placement_latency.png"
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def write(folder: Path, sections: Sequence[tuple[str, Sequence[str]]]) -> Path:
    """Writes ``placement_bench.md``: the machine, then each section's table."""
    folder.mkdir(parents=True, exist_ok=True)
    text = ["# Placement", "", machine(), ""]
    for title, lines in sections:
        text += [f"## {title}", "", HEAD, *lines, ""]
    path = folder / "placement_bench.md"
    path.write_text("\n".join(text), encoding="utf-8")
    return path

"""Fleets and gangs for the placement benchmark, from seeds; and the public data sets where they lie.

Amounts are vCPUs and bytes. ``planted`` gangs come from cutting up free room, so that a placement is known to exist.
"""

from __future__ import annotations

import csv
import os
import random
from collections import Counter
from pathlib import Path

from placement.model import Cell, Host, Node, Request, Snapshot, Strategy

GIB = 1 << 30
# (vCPUs, GiB) of hosts and of common nodes; SHARES says how often each of these nodes is drawn.
MODELS = ((64, 256), (96, 384), (128, 512), (48, 192), (32, 256))
FLAVOURS = (
    (1, 2), (2, 4), (2, 8), (4, 8), (4, 16), (8, 16), (8, 32), (16, 32), (16, 64), (32, 64),
)  # fmt: skip
SHARES = (3, 4, 3, 4, 3, 3, 2, 2, 1, 1)
ODD_CPUS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24)
ODD_GIBS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 40, 48, 64, 96)


def host(number: int, cpu: int, gib: int, used_cpu: int = 0, used_gib: int = 0, **more: object) -> Host:
    """A host of the generated fleets: racks of forty, one zone."""
    return Host(
        f"host-{number:05d}",
        "zone-1",
        {"cpu": cpu, "memory": gib * GIB},
        {"cpu": used_cpu, "memory": used_gib * GIB},
        f"rack-{number // 40:03d}",
        **more,  # type: ignore[arg-type]
    )


def fleet(hosts: int, seed: int) -> Snapshot:
    """Five models, two of seven hosts empty, the rest used to between a fifth and nine tenths."""
    r = random.Random(seed)
    made = []
    for number in range(hosts):
        cpu, gib = r.choices(MODELS, (4, 3, 2, 2, 1))[0]
        fill = r.choice((0, 0, 0.25, 0.5, 0.5, 0.75, 0.9))
        made.append(host(number, cpu, gib, int(cpu * fill * r.uniform(0.8, 1)), int(gib * fill * r.uniform(0.8, 1))))
    return Snapshot(tuple(made))


def gang(nodes: int, seed: int) -> Request:
    """Nodes of ten common flavours."""
    r = random.Random(seed + 1_000_003)
    sizes = r.choices(FLAVOURS, SHARES, k=nodes)
    return request(sizes)


def odd_gang(nodes: int, seed: int, kinds: int) -> Request:
    """Nodes of ``kinds`` sizes in odd ratios of vCPUs to memory, where both resources run out together."""
    r = random.Random(seed + 2_000_003)
    sizes = [(r.choice(ODD_CPUS), r.choice(ODD_GIBS)) for _ in range(kinds)]
    return request([r.choice(sizes) for _ in range(nodes)])


def custom_gang(nodes: int, seed: int, kinds: int = 300) -> Request:
    """Nodes of hundreds of sizes that users typed in: any whole vCPUs up to 24, any GiB up to 96."""
    r = random.Random(seed + 3_000_017)
    sizes = [(r.randint(1, 24), r.randint(1, 96)) for _ in range(kinds)]
    return request([r.choice(sizes) for _ in range(nodes)])


def request(sizes: list[tuple[int, int]], strategy: Strategy = Strategy.FEWEST_HOSTS) -> Request:
    """A request of one node a size (vCPUs, GiB)."""
    nodes = (Node(f"node-{n}", {"cpu": cpu, "memory": gib * GIB}) for n, (cpu, gib) in enumerate(sizes))
    return Request(tuple(nodes), strategy)


def nearly_full(hosts: int, seed: int, fill: float) -> tuple[Snapshot, Request]:
    """Hosts used at random, and a planted gang after which ``fill`` of all vCPUs is used; it always fits."""
    r = random.Random(seed + 4_000_037)
    made, sizes = [], []
    for number in range(hosts):
        cpu, gib = r.choices(MODELS, (4, 3, 2, 2, 1))[0]
        planted = []
        room = [cpu, gib]
        for _ in range(60):
            size = r.choices(FLAVOURS, SHARES)[0]
            if size[0] <= room[0] and size[1] <= room[1] and room[0] > cpu * (1 - fill):
                room = [room[0] - size[0], room[1] - size[1]]
                planted.append(size)
        kept = r.randint(0, len(planted))
        sizes.extend(planted[kept:])
        old = planted[:kept]
        made.append(host(number, cpu, gib, sum(c for c, _ in old), sum(g for _, g in old)))
    r.shuffle(sizes)
    return Snapshot(tuple(made)), request(sizes)


def zero_slack(hosts: int, seed: int) -> tuple[Snapshot, Request]:
    """A gang that fills every vCPU and every byte of all hosts."""
    r = random.Random(seed + 5_000_011)
    made, sizes = [], []
    for number in range(hosts):
        planted = r.choices(FLAVOURS, SHARES, k=r.randint(2, 9))
        cpu, gib = sum(c for c, _ in planted), sum(g for _, g in planted)
        made.append(host(number, cpu + 8, gib + 16, 8, 16))
        sizes.extend(planted)
    r.shuffle(sizes)
    return Snapshot(tuple(made)), request(sizes)


def shared_data() -> Path | None:
    """Where the public data sets lie: CORRAL_SHARED, or ``../shared`` beside the repository; None when absent."""
    named = os.environ.get("CORRAL_SHARED")
    root = Path(named) if named else Path(__file__).resolve().parents[3] / "shared"
    data = root / "data"
    return data if (data / "huawei_topology" / "PM_res.csv").exists() else None


def topology(data: Path, file: str, numa: bool) -> tuple[Snapshot, Request]:
    """Huawei's 1,710 hosts and one of its files of 4,998 requests, sockets summed or exact."""
    with (data / "huawei_topology" / "PM_res.csv").open() as lines:
        rooms = [tuple(map(int, row)) for row in list(csv.reader(lines))[1:]]
    made = []
    for number, (cpu_1, ram_1, cpu_2, ram_2) in enumerate(rooms):
        cells = (Cell({"cpu": cpu_1, "ram": ram_1}), Cell({"cpu": cpu_2, "ram": ram_2})) if numa else ()
        made.append(Host(f"pm-{number:04d}", "z", {"cpu": cpu_1 + cpu_2, "ram": ram_1 + ram_2}, cells=cells))
    with (data / "huawei_topology" / f"VM_data_{file}.csv").open() as lines:
        rows = list(csv.reader(lines))[1:]
    nodes = tuple(
        Node(f"vm-{n}", {"cpu": int(row[0]), "ram": int(row[1])}, cells=int(row[2]) if numa else 0)
        for n, row in enumerate(rows)
    )
    return Snapshot(tuple(made)), Request(nodes, Strategy.FEWEST_HOSTS)


def vector_instances(data: Path) -> list[tuple[str, int, Snapshot, Request]]:
    """(name, known optimum or -1, one host an item, request) for every vector packing instance at hand."""
    found = []
    for folder in ("New", "Panigrahy"):
        with (data / "vectorpack" / f"{folder}_summary_known.csv").open() as lines:
            known = {row["instance_name"]: int(row["OPT"]) for row in csv.DictReader(lines, delimiter="\t")}
        for path in sorted((data / "vectorpack" / folder).glob("*.vbp")):
            found.append((f"{folder}/{path.stem}", known[path.stem], *_vector(path)))
    return found


def _vector(path: Path) -> tuple[Snapshot, Request]:
    words = [int(float(word)) for word in path.read_text().split()]
    dims = words[0]
    capacity = {f"d{d}": words[1 + d] for d in range(dims)}
    rest = words[2 + dims :]
    items: Counter[tuple[int, ...]] = Counter()
    for n in range(words[1 + dims]):
        row = rest[n * (dims + 1) : (n + 1) * (dims + 1)]
        items[tuple(row[:dims])] += row[dims]
    hosts = tuple(Host(f"bin-{n:04d}", "z", capacity) for n in range(sum(items.values())))
    nodes = tuple(
        Node(f"item-{n}", {f"d{d}": size for d, size in enumerate(sizes)}, count=copies)
        for n, (sizes, copies) in enumerate(sorted(items.items()))
    )
    return Snapshot(hosts), Request(nodes, Strategy.FEWEST_HOSTS)

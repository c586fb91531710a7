"""Devices that nodes want together, held to an enumeration of single devices that knows nothing of pools and flows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, product

import pytest

from placement.check import check
from placement.codec import read_request, read_snapshot, write_request, write_snapshot
from placement.devices import Part, Want, arrange, most
from placement.engine import place
from placement.model import (
    Cell,
    CureKind,
    Devices,
    Host,
    InvalidPlacementInput,
    Node,
    Policy,
    Pool,
    Proof,
    Request,
    Shortage,
    Snapshot,
    Status,
    Strategy,
)
from placement.problem.index import FleetIndex, index_of
from placement.problem.parts_table import PartsTable
from placement.reasons import Family, Reason

MODELS = ("gpu.a", "gpu.b")


@dataclass(frozen=True)
class Device:
    """One free device, as the enumeration sees it."""

    host: str
    model: str
    cell: int | None
    partition: str
    number: int


def drawn(seed: int) -> tuple[Snapshot, Request]:
    """One or two hosts of up to eight devices over cells and partitions, some of them taken, and up to four nodes."""
    r = random.Random(seed)
    hosts = tuple(_host(r, number) for number in range(r.choice([1, 1, 2])))
    nodes: list[Node] = []
    left = r.randint(1, 4)
    while left:
        count = r.randint(1, left)
        left -= count
        nodes.append(_node(r, len(nodes), count))
    # A demand of any model counts all devices, as soon as some node of the gang has one.
    if any("gpu" in node.demand for node in nodes):
        nodes = [
            replace(n, demand={**n.demand, "gpu": n.demand.get("gpu", 0) or sum(n.demand.get(m, 0) for m in MODELS)})
            for n in nodes
        ]
    return Snapshot(hosts), Request(tuple(nodes), r.choice(list(Strategy)))


def _host(r: random.Random, number: int) -> Host:
    cells = tuple(Cell({"cpu": r.randint(1, 4)}, {"cpu": r.randint(0, 1)}) for _ in range(r.choice([0, 1, 2, 2, 3])))
    pools = []
    for model in MODELS[: r.choice([1, 1, 2])]:
        for _ in range(r.randint(1, 3)):
            size = r.randint(0, 4)
            cell = r.choice([None, *range(len(cells))])
            pools.append(Pool(model, size, r.randint(0, size) // 2, cell, r.choice(["", "x", "y"])))
    capacity = {"cpu": sum(c.capacity["cpu"] for c in cells) if cells else 6, "gpu": sum(p.capacity for p in pools)}
    used = {"cpu": sum(c.used["cpu"] for c in cells), "gpu": sum(p.used for p in pools)}
    for model in MODELS:
        capacity[model] = sum(p.capacity for p in pools if p.resource == model)
        used[model] = sum(p.used for p in pools if p.resource == model)
    return Host(f"h{number}", "z", capacity, used, cells=cells, pools=tuple(pools))


def _node(r: random.Random, number: int, count: int) -> Node:
    cells = r.choice([0, 0, 1, 1, 2])
    demand: dict[str, int] = {"cpu": r.choice([0, 1, 2])}
    devices = []
    for resource in r.choice([(), ("gpu.a",), ("gpu.a",), ("gpu.a", "gpu.b"), ("gpu",), ("gpu", "gpu.a")]):
        amount = r.randint(1, 3)
        demand[resource] = amount
        local, joint = bool(cells) and r.random() < 0.6, r.random() < 0.4
        if local or joint:
            devices.append(Devices(resource, amount, local, joint))
    if "gpu" in demand:
        demand["gpu"] += demand.get("gpu.a", 0)
    return Node(f"n{number}", demand, count=count, cells=cells, devices=tuple(devices))


def _free_devices(hosts: tuple[Host, ...]) -> list[Device]:
    return [
        Device(host.id, pool.resource, pool.cell, pool.partition, number * 100 + copy)
        for host in hosts
        for number, pool in enumerate(host.pools)
        for copy in range(pool.capacity - pool.used)
    ]


def fits(snapshot: Snapshot, request: Request, most_hosts: int = 9) -> bool:
    """Whether the gang fits at most so many hosts, by trying hosts, cells and the very devices of each node."""
    hosts = {host.id: host for host in snapshot.hosts}
    copies = [node for node in request.nodes for _ in range(node.count)]
    for places in product(sorted(hosts), repeat=len(copies)):
        if len(set(places)) > most_hosts:
            continue
        for name, host in hosts.items():
            here = [node for node, place in zip(copies, places, strict=True) if place == name]
            if sum(n.demand["cpu"] for n in here) > host.capacity["cpu"] - host.used["cpu"]:
                break
            if not _seated(host, here, [0] * len(host.cells), _free_devices((host,))):
                break
        else:
            return True
    return False


def _seated(host: Host, nodes: list[Node], taken: list[int], free: list[Device]) -> bool:
    if not nodes:
        return True
    node, rest = nodes[0], nodes[1:]
    for cells in combinations(range(len(host.cells)), node.cells):
        after, share = list(taken), -(-node.demand["cpu"] // max(1, node.cells))
        for cell in cells:
            after[cell] += share
        if any(n > c.capacity["cpu"] - c.used["cpu"] for n, c in zip(after, host.cells, strict=True)):
            continue
        for left in _left(node, cells, free):
            if _seated(host, rest, after, left):
                return True
    return False


def _left(node: Node, cells: tuple[int, ...], free: list[Device]) -> Iterator[list[Device]]:
    """What is left once the node has its devices, in every way that differs."""
    asked = [(one.resource, one.count, one.local, one.joint) for one in node.devices]
    loose = {name: amount for name, amount in node.demand.items() if name.startswith("gpu")}
    if "gpu" in loose:
        loose["gpu"] -= loose.get("gpu.a", 0) + loose.get("gpu.b", 0)
    for one in node.devices:
        loose[one.resource] -= one.count
    asked += [(name, amount, False, False) for name, amount in loose.items() if amount > 0]
    yield from _served(asked, cells, free)


def _served(
    asked: list[tuple[str, int, bool, bool]], cells: tuple[int, ...], free: list[Device]
) -> Iterator[list[Device]]:
    if not asked:
        yield free
        return
    resource, count, local, joint = asked[0]
    fitting = [d for d in free if resource in ("gpu", d.model) and (not local or d.cell in cells)]
    seen = set()
    for picked in combinations(fitting, count):
        partitions = {d.partition for d in picked}
        if joint and (len(partitions) != 1 or "" in partitions):
            continue
        # Devices that stand alike are one as good as the other.
        key = tuple(sorted((d.model, str(d.cell), d.partition) for d in picked))
        if key not in seen:
            seen.add(key)
            yield from _served(asked[1:], cells, [d for d in free if d not in picked])


@pytest.mark.parametrize("block", range(10))
def test_what_fits_by_single_devices_is_placed_and_nothing_else_is(block: int) -> None:
    """5,000 fleets: no false "infeasible", no placement that the check refuses, fewest hosts where that is asked and
    proven."""
    placed = refused = 0
    for seed in range(block * 500, block * 500 + 500):
        snapshot, request = drawn(seed)
        decision = place(snapshot, request, Policy(explain=False))
        possible = fits(snapshot, request)
        expected = Status.PLACED if possible else Status.INFEASIBLE
        assert decision.status is expected, (seed, decision)
        assert not check(snapshot, request, decision), (seed, check(snapshot, request, decision), decision)
        placed, refused = placed + possible, refused + (not possible)
        if possible and request.strategy is Strategy.FEWEST_HOSTS and decision.proof is Proof.OPTIMAL:
            assert decision.objective == min(n for n in (1, 2) if fits(snapshot, request, n)), seed
    assert placed > 5, "the drawn cases say too little"
    assert refused > 5, "the drawn cases say too little"


def two_cells(first: int, second: int, partition: str = "") -> Host:
    """A host of two cells with so many devices free of four on each."""
    pools = (
        Pool("gpu.h100", 4, 4 - first, 0, partition and "p0"),
        Pool("gpu.h100", 4, 4 - second, 1, partition and "p1"),
    )
    cells = tuple(Cell({"vcpu": 32, "memory": 256}) for _ in range(2))
    used = {"gpu.h100": 8 - first - second}
    return Host("h", "z", {"vcpu": 64, "memory": 512, "gpu.h100": 8}, used, cells=cells, pools=pools)


def member(count: int, cells: int = 1, *, local: bool = True, joint: bool = False, times: int = 1) -> Node:
    """So many devices of the node's own cells."""
    devices = (Devices("gpu.h100", count, local, joint),) if local or joint else ()
    return Node("n", {"vcpu": 8, "memory": 64, "gpu.h100": count}, count=times, cells=cells, devices=devices)


def test_one_device_over_two_cells_is_one_device() -> None:
    """A node over two cells takes its devices of both together, whole, however they stand."""
    for host in (two_cells(1, 0), two_cells(0, 1)):
        assert place(Snapshot((host,)), Request((member(1, 2),))).status is Status.PLACED
    assert place(Snapshot((two_cells(3, 1),)), Request((member(4, 2),))).status is Status.PLACED
    assert place(Snapshot((two_cells(2, 1),)), Request((member(4, 2),))).status is Status.INFEASIBLE


def test_devices_of_one_cell_are_not_those_of_the_host() -> None:
    snapshot = Snapshot((two_cells(2, 2),))
    assert place(snapshot, Request((member(4, local=False),))).status is Status.PLACED
    decision = place(snapshot, Request((member(4),)))
    assert decision.status is Status.INFEASIBLE
    assert decision.explanation is not None
    assert CureKind.FREE in {cure.kind for cure in decision.explanation.cures}


def test_who_floats_takes_what_the_pinned_leave() -> None:
    """Pinned members first get the cell that is theirs, whoever comes first in the request."""
    snapshot = Snapshot((two_cells(4, 2),))
    floating = replace(member(2, 0, local=False), id="f")
    for nodes in ((floating, member(4)), (member(4), floating)):
        decision = place(snapshot, Request(nodes))
        assert decision.status is Status.PLACED
        assert not check(snapshot, Request(nodes), decision)
    assert place(snapshot, Request((replace(floating, count=2), member(4)))).status is Status.INFEASIBLE


def test_what_cannot_be_meant_is_refused_by_name() -> None:
    with pytest.raises(InvalidPlacementInput, match=r"node\.devices"):
        Node("n", {"gpu.a": 1}, devices=(Devices("gpu.a", 2, joint=True),))
    with pytest.raises(InvalidPlacementInput, match=r"node\.devices"):
        Node("n", {"gpu.a": 1}, devices=(Devices("gpu.a", 1, local=True),))
    with pytest.raises(InvalidPlacementInput, match=r"cell\.capacity"):
        Cell({"gpu.a": 1})
    with pytest.raises(InvalidPlacementInput, match=r"host\.pools"):
        Host("h", "z", {}, pools=(Pool("gpu.a", 1, 0, 0),))
    with pytest.raises(InvalidPlacementInput, match=r"pool\.resource"):
        Pool("memory", 1)


def test_pools_and_what_is_wanted_together_travel_as_json() -> None:
    snapshot, request = Snapshot((two_cells(4, 2, "p"),)), Request((member(2, joint=True),))
    assert read_snapshot(write_snapshot(snapshot)) == snapshot
    assert read_request(write_request(request))[0] == request


def _freed(snapshot: Snapshot, name: str, amounts: tuple[Shortage, ...]) -> Snapshot:
    """The fleet once so much of a host is free: devices of the pools that are named, then others wherever some are."""
    host = next(h for h in snapshot.hosts if h.id == name)
    used, pools, cells = dict(host.used), list(host.pools), list(host.cells)

    def free(number: int) -> None:
        pools[number] = replace(pools[number], used=pools[number].used - 1)
        for resource in ("gpu", pools[number].resource):
            used[resource] -= 1

    for short in sorted(amounts, key=lambda s: (s.pool is None, s.resource == "gpu")):
        if not short.resource.startswith("gpu"):
            if short.cell is not None:
                of_cell = dict(cells[short.cell].used)
                of_cell[short.resource] -= short.missing
                assert of_cell[short.resource] >= 0, "more of a cell is to be freed than is used"
                cells[short.cell] = replace(cells[short.cell], used=of_cell)
            used[short.resource] = max(0, used[short.resource] - short.missing)
            continue
        gone = sum(host.used[m] - used[m] for m in MODELS) if short.resource == "gpu" else 0
        for _ in range(short.missing - gone):
            mine = [n for n, p in enumerate(pools) if p.used and p.resource.startswith(short.resource)]
            free(mine[0] if short.pool is None else short.pool)
    assert min(*used.values(), *(p.used for p in pools)) >= 0, "more is to be freed than is used"
    return snapshot.updated((replace(host, used=used, pools=tuple(pools), cells=tuple(cells)),))


@pytest.mark.parametrize("block", range(4))
def test_whatever_is_told_to_free_places_the_gang_once_it_is_free(block: int) -> None:
    told = 0
    for seed in range(5_000 + block * 80, 5_080 + block * 80):
        snapshot, request = drawn(seed)
        decision = place(snapshot, request)
        for cure in decision.explanation.cures if decision.explanation is not None else ():
            if cure.kind is CureKind.FREE and cure.host is not None:
                told += 1
                assert fits(_freed(snapshot, cure.host, cure.amounts), request), (seed, cure)
            if cure.kind is CureKind.RELAX and cure.family is Family.DEVICE:
                nodes = tuple(replace(node, devices=()) for node in request.nodes)
                assert fits(snapshot, replace(request, nodes=nodes)), (seed, cure)
    assert told, "the drawn cases say too little"


def test_how_devices_stand_is_told_by_the_places_that_are_asked_for() -> None:
    """A partition over two cells is one place where a partition is wanted; what is in none is no place then."""
    over_two = (Pool("gpu.h100", 2, 0, 0, "left"), Pool("gpu.h100", 1, 0, 1, "left"), Pool("gpu.h100", 4, 0, 1))
    host = two_cells(3, 3)

    def words(pools: tuple[Pool, ...], wanted: Devices) -> str:
        decision = place(Snapshot((replace(host, pools=pools),)), Request((replace(member(4), devices=(wanted,)),)))
        assert decision.explanation is not None
        return decision.explanation.message

    joint = Devices("gpu.h100", 4, joint=True)
    assert "4 h100 are wanted of one partition, and the most that a host has free stand 3" in words(over_two, joint)
    assert "4 h100 are wanted of one partition, and no host has any free in a partition" in words(over_two[2:], joint)


def test_one_device_to_free_is_named_with_its_place() -> None:
    """Three and three stand free where four of one cell are wanted: one more on either would do."""
    decision = place(Snapshot((two_cells(3, 3),)), Request((member(4),)))
    assert decision.explanation is not None
    assert decision.explanation.funnels[0].ruled_out == ((Reason.DEVICE, 1),)
    assert (
        "4 h100 are wanted of one cell, and the most that a host has free stand 3 + 3" in decision.explanation.message
    )
    freed = [cure for cure in decision.explanation.cures if cure.kind is CureKind.FREE]
    assert [(cure.host, cure.amounts) for cure in freed] == [("h", (Shortage("gpu.h100", 1, 0, "cell 0"),))]


def test_what_is_kept_of_parts_is_as_if_made_anew() -> None:
    """An index that was told of changed hosts knows their parts as one that is built of all of them."""
    r = random.Random(1)
    snapshot = Snapshot(tuple(replace(_host(r, n), used={}) for n in range(12)))
    for _ in range(40):
        index_of(snapshot).parts()
        at = r.randrange(12)
        fresh = replace(_host(r, at), capacity=snapshot.hosts[at].capacity, used={})
        snapshot = snapshot.updated((fresh,))
        kept, anew = index_of(snapshot), FleetIndex.build(snapshot.hosts)
        for row in range(12):
            assert kept.parts()[0][kept.parts()[1][row]] == anew.parts()[0][anew.parts()[1][row]]
        names, cells = kept.cells()
        assert (names, cells.tolist()) == (anew.cells()[0], anew.cells()[1].tolist()) or cells.shape[1] > 2
        for want in (Want(devices=(Devices("gpu.a", 2),)), Want(1, (1,) * len(names), (Devices("gpu.b", 1, True),))):
            seats = [(index.table().most(want, 9), index.parts()[1]) for index in (kept, anew)]
            assert [found[which].tolist() for found, which in seats if found is not None] == [
                [most(index.parts()[0][number], want, 9) for number in index.parts()[1]] for index in (kept, anew)
            ]


def test_seats_are_counted_as_they_would_be_tried() -> None:
    """What is told of one kind by counting is what a search finds, with and without devices, over one cell and more."""
    r = random.Random(7)
    for _ in range(300):
        cells = tuple((r.randint(0, 6), r.randint(0, 6)) for _ in range(r.randint(1, 3)))
        pools = tuple(
            Pool("gpu.a", r.randint(0, 4), 0, r.choice([None, *range(len(cells))]), r.choice(["", "x", "y"]))
            for _ in range(r.randint(1, 4))
        )
        over = r.randint(0, 2)
        wish = Devices("gpu.a", r.randint(1, 2), bool(over) and r.random() < 0.5, r.random() < 0.5)
        share = (r.randint(0, 2), r.randint(0, 2)) if over else ()
        want, part = Want(over, share, (wish,) if r.random() < 0.7 else ()), Part(cells, pools)
        found = most(part, want, 5)
        assert arrange(part, (want,) * found) is not None, (part, want, found)
        assert found == 5 or arrange(part, (want,) * (found + 1)) is None, (part, want, found)


def test_seats_of_many_hosts_are_counted_at_once_as_one_by_one() -> None:
    """Hosts of unlike cells and pools side by side, also those that a table was extended by."""
    r = random.Random(11)
    for turn in range(150):
        amounts = r.choice([1, 2])
        parts = []
        for _ in range(8):
            cells = tuple(tuple(r.randint(0, 6) for _ in range(amounts)) for _ in range(r.randint(0, 3)))
            pools = tuple(
                Pool(
                    r.choice(MODELS),
                    r.randint(0, 5),
                    0,
                    r.choice([None, *range(len(cells))]),
                    r.choice(["", "x", "y", "z"]),
                )
                for _ in range(r.randint(0, 4))
            )
            parts.append(Part(cells, pools))
        over, limit = r.randint(0, 2), r.choice([1, 3, 9])
        wish = Devices(r.choice(["gpu", *MODELS]), r.randint(1, 3), bool(over) and r.random() < 0.5, r.random() < 0.5)
        share = tuple(r.randint(0, 2) for _ in range(amounts)) if over else ()
        want = Want(over, share, (wish,) if r.random() < 0.7 else ())
        table = PartsTable.of(parts)
        grown = PartsTable.of(parts[:5]).extended(parts[5:])
        for found in (table.most(want, limit), grown.most(want, limit) if grown else None):
            if found is None:
                assert grown is None or (want.devices and over > 1), want
                continue
            assert found.tolist() == [most(part, want, limit) for part in parts], (turn, want, parts)

"""Random small fleets and requests with every rule in them, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from placement.constraints import (
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
    Within,
)
from placement.model import Cell, Flavour, Host, Member, Node, Request, Snapshot, Strategy

GROUPS = ("red", "blue", "old")


def tiny(
    seed: int, rules: bool = True, numa: bool = False, kinds: bool = False, few: bool = False
) -> tuple[Snapshot, Request]:
    """At most four hosts and six nodes; about a third of the requests do not fit. `kinds`: a kind of host is preferred;
    `few`: the nodes are in few domains. Both are drawn last, so that a seed means what it meant before."""
    r = random.Random(seed)
    names = ["cpu", "memory", "gpu.a100"][: r.choice([1, 2, 2, 3])]
    unit = {name: r.choice([1, 1, 3, 1024]) for name in names}
    hosts = tuple(_host(r, number, unit, numa) for number in range(r.randint(1, 4)))
    nodes: list[Node] = []
    left = r.randint(1, 6)
    while left:
        count = r.randint(1, min(3, left))
        left -= count
        nodes.append(_node(r, len(nodes), count, unit, numa))
    staying = {m.id: h.id for h in hosts for m in h.members if m.labels.get("group") == "red" and r.random() < 0.5}
    constraints = tuple(_rule(r, nodes) for _ in range(r.choice([0, 1, 1, 2, 3]))) if rules else ()
    flavours: tuple[Flavour, ...] = ()
    if r.random() < 0.3:
        flavours = tuple(Flavour({n: u * r.randint(1, 3) for n, u in unit.items()}) for _ in range(2))
    request = Request(
        tuple(nodes),
        r.choice(list(Strategy)),
        constraints,
        frozenset({hosts[0].id}) if r.random() < 0.1 else frozenset(),
        staying,
    )
    if kinds:
        liked = Prefer("disk", (r.choice(["ssd", "hdd"]),), _selector(r, nodes), r.choice([None, 1, 5]))
        request = replace(request, constraints=(*request.constraints, liked))
    if few:
        scope, most, weight = r.choice(list(Scope)), r.randint(1, 3), r.choice([None, None, 1, 5])
        bounded = Within(_selector(r, nodes), scope, most, weight)
        request = replace(request, constraints=(*request.constraints[:1], bounded))
    return Snapshot(hosts, flavours), request


def _host(r: random.Random, number: int, unit: dict[str, int], numa: bool) -> Host:
    cells: tuple[Cell, ...] = ()
    capacity = {name: u * r.randint(3, 10) + r.randrange(u) for name, u in unit.items()}
    used = {name: r.randint(0, amount // 2) for name, amount in capacity.items()} if r.random() < 0.6 else {}
    if numa and r.random() < 0.8:
        named = [name for name in unit if not name.startswith("gpu")]
        cells = tuple(
            Cell({n: unit[n] * r.randint(2, 5) for n in named}, {n: r.randint(0, unit[n]) for n in named})
            for _ in range(r.randint(1, 2))
        )
        for name in named:
            capacity[name] = sum(cell.capacity[name] for cell in cells)
            used[name] = sum(cell.used[name] for cell in cells)
    members = tuple(
        Member(f"m{number}-{k}", {}, {"group": r.choice(GROUPS)}, exclusive=r.random() < 0.05)
        for k in range(r.choice([0, 0, 0, 1, 2]))
    )
    return Host(
        f"h{number}",
        r.choice(["east", "west"]),
        capacity,
        used,
        r.choice([None, "r1", "r2"]),
        {"disk": r.choice(["ssd", "hdd"])},
        r.random() > 0.08,
        members,
        cells,
    )


def _node(r: random.Random, number: int, count: int, unit: dict[str, int], numa: bool) -> Node:
    demand = {name: u * r.choice([0, 1, 1, 2, 3]) for name, u in unit.items()}
    if "gpu.a100" in demand and r.random() < 0.6:
        demand["gpu.a100"] = 0
    return Node(
        f"n{number}",
        demand,
        r.choice([None, None, None, "east", "west"]),
        count,
        {"group": r.choice(GROUPS[:2])},
        {"disk": ("ssd",)} if r.random() < 0.1 else {},
        r.random() < 0.08,
        r.choice([0, 1, 1, 2]) if numa else 0,
    )


def _selector(r: random.Random, nodes: list[Node]) -> Selector:
    choice = r.random()
    if choice < 0.3:
        return Selector()
    if choice < 0.6:
        return Selector(frozenset(r.sample([n.id for n in nodes], r.randint(1, len(nodes)))))
    return Selector(labels={"group": r.choice(GROUPS)})


def _rule(r: random.Random, nodes: list[Node]) -> Constraint:
    scope = r.choice(list(Scope))
    weight = r.choice([None, None, 1, 5])
    rules: list[Callable[[], Constraint]] = [
        lambda: AtMost(_selector(r, nodes), r.randint(1, 3), scope, weight),
        lambda: AtMost(_selector(r, nodes), 1, Scope.HOST, weight),
        lambda: Together(_selector(r, nodes), scope, weight),
        lambda: Apart(_selector(r, nodes), _selector(r, nodes), scope, weight),
        lambda: Near(_selector(r, nodes), _selector(r, nodes), scope, weight),
        lambda: SpreadOver(_selector(r, nodes), scope, r.randint(1, 3), weight),
        lambda: SpareHosts(r.randint(1, 2), weight),
    ]
    return r.choice(rules)()

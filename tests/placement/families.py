"""Families of small fleets and requests, each of a kind that real fleets have, and what a cure does to one.

Written from the words of the contract alone; what is true of them is found by ``brute.Brute``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
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
from placement.model import Cell, Cure, CureKind, Devices, Host, Node, Pool, Request, Snapshot, Strategy
from placement.reasons import Family
from tests.placement.brute import Brute
from tests.placement.instances import tiny

Case = tuple[Snapshot, Request]


def unpinned(seed: int) -> Case:
    """NUMA hosts with less room than their cells: guests that are not pinned, a reserve, a ratio below one."""
    r = random.Random(seed)
    snapshot, request = tiny(seed, rules=r.random() < 0.4, numa=True)
    hosts = []
    for host in snapshot.hosts:
        used, capacity = dict(host.used), dict(host.capacity)
        for name in {name for cell in host.cells for name in cell.capacity}:
            used[name] = used.get(name, 0) + r.randint(0, capacity[name] // 2)
            capacity[name] = capacity[name] * r.choice([2, 3, 4]) // 4
        hosts.append(replace(host, used=used, capacity=capacity))
    nodes = tuple(replace(node, cells=node.cells or r.randint(1, 2)) for node in request.nodes)
    strategy = r.choice([Strategy.FEWEST_HOSTS, request.strategy])
    return Snapshot(tuple(hosts), snapshot.flavours), replace(request, nodes=nodes, strategy=strategy)


def closed(seed: int) -> Case:
    """Hosts out of service, with guests and without; some that are held by others."""
    r = random.Random(seed)
    snapshot, request = tiny(seed, rules=r.random() < 0.5)
    hosts = tuple(replace(host, schedulable=r.random() < 0.5) for host in snapshot.hosts)
    return Snapshot(hosts, snapshot.flavours), request


def neighbours(seed: int) -> Case:
    """Nodes and members that want their hosts for their gang alone, own ones and others'."""
    r = random.Random(seed)
    snapshot, request = tiny(seed, rules=r.random() < 0.5)
    hosts = []
    for host in snapshot.hosts:
        members = tuple(replace(member, exclusive=r.random() < 0.4) for member in host.members)
        hosts.append(replace(host, members=members))
    all_alone = r.random() < 0.5
    nodes = tuple(replace(node, exclusive=all_alone or r.random() < 0.4) for node in request.nodes)
    staying = {m.id: h.id for h in hosts for m in h.members if r.random() < 0.5}
    return Snapshot(tuple(hosts), snapshot.flavours), replace(request, nodes=nodes, staying=staying)


def overcommitted(seed: int) -> Case:
    """Hosts with more in use than they have."""
    r = random.Random(seed)
    snapshot, request = tiny(seed, rules=r.random() < 0.3)
    hosts = tuple(
        replace(host, used={name: r.randint(0, 3 * amount // 2) for name, amount in host.capacity.items()})
        for host in snapshot.hosts
    )
    return Snapshot(hosts, snapshot.flavours), request


def named_members(seed: int) -> Case:
    """Rules that name members which stay."""
    r = random.Random(seed)
    snapshot, request = tiny(seed)
    hosts = [
        replace(host, members=tuple(replace(m, demand={"cpu": 1}) for m in host.members)) for host in snapshot.hosts
    ]
    staying = {m.id: h.id for h in hosts for m in h.members if r.random() < 0.7}
    named = Selector(frozenset({*staying, *(node.id for node in request.nodes if r.random() < 0.6)}))
    others = Selector(frozenset({request.nodes[0].id}))
    rules: tuple[Constraint, ...] = ()
    if staying:
        options: list[Constraint] = [AtMost(named, r.randint(1, 3)), Together(named)]
        options += [Near(others, named), Apart(others, named)]
        rules = (r.choice(options),)
    return Snapshot(tuple(hosts), snapshot.flavours), replace(request, constraints=rules, staying=staying)


def soft(seed: int) -> Case:
    """Wishes and rules about spread and spare hosts."""
    r = random.Random(seed)
    snapshot, request = tiny(seed)
    weights = [None, None, 1, 7]
    spread: Constraint = SpreadOver(minimum=r.randint(1, 3), weight=r.choice(weights))
    rule = r.choice([spread, SpareHosts(1, r.choice(weights))])
    return snapshot, replace(request, constraints=(rule, *request.constraints[:1]))


def preferring(seed: int) -> Case:
    """Wishes for a kind of host, alone, among any rules and against another wish, with room on it for some or none."""
    r = random.Random(seed)
    snapshot, request = tiny(seed, kinds=True)
    if seed % 2:
        return snapshot, request
    wishes: list[Constraint] = [Prefer("disk", ("ssd",), weight=r.choice([1, 5]))]
    if r.random() < 0.5:
        wishes.append(SpreadOver(scope=Scope.HOST, minimum=r.randint(1, 3), weight=r.choice([None, 1, 3])))
    if r.random() < 0.3:
        wishes.append(Prefer("disk", ("hdd",), Selector(frozenset({request.nodes[0].id})), r.choice([None, 2])))
    return snapshot, replace(request, constraints=tuple(wishes))


def few_domains(seed: int) -> Case:
    """A bound on how many domains the nodes are in, beside another rule."""
    return tiny(seed, numa=seed % 5 == 0, few=True)


def few_seats(seed: int) -> Case:
    """One rack for all nodes or a few, where each host or rack may have only so many of them: more than one count."""
    r = random.Random(seed)
    snapshot, request = tiny(seed, few=True)
    everybody = Selector()
    options: list[Constraint] = [Within(everybody, Scope.RACK, r.randint(1, 2)), Together(everybody, Scope.RACK)]
    in_few = r.choice(options)
    apart = AtMost(everybody, r.randint(1, 2), r.choice([Scope.HOST, Scope.HOST, Scope.RACK]))
    return snapshot, replace(request, constraints=(in_few, apart))


def everything(seed: int) -> Case:
    """All of it at once, against each other: closed and held hosts, over-commit, unpinned use of NUMA cells, devices of
    one cell or partition, members that stay, hosts left out, several rules of every kind, wishes, a loss of a rack."""
    r = random.Random(seed)
    snapshot, request = unpinned(seed) if r.random() < 0.5 else tiny(seed, kinds=True, few=r.random() < 0.5)
    hosts = []
    for host in snapshot.hosts:
        one = replace(host, schedulable=r.random() < 0.85)
        if r.random() < 0.2:
            one = replace(one, used={name: r.randint(0, 5 * amount // 4) for name, amount in host.capacity.items()})
        members = tuple(replace(m, exclusive=r.random() < 0.15, demand={"cpu": r.randint(0, 1)}) for m in one.members)
        hosts.append(
            _with_pools(r, replace(one, members=members)) if r.random() < 0.7 else replace(one, members=members)
        )
    nodes = tuple(
        _with_devices(r, replace(node, exclusive=node.exclusive or r.random() < 0.1)) for node in request.nodes
    )
    staying = {m.id: h.id for h in hosts for m in h.members if r.random() < 0.4}
    rules = list(request.constraints)
    size = sum(node.count for node in nodes)
    if r.random() < 0.3:  # whichever rack is lost, some are left
        rules.append(AtMost(limit=max(1, size - r.randint(1, 2)), scope=Scope.RACK))
    if r.random() < 0.3:
        label = Selector(labels={"group": r.choice(["red", "blue", "old"])})
        between: list[Constraint] = [
            Apart(Selector(), label),
            Near(Selector(), label, Scope.RACK),
            Within(label, Scope.ZONE),
        ]
        rules.append(r.choice(between))
    if r.random() < 0.2:
        rules.append(SpareHosts(1, r.choice([None, 2])))
    excluded = frozenset(h.id for h in hosts if r.random() < 0.1)
    strategy = r.choice(list(Strategy))
    return Snapshot(tuple(hosts), snapshot.flavours), Request(nodes, strategy, tuple(rules), excluded, staying)


def _with_pools(r: random.Random, host: Host) -> Host:
    """The host with its accelerators told by where they are."""
    left = host.capacity.get("gpu.a100", 0)
    if not left or left > 64:
        return host
    pools = []
    while left:
        size = r.randint(1, left)
        left -= size
        cell = r.choice([None, *range(len(host.cells))])
        pools.append(Pool("gpu.a100", size, r.randint(0, size), cell, r.choice(["", "x", "y"])))
    return replace(host, used={**host.used, "gpu.a100": sum(p.used for p in pools)}, pools=tuple(pools))


def _with_devices(r: random.Random, node: Node) -> Node:
    """The node with its accelerators wanted together, or as they come."""
    count = node.demand.get("gpu.a100", 0)
    local, joint = bool(node.cells) and r.random() < 0.5, r.random() < 0.5
    if not 0 < count <= 64 or not (local or joint) or r.random() < 0.4:
        return node
    return replace(node, devices=(Devices("gpu.a100", r.randint(1, count), local, joint),))


FAMILIES: dict[str, Callable[[int], Case]] = {
    build.__name__: build
    for build in (
        unpinned,
        closed,
        neighbours,
        overcommitted,
        named_members,
        soft,
        preferring,
        few_domains,
        few_seats,
        everything,
    )
}

RULES: dict[Family, tuple[type, ...]] = {
    Family.AFFINITY: (Together, Near, Within),
    Family.ANTI_AFFINITY: (AtMost, Apart),
    Family.SPREAD: (SpreadOver,),
    Family.SPARE_HOSTS: (SpareHosts,),
    Family.LABELS: (Prefer,),
}


def relaxed(case: Case, families: Iterable[Family]) -> Case:
    """The case without some families of constraints."""
    snapshot, request = case
    gone = set(families)
    dropped = tuple(kind for family in gone for kind in RULES.get(family, ()))

    def node(one: Node) -> Node:
        unsized = Family.CAPACITY in gone
        return replace(
            one,
            demand={} if unsized else one.demand,
            zone=None if Family.ZONE in gone else one.zone,
            host_labels={} if Family.LABELS in gone else one.host_labels,
            exclusive=one.exclusive and Family.EXCLUSIVE not in gone,
            cells=0 if unsized or Family.NUMA in gone else one.cells,
            devices=() if unsized or Family.DEVICE in gone else _wanted(one, Family.NUMA not in gone),
        )

    rules = tuple(rule for rule in request.constraints if not isinstance(rule, dropped))
    excluded = frozenset() if Family.EXCLUDED in gone else request.excluded_hosts
    hosts = snapshot.hosts
    if Family.UNSCHEDULABLE in gone:
        hosts = tuple(replace(host, schedulable=True) for host in hosts)
    after = replace(request, nodes=tuple(map(node, request.nodes)), constraints=rules, excluded_hosts=excluded)
    return Snapshot(hosts, snapshot.flavours), after


def _wanted(node: Node, cells: bool) -> tuple[Devices, ...]:
    return node.devices if cells else tuple(replace(one, local=False) for one in node.devices if one.joint)


def bare(host: Host, **changes: object) -> Host:
    """The host with nobody on it and nothing in use."""
    cells = tuple(Cell(cell.capacity) for cell in host.cells)
    pools = tuple(replace(pool, used=0) for pool in host.pools)
    return replace(host, used={}, members=(), cells=cells, pools=pools, **changes)  # type: ignore[arg-type]


def cured(case: Case, cure: Cure) -> Case:
    """The case with a cure applied, but for ``shrink``."""
    snapshot, request = case
    if cure.kind is CureKind.RELAX:
        assert cure.family is not None
        return relaxed(case, [cure.family])
    if cure.kind is CureKind.WAIT:
        # Nobody lives there any more, so that no rule can name who stayed.
        return Snapshot(tuple(bare(host) for host in snapshot.hosts), snapshot.flavours), request
    like = next(host for host in snapshot.hosts if host.id == cure.host)
    if cure.kind is CureKind.ADD_HOSTS:
        more = tuple(bare(like, id=f"new-{n}", rack=f"new-{n}", schedulable=True) for n in range(cure.count))
        return Snapshot(snapshot.hosts + more, snapshot.flavours), request
    assert cure.kind is CureKind.FREE
    hosts = tuple(_freed(host, cure) if host is like else host for host in snapshot.hosts)
    return Snapshot(hosts, snapshot.flavours), request


def _freed(host: Host, cure: Cure) -> Host:
    """The host with as much less in use, of it and of its cells, as the cure says."""
    used, cells, pools = dict(host.used), [dict(cell.used) for cell in host.cells], list(host.pools)
    for short in cure.amounts:
        left = short.missing
        for number, pool in enumerate(pools):  # where it is not said of which, any of the host will do
            if pool.resource == short.resource and short.pool in (None, number):
                gone = min(left, pool.used)
                pools[number], left = replace(pool, used=pool.used - gone), left - gone
        for amounts in (used, *([cells[short.cell]] if short.cell is not None else [])):
            amounts[short.resource] = amounts.get(short.resource, 0) - short.missing
            assert amounts[short.resource] >= 0, "no more is to become free than is in use"
    freed = tuple(replace(cell, used=amounts) for cell, amounts in zip(host.cells, cells, strict=True))
    return replace(host, used=used, cells=freed, pools=tuple(pools))


def fits(case: Case) -> bool:
    """Whether some placement of the whole gang keeps every hard rule, by enumeration."""
    brute = Brute(*case)
    hard = [rule for rule in case[1].constraints if rule.weight is None]
    return any(all(not brute.missed(rule, placement) for rule in hard) for placement in brute.placements())


def most_that_fit(case: Case) -> int | None:
    """How many of the nodes fit at most when some are left out, every hard rule kept; None: not even no node."""
    snapshot, request = case
    hard = [rule for rule in request.constraints if rule.weight is None]
    best = 0 if not any(Brute(snapshot, request).missed(rule, ()) for rule in hard) else None

    def grow(kept: tuple[int, ...]) -> None:
        nonlocal best
        size = sum(kept) + sum(node.count for node in request.nodes[len(kept) :])
        if best is not None and size <= best:
            return
        if len(kept) < len(request.nodes):
            for count in range(request.nodes[len(kept)].count, -1, -1):
                grow((*kept, count))
        elif size:
            some = Brute(snapshot, request)
            some.nodes = [node for node, count in zip(request.nodes, kept, strict=True) for _ in range(count)]
            if any(all(not some.missed(rule, p) for rule in hard) for p in some.placements()):
                best = size

    grow(())
    return best

"""The same question with something changed: constraints dropped, hosts added, room freed, the fleet emptied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from placement.constraints import Apart, AtMost, Constraint, Near, Prefer, SpareHosts, SpreadOver, Together, Within
from placement.devices import DEVICES
from placement.model import Devices, Host, Member, Node, Request, Shortage, joined
from placement.problem.gang import Gang, collapse_on
from placement.problem.index import FleetIndex
from placement.reasons import Family

FAMILY_OF: dict[type, Family] = {
    Together: Family.AFFINITY,
    Near: Family.AFFINITY,
    Within: Family.AFFINITY,
    AtMost: Family.ANTI_AFFINITY,
    Apart: Family.ANTI_AFFINITY,
    SpreadOver: Family.SPREAD,
    SpareHosts: Family.SPARE_HOSTS,
    Prefer: Family.LABELS,
}


def families(gang: Gang) -> tuple[Family, ...]:
    """The families that this request uses on this fleet, capacity last."""
    nodes = [kind.sample for kind in gang.kinds]
    used = {
        Family.ZONE: any(node.zone is not None for node in nodes),
        Family.LABELS: any(node.host_labels for node in nodes),
        Family.EXCLUDED: bool(gang.request.excluded_hosts),
        Family.UNSCHEDULABLE: not bool(gang.index.schedulable.all()),
        Family.EXCLUSIVE: any(node.exclusive for node in nodes),
        Family.NUMA: any(node.cells for node in nodes),
        Family.DEVICE: any(node.devices for node in nodes),
    }
    ruled = {FAMILY_OF[type(rule)] for rule in gang.request.constraints if rule.weight is None}
    found = [family for family, present in used.items() if present]
    found.extend(family for family in Family if family in ruled)
    return (*found, Family.CAPACITY)


def without(gang: Gang, dropped: Iterable[Family]) -> Gang:
    """The gang with families of constraints dropped."""
    gone = frozenset(dropped)
    if not gone:
        return gang
    nodes = tuple(_node_without(node, gone) for node in gang.request.nodes)
    rules: tuple[Constraint, ...] = tuple(
        rule for rule in gang.request.constraints if FAMILY_OF[type(rule)] not in gone
    )
    excluded = frozenset() if Family.EXCLUDED in gone else gang.request.excluded_hosts
    request = Request(nodes, gang.request.strategy, rules, excluded, gang.request.staying)
    index = gang.index
    if Family.UNSCHEDULABLE in gone:
        index = replace(index, schedulable=np.ones_like(index.schedulable), cache={})
    return collapse_on(index, gang.flavours, request)


def _node_without(node: Node, gone: frozenset[Family]) -> Node:
    asked = {
        Family.CAPACITY: bool(node.demand) or node.cells > 0,
        Family.ZONE: node.zone is not None,
        Family.LABELS: bool(node.host_labels),
        Family.EXCLUSIVE: node.exclusive,
        Family.NUMA: node.cells > 0,
        Family.DEVICE: bool(node.devices),
    }
    if not any(asked.get(family, False) for family in gone):
        return node
    return Node(
        node.id,
        {} if Family.CAPACITY in gone else node.demand,
        None if Family.ZONE in gone else node.zone,
        node.count,
        node.labels,
        {} if Family.LABELS in gone else node.host_labels,
        node.exclusive and Family.EXCLUSIVE not in gone,
        0 if gone & {Family.NUMA, Family.CAPACITY} else node.cells,
        () if gone & {Family.DEVICE, Family.CAPACITY} else _devices_without(node, Family.NUMA in gone),
    )


def _devices_without(node: Node, cells: bool) -> tuple[Devices, ...]:
    """What a node wants together; of no cell where it is to have none."""
    if not cells:
        return node.devices
    return tuple(replace(one, local=False) for one in node.devices if one.joint)


def on_empty_fleet(gang: Gang, reopened: bool, own_stay: bool) -> Gang:
    """The gang on the same hosts with every guest gone.

    ``reopened``: with every host in service. ``own_stay``: but for this gang's own members, which stay with what they
    are known to use.
    """
    index = gang.index
    staying = gang.request.staying if own_stay else {}
    homes = set(staying.values())
    free = index.capacity.copy()
    hosts = list(index.hosts)
    inhabited = []
    for row, host in enumerate(hosts):
        if host.members or host.cells or host.pools or host.id in homes:
            own = tuple(member for member in host.members if member.id in staying)
            hosts[row] = _emptied(host, own)
            for member in own:
                free[row] -= np.array([member.demand.get(name, 0) for name in index.resources], np.int64)
            if own:
                inhabited.append(row)
    everywhere = np.ones_like(index.schedulable)
    empty = everywhere.copy()
    empty[inhabited] = False
    fleet = replace(
        index,
        hosts=tuple(hosts),
        free=np.maximum(free, 0),
        schedulable=everywhere if reopened else index.schedulable,
        shared=np.array([not any(member.exclusive for member in host.members) for host in hosts], np.bool_),
        empty=empty,
        inhabited=~empty,
        cache={},
    )
    return collapse_on(fleet, gang.flavours, gang.request)


def _emptied(host: Host, own: tuple[Member, ...]) -> Host:
    """The host with these members of it alone."""
    bare = replace(
        host,
        used={},
        members=(),
        cells=tuple(replace(cell, used={}) for cell in host.cells),
        pools=tuple(replace(pool, used=0) for pool in host.pools),
    )
    for member in own:
        bare = joined(bare, member, member.holds)
    return bare


def with_hosts(gang: Gang, host: Host, copies: int) -> Gang:
    """The gang on the fleet with empty copies of a host added, each in a rack of its own."""
    index = gang.index
    new = tuple(
        replace(
            host,
            id=f"{host.id}+{number}",
            used={},
            members=(),
            schedulable=True,
            rack=f"+{number}",
            cells=tuple(replace(cell, used={}) for cell in host.cells),
            pools=tuple(replace(pool, used=0) for pool in host.pools),
        )
        for number in range(copies)
    )
    return collapse_on(FleetIndex.appended(index, new), gang.flavours, gang.request)


def with_room(gang: Gang, host: str, lacking: Sequence[Shortage]) -> Gang:
    """The gang with less of some resources used on one host, and less of its pools and cells where it says of which."""
    amounts: Counter[str] = Counter()
    pools: Counter[int] = Counter()
    cells: Counter[tuple[int, str]] = Counter()
    for short in lacking:
        amounts[short.resource] += short.missing
        if short.pool is not None:
            pools[short.pool] += short.missing
            amounts[DEVICES] += short.missing
        if short.cell is not None:
            cells[short.cell, short.resource] += short.missing
    index = gang.index
    free = index.free.copy()
    row = index.position[host]
    one = index.hosts[row]
    for name, amount in amounts.items():
        if name in index.resources:
            free[row, index.resources[name]] = max(0, one.capacity.get(name, 0) - one.used.get(name, 0) + amount)
    hosts = index.hosts
    if pools or cells:
        freed = tuple(replace(pool, used=max(0, pool.used - pools[n])) for n, pool in enumerate(one.pools))
        roomier = tuple(
            replace(cell, used={name: max(0, amount - cells[n, name]) for name, amount in cell.used.items()})
            for n, cell in enumerate(one.cells)
        )
        hosts = (*hosts[:row], replace(one, pools=freed, cells=roomier), *hosts[row + 1 :])
    return collapse_on(replace(index, hosts=hosts, free=free, cache={}), gang.flavours, gang.request)

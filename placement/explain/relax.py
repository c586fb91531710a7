"""The same question with something changed: constraints dropped, hosts added, room freed, the fleet emptied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from placement.constraints import Apart, AtMost, Constraint, Near, SpareHosts, SpreadOver, Together
from placement.model import Host, Node, Request
from placement.problem.gang import Gang, collapse_on
from placement.problem.index import FleetIndex
from placement.reasons import Family

FAMILY_OF: dict[type, Family] = {
    Together: Family.AFFINITY,
    Near: Family.AFFINITY,
    AtMost: Family.ANTI_AFFINITY,
    Apart: Family.ANTI_AFFINITY,
    SpreadOver: Family.SPREAD,
    SpareHosts: Family.SPARE_HOSTS,
}


def families(gang: Gang) -> tuple[Family, ...]:
    """The families that this request uses on this fleet, capacity last."""
    nodes = [kind.sample for kind in gang.kinds]
    used = {
        Family.ZONE: any(node.zone is not None for node in nodes),
        Family.LABELS: any(node.host_labels for node in nodes),
        Family.EXCLUDED: bool(gang.request.excluded_hosts),
        Family.UNSCHEDULABLE: not bool(gang.index.open.all()),
        Family.EXCLUSIVE: any(node.exclusive for node in nodes),
        Family.NUMA: any(node.cells for node in nodes),
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
        index = replace(index, open=np.ones_like(index.open), cache={})
    return collapse_on(index, gang.flavours, request)


def _node_without(node: Node, gone: frozenset[Family]) -> Node:
    asked = {
        Family.CAPACITY: bool(node.demand) or node.cells > 0,
        Family.ZONE: node.zone is not None,
        Family.LABELS: bool(node.host_labels),
        Family.EXCLUSIVE: node.exclusive,
        Family.NUMA: node.cells > 0,
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
    )


def on_empty_fleet(gang: Gang) -> Gang:
    """The gang on the same hosts with every guest gone and every host in service."""
    index = gang.index
    everywhere = np.ones_like(index.open)
    hosts = index.hosts
    if any(host.cells for host in hosts):
        hosts = tuple(replace(host, cells=tuple(replace(cell, used={}) for cell in host.cells)) for host in hosts)
    empty = replace(index, hosts=hosts, free=index.capacity, open=everywhere, empty=everywhere, inhabited=(), cache={})
    request = replace(gang.request, staying={}) if gang.request.staying else gang.request
    return collapse_on(empty, gang.flavours, request)


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
        )
        for number in range(copies)
    )
    return collapse_on(FleetIndex.appended(index, new), gang.flavours, gang.request)


def with_room(gang: Gang, host: str, amounts: Mapping[str, int]) -> Gang:
    """The gang with more room on one host."""
    index = gang.index
    free = index.free.copy()
    row = index.position[host]
    for name, amount in amounts.items():
        if name in index.resources:
            free[row, index.resources[name]] += amount
    return collapse_on(replace(index, free=free, cache={}), gang.flavours, gang.request)

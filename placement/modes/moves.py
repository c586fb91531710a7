"""A member's move from host to host, and what it changes on both: room, NUMA cells, who lives there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from placement.model import Cell, Host, Member, Node


@dataclass(frozen=True, slots=True)
class Move:
    """One member from one host to another; ``cells`` are the NUMA cells that it is pinned to there."""

    member: str
    source: str
    target: str
    cells: tuple[int, ...] = ()


def node_of(member: Member, host: Host) -> Node:
    """A member as a node to place: within its zone, pinned to as many NUMA cells as now."""
    return Node(
        member.id,
        member.demand,
        host.zone,
        labels=member.labels,
        exclusive=member.exclusive,
        cells=len(member.cells),
    )


def left(host: Host, member: Member) -> Host:
    """The host once a member has left it; use never falls below zero."""
    return replace(
        host,
        used=_changed(host.used, member.demand, -1),
        cells=_cells(host, member, -1),
        members=tuple(other for other in host.members if other.id != member.id),
    )


def joined(host: Host, member: Member) -> Host:
    """The host once a member lives on it, in the cells that the member names."""
    return replace(
        host,
        used=_changed(host.used, member.demand, 1),
        cells=_cells(host, member, 1),
        members=(*host.members, member),
    )


def _changed(used: Mapping[str, int], amounts: Mapping[str, int], sign: int) -> dict[str, int]:
    after = dict(used)
    for name, amount in amounts.items():
        after[name] = max(0, after.get(name, 0) + sign * amount)
    return after


def _cells(host: Host, member: Member, sign: int) -> tuple[Cell, ...]:
    """The host's cells with the member's share taken from or added to those it is pinned to."""
    if not member.cells:
        return host.cells
    named = {name for cell in host.cells for name in cell.capacity}
    share = {name: -(-amount // len(member.cells)) for name, amount in member.demand.items() if name in named}
    return tuple(
        replace(cell, used=_changed(cell.used, share, sign)) if number in member.cells else cell
        for number, cell in enumerate(host.cells)
    )

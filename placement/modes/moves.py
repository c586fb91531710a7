"""A member's move from host to host."""

from __future__ import annotations

from dataclasses import dataclass

from placement.model import Host, Member, Node


@dataclass(frozen=True, slots=True)
class Move:
    """One member's way from one host to another; ``cells`` are the NUMA cells that it is pinned to on the other."""

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

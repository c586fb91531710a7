"""A member's move from host to host, and room that moves make. Importing it loads no solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from placement.constraints import Constraint
from placement.model import Decision, Host, InvalidPlacementInput, Member, Node, Proof, Status
from placement.resources import checked_integer

MOST_COST = 1 << 50


@dataclass(frozen=True, slots=True)
class Move:
    """One member's way from one host to another; ``cells`` are the NUMA cells that it is pinned to on the other,
    ``devices`` what it gets of the other's pools of what it wants together."""

    member: str
    source: str
    target: str
    cells: tuple[int, ...] = ()
    devices: tuple[tuple[int, int], ...] = ()


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


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Members of one group that may move: each a node whose id is its member's, at a cost from 0 to 2**50.

    ``staying``: its members that may not move, and their hosts. ``constraints``, ``excluded_hosts``: the group's own.
    """

    nodes: tuple[Node, ...]
    costs: Mapping[str, int]
    constraints: tuple[Constraint, ...] = ()
    staying: Mapping[str, str] = field(default_factory=dict)
    excluded_hosts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for node in self.nodes:
            checked_integer(f"neighbours.costs[{node.id}]", self.costs.get(node.id, -1), 0, MOST_COST)
            if node.count != 1:
                raise InvalidPlacementInput("neighbours.nodes", f"{node.id!r} must be one member")

    @property
    def ruled(self) -> bool:
        """Whether its members cannot be housed together with other groups'."""
        return bool(self.constraints or self.excluded_hosts)


@dataclass(frozen=True, slots=True)
class MadeRoom:
    """``status``: ``placed``: once ``moves`` are made, ``placed`` fits. ``infeasible``: no moves can do it, proven.

    ``unknown``: no plan was found, though one may exist. ``lower_bound``: no moves that make room cost less (None where
    none can). ``homeless``: members that found no home in the last attempt. ``decision``: the answer without any move.
    """

    status: Status
    decision: Decision
    moves: tuple[Move, ...] = ()
    placed: Decision | None = None
    cost: int | None = None
    lower_bound: int | None = None
    proof: Proof = Proof.NONE
    homeless: tuple[str, ...] = ()
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Leaving:
    """A group that may go, as a whole: its members that have seats, each a node whose id is its member's.

    ``cost``: from 0 to 2**50; ``level``: groups of a lower one go before those of a higher one.
    """

    nodes: tuple[Node, ...]
    cost: int
    level: int = 0


@dataclass(frozen=True, slots=True)
class Evictions:
    """``status``: ``placed``: once ``gone`` (numbers of the groups) are gone and then ``moves`` made, ``placed`` fits.
    ``infeasible``: not even without all of them, proven. ``unknown``: no plan was found, though one may exist.

    ``cost``: of those that go. ``lower_bound``: no groups up to the level of the highest that goes cost less.
    ``decision``: the answer while all stay. ``moved``: what the moves cost; a move may go where a group has gone.
    """

    status: Status
    decision: Decision
    gone: tuple[int, ...] = ()
    placed: Decision | None = None
    cost: int | None = None
    lower_bound: int | None = None
    proof: Proof = Proof.NONE
    stopped: bool = False
    moves: tuple[Move, ...] = ()
    moved: int = 0

"""What a rebalance is asked, and what it answers. Importing it loads no solver."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from placement.model import Proof, Status
from placement.modes.moves import Move
from placement.resources import MAX_NODES, checked_integer

PER_HOST = 1000
"""A host that is full, in the unit of loads: thousandths of what it has of a resource."""


class Rule(StrEnum):
    """What is broken."""

    LABELS = "labels"
    EXCLUSIVE = "exclusive"
    NUMA = "numa"
    CAPACITY = "capacity"
    AT_MOST = "at_most"
    TOGETHER = "together"
    APART = "apart"
    NEAR = "near"
    SPREAD = "spread"
    WITHIN = "within"


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken rule. ``by``: how much it is missed by. ``where``: the host, rack or zone, empty where it is of several.

    ``sets``: whoever leaves together may mend it, or a part of it; empty where nobody may leave. ``own``: at least so
    many members of its group have to move before it holds; ``out``: so many members have to leave the host ``where``.
    """

    rule: Rule
    by: int
    where: str
    sets: tuple[tuple[str, ...], ...]
    own: int = 0
    out: int = 0


@dataclass(frozen=True, slots=True)
class ZoneLoad:
    """The fullest host of a zone before and after the moves; ``bound``: so many moves cannot make it less full."""

    zone: str
    before: int
    after: int
    bound: int


class Cause(StrEnum):
    """What a move is for."""

    RULE = "rule"
    LOAD = "load"
    FREE = "free"


class Goal(StrEnum):
    """What moves are for once no rule is broken: hosts that are evenly full, or as many free ones as possible."""

    EVEN_LOAD = "even_load"
    FREE_HOSTS = "free_hosts"


@dataclass(frozen=True, slots=True)
class Limits:
    """``threshold``, ``least_gain``: in thousandths of a host. ``resources``: whose load counts; empty: of all that
    members ask for. ``within``: the hosts that may be left and gone to; None: all. ``held``: members that leave their
    hosts for a broken rule alone, not for load or so that a host becomes free. Threshold, gain and resources count for
    ``Goal.EVEN_LOAD`` alone."""

    most_moves: int = 10
    threshold: int = 200
    least_gain: int = 50
    resources: tuple[str, ...] = ()
    within: frozenset[str] | None = None
    goal: Goal = Goal.EVEN_LOAD
    held: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        checked_integer("limits.most_moves", self.most_moves, 0, MAX_NODES)
        checked_integer("limits.threshold", self.threshold, 0, PER_HOST)
        checked_integer("limits.least_gain", self.least_gain, 1, PER_HOST)


@dataclass(frozen=True, slots=True)
class Step:
    """A move. ``gain``: of a rule, how much less is missed by it and its ``together`` fellows; of load, how much less
    full the fuller of the two hosts is, in thousandths; of a host that becomes free, 1. ``together``: a number that
    steps share which only as a whole mend their rule, or free their host."""

    move: Move
    cause: Cause
    gain: int
    together: int
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class Rebalance:
    """``steps`` in their order. ``broken``: what was, and ``left``: what still is; ``missed``, ``missed_after``: by how
    much in all. ``least_moves``: no moves that mend all that is broken are fewer. ``zones``: the fullest host of each.
    ``freed``: the hosts that become free, of which no moves that are left once all is mended free more than
    ``most_freed``; both of ``Goal.FREE_HOSTS`` alone. ``proof``: optimal where all is mended by so many moves, and no
    zone can be more even by as many as are allowed; or no more hosts can be freed, nor as many by fewer moves.
    """

    steps: tuple[Step, ...]
    broken: tuple[Fault, ...]
    left: tuple[Fault, ...]
    missed: int
    missed_after: int
    least_moves: int
    zones: tuple[ZoneLoad, ...]
    cost: int
    proof: Proof
    stopped: bool = False
    freed: tuple[str, ...] = ()
    most_freed: int = 0

    @property
    def moves(self) -> tuple[Move, ...]:
        """The moves alone."""
        return tuple(step.move for step in self.steps)


@dataclass(frozen=True, slots=True)
class Batch:
    """Hosts that are emptied together, and the moves that empty them, in their order."""

    hosts: tuple[str, ...]
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class Roll:
    """``status``: ``placed``: the batches empty each host once. ``infeasible``: the host ``stuck`` cannot be emptied,
    whatever moves within its zone, proven. ``unknown``: no order was found, though one may exist.

    ``batches``: up to where it goes; ``left``: the hosts that are in none. ``least_moves``: no order has fewer moves.
    ``proof``: optimal where it has no more. ``why``: what keeps ``stuck`` from being emptied, in words.
    """

    status: Status
    batches: tuple[Batch, ...]
    left: tuple[str, ...]
    least_moves: int
    proof: Proof = Proof.NONE
    stuck: str = ""
    why: str = ""
    stopped: bool = False

    @property
    def moves(self) -> tuple[Move, ...]:
        """The moves of all batches."""
        return tuple(move for batch in self.batches for move in batch.moves)

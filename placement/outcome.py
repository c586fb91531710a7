"""What the planner answers: decisions, proofs and explanations, as frozen data.

``model`` offers all of it again, beside the questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from placement.reasons import Family, Reason
from placement.strategy import Strategy


class Status(StrEnum):
    """``placed``: assignments stand. ``infeasible``: proven impossible. ``unknown``: neither, in time."""

    PLACED = "placed"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


class Proof(StrEnum):
    """``optimal``: lower bound = upper bound. ``gap``: both stand, apart. ``infeasible``: proven. ``none``: nothing."""

    OPTIMAL = "optimal"
    GAP = "gap"
    INFEASIBLE = "infeasible"
    NONE = "none"


class Assignment(NamedTuple):
    """One copy of a node on one host; ``cells`` are the NUMA cells for a node that asked for them, ``devices`` what it
    gets of the host's pools, as (position, count), of those that it wants together."""

    node: str
    host: str
    cells: tuple[int, ...] = ()
    devices: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Shortage:
    """How much of one resource is missing; ``pool``: of devices, at which position of its host's pools they are, None
    where any of the host will do; ``where``: the same for people, as in "cell 1, partition left"; ``cell``: of which
    NUMA cell of the host, None where any part of it will do."""

    resource: str
    missing: int
    pool: int | None = None
    where: str = ""
    cell: int | None = None


@dataclass(frozen=True, slots=True)
class Funnel:
    """How many hosts each reason rules out for one kind of node, tried in the order of ``Reason``.

    ``resources`` details the last two reasons: ``(reason, resource) -> hosts``, by the first resource short.
    """

    node: str
    alike: int
    hosts: int
    ruled_out: tuple[tuple[Reason, int], ...]
    resources: tuple[tuple[Reason, str, int], ...]
    candidates: int


@dataclass(frozen=True, slots=True)
class NearestMiss:
    """The host that comes closest to taking one node that fits nowhere, and what it lacks. ``host_name``: for people,
    where the caller of the planner knows one."""

    node: str
    host: str
    shortages: tuple[Shortage, ...]
    host_name: str = ""


class CureKind(StrEnum):
    """What a cure changes."""

    RELAX = "relax"
    ADD_HOSTS = "add_hosts"
    FREE = "free"
    SHRINK = "shrink"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Cure:
    """One change after which the whole request fits, checked by placing it again.

    ``relax`` a ``family``; ``add_hosts``: ``count`` hosts like ``host``; ``free``: ``amounts`` on ``host``;
    ``shrink`` to ``count`` nodes; ``wait``: it fits the hosts in service once their guests are gone. ``host_name``: see
    `NearestMiss`.
    """

    kind: CureKind
    family: Family | None = None
    host: str | None = None
    count: int = 0
    amounts: tuple[Shortage, ...] = ()
    host_name: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a request does not fit. ``permanent``: not even on the empty fleet (None where that was not settled).

    ``placeable``/``placeable_bound``: a placement of so many nodes is known, and no more than so many can be placed.
    ``conflict``: constraint families that are proven not to hold together, none of which can be spared as far as the
    budget tells; empty where nothing is proven. ``permanent`` counts every host as in service.
    """

    message: str
    funnels: tuple[Funnel, ...] = ()
    nearest: NearestMiss | None = None
    shortages: tuple[Shortage, ...] = ()
    placeable: int | None = None
    placeable_bound: int | None = None
    total: int = 0
    conflict: tuple[Family, ...] = ()
    cures: tuple[Cure, ...] = ()
    permanent: bool | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What the planner says. ``lower_bound <= optimum <= upper_bound`` for the strategy's objective (``strategy.py``).

    ``penalty`` is the weight of the missed wishes, of which at least ``penalty_bound`` cannot be avoided; the
    bounds of the objective hold among placements with this penalty when the two are equal. With ``max_placed``
    the objective is the number of nodes placed and is maximised; ``unplaced`` names the rest. ``stopped``: the
    caller's stop was heard.
    """

    status: Status
    assignments: tuple[Assignment, ...] = ()
    objective: int | None = None
    lower_bound: int | None = None
    upper_bound: int | None = None
    proof: Proof = Proof.NONE
    stage: str = ""
    strategy: Strategy = Strategy.LEAST_LOST_VALUE
    penalty: int = 0
    penalty_bound: int = 0
    unplaced: tuple[str, ...] = ()
    stopped: bool = False
    max_placed: bool = False
    explanation: Explanation | None = None

    @property
    def gap(self) -> float | None:
        """(upper - lower) / max(1, upper), or None without both bounds."""
        if self.lower_bound is None or self.upper_bound is None:
            return None
        return (self.upper_bound - self.lower_bound) / max(1, abs(self.upper_bound))

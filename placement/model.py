"""The planner's whole vocabulary: fleet, request, policy, decision. Frozen data, checked on construction.

Importing it loads neither numpy nor OR-Tools. Every wrong value raises ``InvalidPlacementInput(field, message)``.
Mappings are copied on construction and must be treated as read-only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from placement.constraints import Constraint, SpareHosts
from placement.devices import Devices, Pool, checked_devices
from placement.fleet import MAX_CELLS, Cell, Flavour, Host, Member, Snapshot, joined, left
from placement.outcome import (
    Assignment,
    Cure,
    CureKind,
    Decision,
    Explanation,
    Funnel,
    NearestMiss,
    Proof,
    Shortage,
    Status,
)
from placement.resources import (
    MAX_AMOUNT,
    MAX_CONSTRAINTS,
    MAX_NODES,
    InvalidPlacementInput,
    checked_amounts,
    checked_integer,
    checked_labels,
    checked_name,
    checked_names,
)
from placement.strategy import Strategy

__all__ = [
    "Assignment",
    "Cell",
    "Cure",
    "CureKind",
    "Decision",
    "Devices",
    "Explanation",
    "Flavour",
    "Funnel",
    "Host",
    "InvalidPlacementInput",
    "Member",
    "NearestMiss",
    "Node",
    "Policy",
    "Pool",
    "Proof",
    "Request",
    "Shortage",
    "Snapshot",
    "Status",
    "Strategy",
    "joined",
    "left",
]


@dataclass(frozen=True, slots=True)
class Node:
    """One spec of the gang, wanted ``count`` times (each copy appears in the assignments under the same id).

    ``host_labels``: key -> values, of which the host must bear one. ``exclusive``: shares its host with
    members of this gang alone (other nodes of the request and staying members).
    ``cells``: 0 = floats over the host; k = its demand is split equally over k NUMA cells of the host
    (rounded up), in every resource that the cells name. ``devices``: those of its demand that it wants together.
    """

    id: str
    demand: Mapping[str, int]
    zone: str | None = None
    count: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    host_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exclusive: bool = False
    cells: int = 0
    devices: tuple[Devices, ...] = ()
    kind: tuple[object, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        checked_name("node.id", self.id)
        object.__setattr__(self, "demand", checked_amounts("node.demand", self.demand))
        if self.zone is not None:
            checked_name("node.zone", self.zone)
        checked_integer("node.count", self.count, 1, MAX_NODES)
        checked_integer("node.cells", self.cells, 0, MAX_CELLS)
        if self.labels:
            object.__setattr__(self, "labels", checked_labels("node.labels", self.labels))
        if self.host_labels:
            object.__setattr__(self, "host_labels", _checked_host_labels(self.host_labels))
        if self.devices:
            object.__setattr__(self, "devices", checked_devices(self.devices, self.demand, self.cells))
        demand = tuple(sorted((name, amount) for name, amount in self.demand.items() if amount))
        where = tuple(sorted(self.host_labels.items())) if self.host_labels else ()
        object.__setattr__(self, "kind", (demand, self.zone, where, self.exclusive, self.cells, self.devices))


def _checked_host_labels(value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        raise InvalidPlacementInput("node.host_labels", "must map label keys to allowed values")
    for key, allowed in value.items():
        checked_name("node.host_labels", key)
        if isinstance(allowed, str) or not isinstance(allowed, Sequence):
            raise InvalidPlacementInput(f"node.host_labels[{key}]", "must be a list of values")
        checked_labels("node.host_labels", dict.fromkeys(allowed, ""))
    return {key: tuple(sorted(set(allowed))) for key, allowed in value.items()}


@dataclass(frozen=True, slots=True)
class Request:
    """A gang: all of its nodes are placed, or none. ``staying`` maps members' ids to hosts: they count for the rules.

    A staying member is one of this gang that lives in the fleet already (scale, re-plan); it must be listed among its
    host's members.
    """

    nodes: tuple[Node, ...]
    strategy: Strategy = Strategy.LEAST_LOST_VALUE
    constraints: tuple[Constraint, ...] = ()
    excluded_hosts: frozenset[str] = frozenset()
    staying: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = tuple(self.nodes)
        object.__setattr__(self, "nodes", nodes)
        object.__setattr__(self, "constraints", tuple(self.constraints))
        object.__setattr__(self, "excluded_hosts", checked_names("request.excluded_hosts", self.excluded_hosts))
        object.__setattr__(self, "staying", checked_labels("request.staying", self.staying))
        if not nodes:
            raise InvalidPlacementInput("request.nodes", "must not be empty")
        if sum(node.count for node in nodes) > MAX_NODES:
            raise InvalidPlacementInput("request.nodes", f"more than {MAX_NODES} nodes")
        if len({node.id for node in nodes}) != len(nodes):
            raise InvalidPlacementInput("request.nodes", "two nodes have the same id")
        if len(self.constraints) > MAX_CONSTRAINTS:
            raise InvalidPlacementInput("request.constraints", f"more than {MAX_CONSTRAINTS} constraints")
        self._check_totals()
        self._check_names()

    def _check_totals(self) -> None:
        names = {name for node in self.nodes for name in node.demand}
        if len(names) > 64:
            raise InvalidPlacementInput("request.nodes", "the nodes name more than 64 resources")
        for name in names:
            if sum(node.demand.get(name, 0) * node.count for node in self.nodes) > 2 * MAX_AMOUNT:
                raise InvalidPlacementInput("request.nodes", f"the total of {name} is above 2**63")

    def _check_names(self) -> None:
        if not self.constraints:
            return
        known = {node.id for node in self.nodes} | set(self.staying)
        for position, constraint in enumerate(self.constraints):
            if isinstance(constraint, SpareHosts):
                continue
            for part in ("select", "first", "second"):
                selector = getattr(constraint, part, None)
                unknown = sorted(selector.nodes - known) if selector is not None else []
                if unknown:
                    raise InvalidPlacementInput(
                        f"request.constraints[{position}].{part}", f"names the unknown node {unknown[0]!r}"
                    )

    @property
    def size(self) -> int:
        """How many nodes the gang has, copies counted."""
        return sum(node.count for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Policy:
    """How hard to try. All budgets are counts, so the same policy always gives the same answer.

    ``rounds``: of column generation. ``dives``: of rounding. ``cells``: entries of the largest knapsack table.
    ``branches``: nodes of a branch-and-bound. ``gap_millionths``: the relative gap, in millionths, that is good enough.
    ``max_placed``: place as many as possible instead of all or nothing. ``explain``: explain a failure in full.
    """

    seed: int = 0
    rounds: int = 400
    dives: int = 4
    cells: int = 24_000_000
    branches: int = 20_000
    gap_millionths: int = 0
    max_placed: bool = False
    explain: bool = True

    def __post_init__(self) -> None:
        checked_integer("policy.seed", self.seed, 0, 2**31 - 1)
        checked_integer("policy.rounds", self.rounds, 0, 1_000_000)
        checked_integer("policy.dives", self.dives, 0, 10_000)
        checked_integer("policy.cells", self.cells, 1_000, 50_000_000)
        checked_integer("policy.branches", self.branches, 0, 100_000_000)
        checked_integer("policy.gap_millionths", self.gap_millionths, 0, 1_000_000)

"""The planner's whole vocabulary: fleet, request, policy, decision. Frozen data, checked on construction.

Importing it loads neither numpy nor OR-Tools. Every wrong value raises ``InvalidPlacementInput(field, message)``.
Mappings are copied on construction and must be treated as read-only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.constraints import Constraint, SpareHosts
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
    MAX_HOSTS,
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
    "Explanation",
    "Flavour",
    "Funnel",
    "Host",
    "InvalidPlacementInput",
    "Member",
    "NearestMiss",
    "Node",
    "Policy",
    "Proof",
    "Request",
    "Shortage",
    "Snapshot",
    "Status",
    "Strategy",
    "joined",
    "left",
]

MAX_CELLS = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One NUMA cell of a host: what it has and what is used of it, in the host's own units."""

    capacity: Mapping[str, int]
    used: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "capacity", checked_amounts("cell.capacity", self.capacity))
        object.__setattr__(self, "used", checked_amounts("cell.used", self.used))


@dataclass(frozen=True, slots=True)
class Member:
    """An instance that already lives on a host. Its demand is part of the host's ``used`` already.

    ``movable`` matters to drain and rebalance alone; ``cells`` are the NUMA cells that it is pinned to. ``exclusive``:
    its host takes nodes of its own gang alone.
    """

    id: str
    demand: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    movable: bool = True
    exclusive: bool = False
    cells: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        checked_name("member.id", self.id)
        object.__setattr__(self, "demand", checked_amounts("member.demand", self.demand))
        object.__setattr__(self, "labels", checked_labels("member.labels", self.labels))
        object.__setattr__(self, "cells", tuple(self.cells))


@dataclass(frozen=True, slots=True)
class Host:
    """One machine. ``capacity`` is usable capacity, floor((total - reserved) * ratio); ``used`` = claims + foreign
    use.

    Use above capacity (a lowered ratio, an unknown guest) counts as no room, not as an error. GPUs are resources
    named by model, such as ``gpu.a100``.
    """

    id: str
    zone: str
    capacity: Mapping[str, int]
    used: Mapping[str, int] = field(default_factory=dict)
    rack: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    schedulable: bool = True
    members: tuple[Member, ...] = ()
    cells: tuple[Cell, ...] = ()

    def __post_init__(self) -> None:
        checked_name("host.id", self.id)
        checked_name("host.zone", self.zone)
        if self.rack is not None:
            checked_name("host.rack", self.rack)
        object.__setattr__(self, "capacity", checked_amounts("host.capacity", self.capacity))
        object.__setattr__(self, "used", checked_amounts("host.used", self.used))
        if self.labels:
            object.__setattr__(self, "labels", checked_labels("host.labels", self.labels))
        object.__setattr__(self, "members", tuple(self.members))
        object.__setattr__(self, "cells", tuple(self.cells))
        if len(self.cells) > MAX_CELLS:
            raise InvalidPlacementInput("host.cells", f"more than {MAX_CELLS} NUMA cells")

    def free(self, resource: str) -> int:
        """What is left of a resource, never below zero."""
        return max(0, self.capacity.get(resource, 0) - self.used.get(resource, 0))

    @property
    def empty(self) -> bool:
        """Whether nothing uses it and nobody lives on it."""
        return not self.members and not any(self.used.values())

    @property
    def rack_key(self) -> str:
        """The rack, or a rack of its own."""
        return f"rack:{self.rack}" if self.rack is not None else f"host:{self.id}"


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


@dataclass(frozen=True, slots=True)
class Flavour:
    """A size that the fleet expects to be asked for."""

    demand: Mapping[str, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "demand", checked_amounts("flavour.demand", self.demand))


@dataclass(slots=True, eq=False)
class Derived:
    """What is worked out from a snapshot's hosts and kept with them, by whoever works it out (``problem/index.py``).

    ``value``: None until then; meanwhile ``base`` is that of an earlier snapshot which differs in ``changed`` alone,
    so that the new one costs as much as what has changed.
    """

    value: object | None = None
    base: object | None = None
    changed: dict[str, Host] = field(default_factory=dict)

    def after(self, changed: Sequence[Host]) -> Derived:
        """That of the same hosts with some of them replaced."""
        new = {host.id: host for host in changed}
        if self.value is not None:
            return Derived(None, self.value, new)
        return Derived(None, self.base, {**self.changed, **new}) if self.base is not None else Derived()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The fleet at one moment. ``flavours`` define what room is worth; without them the request's own nodes do."""

    hosts: tuple[Host, ...]
    flavours: tuple[Flavour, ...] = ()
    version: str = ""
    derived: Derived = field(default_factory=Derived, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        hosts = tuple(self.hosts)
        object.__setattr__(self, "hosts", hosts)
        object.__setattr__(self, "flavours", tuple(self.flavours))
        if len(hosts) > MAX_HOSTS:
            raise InvalidPlacementInput("snapshot.hosts", f"more than {MAX_HOSTS} hosts")
        if len({host.id for host in hosts}) != len(hosts):
            raise InvalidPlacementInput("snapshot.hosts", "two hosts have the same id")
        if len(self.flavours) > MAX_CONSTRAINTS:
            raise InvalidPlacementInput("snapshot.flavours", f"more than {MAX_CONSTRAINTS} flavours")

    def __reduce__(self) -> tuple[type[Snapshot], tuple[tuple[Host, ...], tuple[Flavour, ...], str]]:
        """Travels between processes without its arrays, which cost less to build than to send."""
        return Snapshot, (self.hosts, self.flavours, self.version)

    def updated(
        self,
        changed: Sequence[Host] = (),
        removed: frozenset[str] = frozenset(),
        *,
        flavours: Sequence[Flavour] | None = None,
        version: str | None = None,
    ) -> Snapshot:
        """A snapshot with some hosts changed, added or removed; keeps what is derived where the set of hosts stays.

        ``flavours``, ``version``: the new ones, None to keep them.
        """
        new = {host.id: host for host in changed}
        hosts = self.hosts
        if new or removed:
            hosts = tuple(new.pop(host.id, host) for host in hosts if host.id not in removed) + tuple(new.values())
        after = Snapshot(
            hosts,
            self.flavours if flavours is None else tuple(flavours),
            self.version if version is None else version,
        )
        if hosts is self.hosts:
            object.__setattr__(after, "derived", self.derived)
        elif not removed and len(hosts) == len(self.hosts):
            object.__setattr__(after, "derived", self.derived.after(changed))
        return after

    def difference(self, before: Snapshot) -> tuple[tuple[Host, ...], frozenset[str]]:
        """(hosts that are new or other than before, ids of those that are gone): what ``before.updated`` needs.

        Hosts that are the same object cost nothing, so snapshots that share theirs are compared fast.
        """
        if len(self.hosts) == len(before.hosts):
            pairs = [(old, new) for old, new in zip(before.hosts, self.hosts, strict=True) if old is not new]
            if all(old.id == new.id for old, new in pairs):
                return tuple(new for old, new in pairs if old != new), frozenset()
        known = {host.id: host for host in before.hosts}
        changed = tuple(host for host in self.hosts if known.pop(host.id, None) != host)
        return changed, frozenset(known)


@dataclass(frozen=True, slots=True)
class Node:
    """One spec of the gang, wanted ``count`` times (each copy appears in the assignments under the same id).

    ``host_labels``: key -> values, of which the host must bear one. ``exclusive``: shares its host with
    members of this gang alone (other nodes of the request and staying members).
    ``cells``: 0 = floats over the host; k = its demand is split equally over k NUMA cells of the host
    (rounded up), in every resource that the cells name.
    """

    id: str
    demand: Mapping[str, int]
    zone: str | None = None
    count: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    host_labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    exclusive: bool = False
    cells: int = 0
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
        demand = tuple(sorted((name, amount) for name, amount in self.demand.items() if amount))
        where = tuple(sorted(self.host_labels.items())) if self.host_labels else ()
        object.__setattr__(self, "kind", (demand, self.zone, where, self.exclusive, self.cells))


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

    ``rounds``: column-generation rounds. ``dives``: rounding dives. ``cells``: the largest knapsack table, in
    entries.
    ``branches``: nodes of a branch-and-bound. ``gap_millionths``: good enough relative gap. ``max_placed``: place as
    many as possible instead of all or nothing. ``explain``: whether a failure is explained in full.
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

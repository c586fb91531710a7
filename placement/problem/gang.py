"""A request collapsed to kinds of alike nodes with counts, and where each kind may go at all.

Nodes are alike when they ask for the same and every rule treats them the same; a gang of a thousand is then a handful
of kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from placement.constraints import (
    Apart,
    AtMost,
    Constraint,
    Near,
    Prefer,
    Selector,
    SpareHosts,
    SpreadOver,
    Together,
    Within,
)
from placement.devices import DEVICES, Got, Part, Undecided, Want, arrange, is_device, loose_of, most
from placement.model import Flavour, InvalidPlacementInput, Node, Request, Snapshot
from placement.problem.index import Bools, FleetIndex, Ints, index_of

FIRST, SECOND = 1, 2
Landed = list[tuple[int, int, tuple[int, ...]]]
"""A placement: (kind, host's row, NUMA cells) of each node."""
MOST_KEPT = 50_000_000
MAX_WORK = 100_000_000
"""With more kinds times nodes (or rules) than this, the arrays over them would fill the memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """``nodes``: (node id, copies) in the request's order; ``parts[j]``: 0, FIRST or SECOND of constraint j.

    ``within``: bool[H] hosts that a search confines the kind to, None for all.
    """

    sample: Node
    nodes: tuple[tuple[str, int], ...]
    count: int
    parts: tuple[int, ...]
    within: Bools | None = None

    def ids(self) -> Iterator[str]:
        """The id of each copy."""
        for identity, copies in self.nodes:
            for _ in range(copies):
                yield identity


@dataclass(frozen=True, slots=True, eq=False)
class Gang:
    """K kinds over R' resources (those that somebody asks for).

    ``demand``: int64[K, R']; ``counts``: int64[K]; ``free``, ``capacity``: int64[H, R'] of the fleet. ``unheld``:
    bool[H] hosts where no stranger (a member that is not one of this gang's) wants the host for its own gang alone;
    ``unshared``: those where no stranger lives. ``settled``: numbers of the rules that the kinds' confinement keeps;
    ``roles``: int8[K, N] the kinds' parts in the N rules. ``members``, ``fits``, ``seated``: what is worked out once
    (``topology.old_counts`` by rule, ``fitting_hosts`` and ``seats`` by kind); ``nowhere``: one answer at most, that of
    ``fits_nowhere``.
    """

    request: Request
    index: FleetIndex
    flavours: tuple[Flavour, ...]
    kinds: tuple[Kind, ...]
    names: tuple[str, ...]
    demand: Ints
    counts: Ints
    free: Ints
    capacity: Ints
    unheld: Bools
    unshared: Bools
    roles: npt.NDArray[np.int8]
    settled: frozenset[int] = frozenset()
    members: dict[int, tuple[Ints, Ints]] = field(default_factory=dict)
    fits: dict[int, Bools] = field(default_factory=dict)
    seated: dict[int, Ints] = field(default_factory=dict)
    nowhere: list[int | None] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many nodes, copies counted."""
        return int(self.counts.sum())

    def playing(self, number: int, part: int = FIRST) -> list[int]:
        """The kinds that play a part in a rule."""
        kinds: list[int] = np.flatnonzero(self.roles[:, number] == part).tolist()
        return kinds


def selects(selector: Selector, identity: str, labels: object, own: bool) -> bool:
    """Whether a selector picks a node or member; ``own``: it belongs to the request."""
    if selector.everything:
        return own
    return (own and identity in selector.nodes) or (isinstance(labels, dict) and selector.bears(labels))


def part_of(constraint: Constraint, identity: str, labels: object, own: bool) -> int:
    """Which part a node or member plays in a rule: FIRST (selected), SECOND, or 0."""
    if isinstance(constraint, SpareHosts):
        return FIRST if own else 0
    if isinstance(constraint, AtMost | Together | SpreadOver | Within | Prefer):
        return FIRST if selects(constraint.select, identity, labels, own) else 0
    assert isinstance(constraint, Apart | Near)
    if selects(constraint.first, identity, labels, own):
        return FIRST
    return SECOND if selects(constraint.second, identity, labels, own) else 0


def _parts_of(request: Request) -> Callable[[Node], tuple[int, ...]]:
    """Which part a node plays in each rule: worked out once for equal labels, then again for the rules that name it."""
    rules = request.constraints
    naming: dict[str, list[int]] = {}
    for number, rule in enumerate(rules):
        for name in ("select", "first", "second"):
            selector = getattr(rule, name, None)
            for identity in selector.nodes if selector is not None else ():
                naming.setdefault(identity, []).append(number)
    by_labels: dict[tuple[tuple[str, str], ...], tuple[int, ...]] = {}

    def parts(node: Node) -> tuple[int, ...]:
        key = tuple(sorted(node.labels.items()))
        if key not in by_labels:
            by_labels[key] = tuple(part_of(rule, "", node.labels, True) for rule in rules)
        if node.id not in naming:
            return by_labels[key]
        row = list(by_labels[key])
        for number in naming[node.id]:
            row[number] = part_of(rules[number], node.id, node.labels, True)
        return tuple(row)

    return parts if rules else lambda node: ()


def collapse(snapshot: Snapshot, request: Request) -> Gang:
    """The gang of a request. Kinds come in a canonical order, so that the request's own order does not matter."""
    return collapse_on(index_of(snapshot), snapshot.flavours, request)


def collapse_on(index: FleetIndex, flavours: tuple[Flavour, ...], request: Request) -> Gang:
    """The gang of a request on an index that need not be a snapshot's own."""
    groups: dict[tuple[object, tuple[int, ...]], list[Node]] = {}
    parts_of = _parts_of(request)
    for node in request.nodes:
        key = (node.kind, parts_of(node))
        if key in groups:
            groups[key].append(node)
        else:
            groups[key] = [node]
    if len(groups) * (request.size + len(request.constraints)) > MAX_WORK:
        raise InvalidPlacementInput(
            "request.nodes", f"{len(groups)} different kinds among {request.size} nodes are too many"
        )
    kinds = []
    for (_, parts), alike in sorted(groups.items(), key=lambda group: repr(group[0])):
        nodes = tuple((node.id, node.count) for node in alike)
        kinds.append(Kind(alike[0], nodes, sum(count for _, count in nodes), parts))
    names = tuple(sorted({name for kind in kinds for name, amount in kind.sample.demand.items() if amount}))
    demand = np.array([[kind.sample.demand.get(name, 0) for name in names] for kind in kinds], np.int64)
    free = np.zeros((len(index.hosts), len(names)), np.int64)
    capacity = np.zeros_like(free)
    for column, name in enumerate(names):
        if name in index.resources:
            free[:, column] = index.free[:, index.resources[name]]
            capacity[:, column] = index.capacity[:, index.resources[name]]
    counts = np.array([kind.count for kind in kinds], np.int64)
    demand = demand.reshape(len(kinds), len(names))
    who = _without_strangers(index, request)
    roles = np.array([kind.parts for kind in kinds], np.int8).reshape(len(kinds), len(request.constraints))
    return Gang(request, index, flavours, tuple(kinds), names, demand, counts, free, capacity, *who, roles)


def _without_strangers(index: FleetIndex, request: Request) -> tuple[Bools, Bools]:
    """(hosts that no stranger holds for its own gang, hosts where no stranger lives); see ``Gang``."""
    unheld, unshared = index.shared.copy(), ~index.inhabited
    for host in sorted(set(request.staying.values())):
        row = index.position.get(host)
        if row is not None:
            strangers = [member for member in index.hosts[row].members if member.id not in request.staying]
            unheld[row], unshared[row] = not any(member.exclusive for member in strangers), not strangers
    return unheld, unshared


def allowed_hosts(gang: Gang, kind: Kind) -> Bools:
    """bool[H]: hosts that the kind may use by zone, labels, exclusion and who lives there, whatever their room."""
    index, node = gang.index, kind.sample
    mask = index.schedulable & gang.unheld
    if kind.within is not None:
        mask &= kind.within
    if gang.request.excluded_hosts:
        mask[[index.position[host] for host in gang.request.excluded_hosts if host in index.position]] = False
    if node.zone is not None:
        mask = mask & (index.zone == index.zones.get(node.zone, -1))
    for key, values in node.host_labels.items():
        mask = mask & index.label_mask(key, values)
    if node.exclusive:
        mask = mask & gang.unshared
    if node.cells:
        mask = mask & (index.cells_there() >= node.cells)
    return mask


def fitting_hosts(gang: Gang, number: int) -> Bools:
    """bool[H]: allowed hosts with room for one node of kind ``number`` now (its NUMA cells included). Read-only."""
    if number in gang.fits:
        return gang.fits[number]
    mask = _fitting_hosts(gang, number)
    if len(gang.kinds) * len(mask) <= MOST_KEPT:
        gang.fits[number] = mask
    return mask


def _fitting_hosts(gang: Gang, number: int) -> Bools:
    kind = gang.kinds[number]
    mask = allowed_hosts(gang, kind)
    for column in range(len(gang.names)):
        if gang.demand[number, column]:
            mask = mask & (gang.free[:, column] >= gang.demand[number, column])
    if kind.sample.cells:
        mask = mask & cells_fit(gang, number)
    if kind.sample.devices:
        mask = mask & (seats(gang, number) > 0)
    return mask


def cell_demand(gang: Gang, number: int) -> Ints:
    """int64[Rc]: what one of the kind's cells must give, by the resources that cells name."""
    names, _ = gang.index.cells()
    node = gang.kinds[number].sample
    return np.array([-(-node.demand.get(name, 0) // max(1, node.cells)) for name in names], np.int64)


def cells_fit(gang: Gang, number: int) -> Bools:
    """bool[H]: hosts with enough NUMA cells that can each give the kind's share."""
    _, cells = gang.index.cells()
    # A cell and a resource at a time: numpy is slow on rows of few columns.
    enough = np.zeros(len(cells), np.int64)
    for cell in range(cells.shape[1]):
        takes = np.ones(len(cells), np.bool_)
        for column, share in enumerate(cell_demand(gang, number).tolist()):
            takes &= cells[:, cell, column] >= share
        enough += takes
    fit: Bools = enough >= gang.kinds[number].sample.cells
    return fit


def want_of(gang: Gang, number: int) -> Want:
    """What one node of a kind takes of the parts of its host."""
    node = gang.kinds[number].sample
    share = tuple(cell_demand(gang, number).tolist()) if node.cells else ()
    return Want(node.cells, share, node.devices, loose_of(node.demand, node.devices))


def seats(gang: Gang, number: int) -> Ints:
    """int64[H]: how many nodes of a kind each host takes by its cells and pools, were it for the kind alone; what could
    not be decided counts as all of them. Read-only."""
    if number not in gang.seated:
        there, which = gang.index.parts()
        want, count = want_of(gang, number), gang.kinds[number].count
        found = gang.index.table().most(want, count)
        if found is None:
            found = np.array([_most(part, want, count) for part in there], np.int64)
        gang.seated[number] = found[which]
    return gang.seated[number]


def _most(part: Part, want: Want, limit: int) -> int:
    try:
        return most(part, want, limit)
    except Undecided:
        return limit


def wants_parts(gang: Gang) -> bool:
    """Whether some kind wants devices together."""
    return any(kind.sample.devices for kind in gang.kinds)


def takes_parts(gang: Gang, number: int) -> bool:
    """Whether a node of the kind may take from others what they want of a host's parts: of cells, of what stands
    together, and any device of one model where others want some of any model together."""
    node = gang.kinds[number].sample
    return bool(node.cells or node.devices) or (_of_any(gang) and any(map(is_device, node.demand)))


def _of_any(gang: Gang) -> bool:
    return any(one.resource == DEVICES for kind in gang.kinds for one in kind.sample.devices)


def counted_by_seats(gang: Gang) -> bool:
    """Whether hosts take what their room and the seats of each kind say, since the kinds do not take each other's.

    That is where one kind alone takes of cells and of what stands together, and others may have any of the devices that
    it leaves.
    """
    bound = [kind.sample for kind in gang.kinds if kind.sample.cells or kind.sample.devices]
    if len(bound) != 1:
        return False
    return not (_of_any(gang) and any(name.startswith(f"{DEVICES}.") for name in gang.names))


def arranged(gang: Gang, host: int, kinds: Sequence[int]) -> tuple[Got, ...] | None:
    """What nodes of these kinds get of a host's cells and pools, None where they do not all fit, or where that could
    not be decided."""
    there, which = gang.index.parts()
    try:
        return arrange(there[int(which[host])], tuple(want_of(gang, kind) for kind in kinds))
    except Undecided:
        return None

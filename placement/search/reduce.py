"""From a gang with rules to a packing: which rules become capacity, bundles or eligibility, and which stay open.

What is absorbed is absorbed exactly; the packing of what is left open is a relaxation, so its bounds hold for the gang.

=====================================  ================================================================================
rule                                   becomes
=====================================  ================================================================================
devices together, for one kind         a dimension: how many of the kind a host seats
at most k a host                       a dimension of capacity k minus the members that are there
at most k a rack or zone               the same, which is necessary, and open as well
together on a host                     one bundle
together, near, apart with members     eligibility of hosts
within the domains of members          the same, where no other may be opened
a kind of host                         the same, where it is no wish
exclusive                              eligibility of hosts where no stranger lives
all other rules                        open, except where they cannot be missed
=====================================  ================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from placement.constraints import Apart, AtMost, Near, Prefer, Scope, SpareHosts, SpreadOver, Together, Within
from placement.model import Strategy
from placement.packing.instance import Cells, Load, Packing, classes_of
from placement.packing.numa import in_cells, in_parts, pair_cells
from placement.problem.gang import (
    FIRST,
    SECOND,
    Gang,
    Landed,
    allowed_hosts,
    counted_by_seats,
    seats,
    wants_parts,
)
from placement.problem.index import Bools, Ints
from placement.problem.scoring import RoomValue, free_for, sizes_for
from placement.problem.topology import Tally

Bundles = tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reduction:
    """``bundles[b]``: (kind, copies) that share a host; ``open_rules``: numbers of the rules that the packing
    ignores.

    ``pinned``: some kind asks for NUMA cells in a way that the packing cannot hold.
    """

    gang: Gang
    bundles: Bundles
    packing: Packing
    open_rules: tuple[int, ...]
    pinned: bool

    @property
    def exact(self) -> bool:
        """Whether the packing is the whole problem."""
        return not self.open_rules and not self.pinned

    def spread_out(self, loads: list[Load], order: Ints | None = None) -> Landed:
        """(kind, host, NUMA cells) of every node, with the hosts of each class taken in the given order of rows."""
        rank = None
        if order is not None:
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
        waiting = {}
        landed: Landed = []
        for load in loads:
            if load.cls not in waiting:
                rows = self.packing.rows[load.cls]
                waiting[load.cls] = iter((rows if rank is None else rows[np.argsort(rank[rows])]).tolist())
            held = [
                (kind, copies * bundles)
                for bundle, bundles in enumerate(load.pattern)
                if bundles
                for kind, copies in self.bundles[bundle]
            ]
            for _ in range(load.times):
                host = next(waiting[load.cls])
                if wants_parts(self.gang) and not self.pinned:
                    landed.extend(in_parts(self.gang, host, held))
                    continue
                if self.packing.cells is not None:
                    landed.extend(in_cells(self.gang, host, held))
                    continue
                for kind, copies in held:
                    landed.extend([(kind, host, ())] * copies)
        return landed


def reduce(gang: Gang, value: RoomValue | None = None, only: Bools | None = None, partial: bool = False) -> Reduction:
    """The packing of a gang: every host with its room, every rule absorbed that can be.

    With ``value`` the first dimensions are the value's resources and classes keep all of their room in them, so that
    the value of what stays free is a function of the class. ``only``: bool[H] hosts that may be used at all.
    ``partial``: some of the gang may be left out, so that nothing is bundled.
    """
    rules = _Rules.of(gang, partial)
    tallies, played, bundles = rules.tallies, rules.played, rules.bundles
    masks: dict[object, Bools] = {}
    keys = []
    for kind in gang.kinds:
        node = kind.sample
        key = (node.zone, tuple(node.host_labels.items()), node.exclusive, node.cells, kind.parts, id(kind.within))
        keys.append(key)
        if key not in masks:
            mask = allowed_hosts(gang, kind) if only is None else allowed_hosts(gang, kind) & only
            for number, part in enumerate(kind.parts):
                if part:
                    mask = mask & _may_host(tallies[number], part, SECOND in played[number])
            masks[key] = mask
    counts = np.array([1 if len(b) > 1 or b[0][1] > 1 else gang.counts[b[0][0]] for b in bundles], np.int64)
    demand, free = _dimensions(gang, tallies, rules.limits, bundles)
    unit = np.zeros(demand.shape[1], np.int64)
    if value is not None:
        demand, free, unit = _valued(gang, value, demand, free, bundles)
    group, eligible = _groups([_joint(masks, keys, bundle) for bundle in bundles], len(gang.index.hosts))
    cells = None
    if rules.pinned and wants_parts(gang):
        demand, free, unit = _seated(gang, demand, free, unit, bundles)
    elif rules.pinned and value is None:
        cells = rules.cells()
    packing = classes_of(free, demand, counts, group, eligible, unit, cells)
    return Reduction(gang, bundles, packing, rules.open_rules, rules.pinned_by(cells))


@dataclass(frozen=True, slots=True, eq=False)
class _Rules:
    """What becomes of a gang's rules, before anything is said of its hosts. ``played``: which parts kinds play in each;
    ``limits``: numbers of the rules that become dimensions."""

    gang: Gang
    tallies: list[Tally]
    played: list[set[int]]
    bundles: Bundles
    limits: list[int]
    open_rules: tuple[int, ...]
    pinned: bool

    @classmethod
    def of(cls, gang: Gang, partial: bool = False) -> _Rules:
        tallies = [Tally.start(gang, number) for number in range(len(gang.request.constraints))]
        played = [set(np.unique(column).tolist()) for column in gang.roles.T]
        bundles, bundled = _bundles(gang, [] if partial else tallies)
        limits = [number for number, tally in enumerate(tallies) if _is_limit(tally) and not _never_missed(tally)]
        settled = bundled | gang.settled | {number for number in limits if _on_hosts(tallies[number])}
        open_rules = tuple(
            number
            for number, tally in enumerate(tallies)
            if number not in settled and not _absorbed(tally, played[number], partial)
        )
        pinned = any(_bound(gang, number) for number in range(len(gang.kinds)))
        return cls(gang, tallies, played, bundles, limits, open_rules, pinned)

    def cells(self) -> Cells | None:
        """The hosts' NUMA cells where a packing can hold them."""
        plain = bool(self.gang.names) and not self.limits and len(self.bundles) == len(self.gang.kinds)
        return pair_cells(self.gang) if plain else None

    def pinned_by(self, cells: Cells | None) -> bool:
        """Whether some kind asks for parts of hosts in a way that a packing with these cells cannot hold."""
        if self.pinned and wants_parts(self.gang):
            return not counted_by_seats(self.gang)
        return self.pinned and cells is None

    @property
    def exact(self) -> bool:
        """Whether the packing is the whole problem; asked without making it."""
        if self.open_rules:
            return False
        return not self.pinned_by(None if not self.pinned or wants_parts(self.gang) else self.cells())


def _bound(gang: Gang, kind: int) -> bool:
    """Whether nodes of the kind take of certain parts of their hosts."""
    return bool(gang.kinds[kind].sample.cells or gang.kinds[kind].sample.devices)


def needs_rules(gang: Gang) -> bool:
    """Whether some rule, NUMA request or device may stay open, so that the packing alone does not settle the gang."""
    if wants_parts(gang):
        return not _Rules.of(gang).exact
    if any(kind.sample.cells for kind in gang.kinds):
        return gang.request.strategy is not Strategy.FEWEST_HOSTS or not _Rules.of(gang).exact
    return bool(gang.request.constraints) and not _Rules.of(gang).exact


def _joint(masks: dict[object, Bools], keys: Sequence[object], bundle: tuple[tuple[int, int], ...]) -> Bools:
    mask = masks[keys[bundle[0][0]]]
    for kind, _ in bundle[1:]:
        mask = mask & masks[keys[kind]]
    return mask


def _is_limit(tally: Tally) -> bool:
    rule = tally.rule
    return isinstance(rule, AtMost) and rule.weight is None


def _on_hosts(tally: Tally) -> bool:
    return isinstance(tally.rule, AtMost) and tally.rule.scope is Scope.HOST


def _never_missed(tally: Tally, partial: bool = False) -> bool:
    """Whether no placement can miss the rule; ``partial``: not even one that leaves some of the gang out."""
    rule = tally.rule
    if isinstance(rule, AtMost):
        return tally.coming + int(tally.old_first.max(initial=0)) <= rule.limit
    if isinstance(rule, SpreadOver):
        return int((tally.old_first > 0).sum()) >= rule.minimum or (
            rule.minimum == 1 and tally.coming > 0 and not partial
        )
    if isinstance(rule, Together):
        return tally.coming <= 1 and not (tally.old_first > 0).any()
    if isinstance(rule, Within):
        return tally.coming <= tally.fresh_left() or len(tally.old_first) <= rule.maximum
    return isinstance(rule, Prefer) and not tally.empty.any()


def _may_host(tally: Tally, part: int, second_comes: bool) -> Bools | bool:
    """Which hosts a hard rule leaves to a kind, because of the members that live there already."""
    rule = tally.rule
    if rule.weight is not None or not part:
        return True
    mask: Bools | bool = True
    if isinstance(rule, AtMost):
        mask = (tally.old_first < rule.limit)[tally.domain]
    elif isinstance(rule, Prefer):
        mask = tally.empty == 0
    elif (isinstance(rule, Together) and (tally.old_first > 0).any()) or (
        isinstance(rule, Within) and not tally.fresh_left()
    ):
        mask = (tally.old_first > 0)[tally.domain]
    elif isinstance(rule, Apart):
        mask = ((tally.old_second if part == FIRST else tally.old_first) == 0)[tally.domain]
    elif isinstance(rule, Near) and part == FIRST and not second_comes:
        mask = (tally.old_second > 0)[tally.domain]
    return mask


def _absorbed(tally: Tally, parts: set[int], partial: bool) -> bool:
    """Whether eligibility alone keeps the rule, or nothing can miss it."""
    rule = tally.rule
    if isinstance(rule, SpareHosts):
        return False
    if not parts & {FIRST, SECOND}:
        return not isinstance(rule, SpreadOver) or _never_missed(tally, partial)
    if _never_missed(tally, partial):
        return True
    if rule.weight is not None:
        return False
    if isinstance(rule, Prefer):
        return True
    if isinstance(rule, Together):
        return bool((tally.old_first > 0).any())
    if isinstance(rule, Within):
        return not tally.fresh_left()
    if isinstance(rule, Apart):
        return len(parts & {FIRST, SECOND}) == 1
    return isinstance(rule, Near) and SECOND not in parts


def _bundles(gang: Gang, tallies: list[Tally]) -> tuple[Bundles, set[int]]:
    """Kinds joined by hard affinity to a host, and the rules that this settles."""
    owner = list(range(len(gang.kinds)))
    whole: set[int] = set()
    settled: set[int] = set()
    for number, tally in enumerate(tallies):
        rule = tally.rule
        if not isinstance(rule, Together) or rule.scope is not Scope.HOST or rule.weight is not None:
            continue
        joined = gang.playing(number)
        if (tally.old_first > 0).any() or not joined or any(_bound(gang, k) for k in joined):
            continue
        settled.add(number)
        first = owner[joined[0]]
        for k in joined:
            old = owner[k]
            owner = [first if value == old else value for value in owner]
        whole.update(joined)
    merged: dict[int, list[int]] = {}
    for k, root in enumerate(owner):
        merged.setdefault(root, []).append(k)
    bundles = []
    for kinds in merged.values():
        if kinds[0] in whole:
            bundles.append(tuple((k, gang.kinds[k].count) for k in kinds))
        else:
            bundles.append(((kinds[0], 1),))
    return tuple(bundles), settled


def _of_bundles(bundles: Bundles, amounts: Ints) -> Ints:
    """int64[B, .]: what each bundle sums up to of the kinds' int64[K, .] amounts."""
    held = [(number, kind, copies) for number, bundle in enumerate(bundles) for kind, copies in bundle]
    numbers, kinds, copies = np.array(held, np.int64).reshape(len(held), 3).T
    total = np.zeros((len(bundles), amounts.shape[1]), np.int64)
    np.add.at(total, numbers, amounts[kinds] * copies[:, None])
    return total


def _dimensions(gang: Gang, tallies: list[Tally], limits: list[int], bundles: Bundles) -> tuple[Ints, Ints]:
    """(int64[B, D] demand, int64[H, D] room): the resources, then one dimension for each limit."""
    demand, room = [_of_bundles(bundles, gang.demand)], [gang.free]
    for number in limits:
        tally = tallies[number]
        assert isinstance(tally.rule, AtMost)
        parts = (gang.roles[:, number : number + 1] == FIRST).astype(np.int64)
        demand.append(_of_bundles(bundles, parts))
        room.append(np.maximum(0, tally.rule.limit - tally.old_first[tally.domain])[:, None])
    if len(demand) == 1 and gang.names:
        return demand[0], room[0]
    if not gang.names:
        demand.append(np.zeros((len(bundles), 1), np.int64))
        room.append(np.zeros((len(gang.index.hosts), 1), np.int64))
    return np.concatenate(demand, axis=1), np.concatenate(room, axis=1)


def _seated(gang: Gang, demand: Ints, free: Ints, unit: Ints, bundles: Bundles) -> tuple[Ints, Ints, Ints]:
    """The dimensions with one more for each kind that takes of certain parts of hosts: its seats there."""
    bound = [kind for kind in range(len(gang.kinds)) if _bound(gang, kind)]
    one = np.zeros((len(gang.kinds), len(bound)), np.int64)
    one[bound, np.arange(len(bound))] = 1
    room = np.stack([seats(gang, kind) for kind in bound], axis=1)
    return (
        np.concatenate([demand, _of_bundles(bundles, one)], axis=1),
        np.concatenate([free, room], axis=1),
        np.concatenate([unit, np.zeros(len(bound), np.int64)]),
    )


def _valued(gang: Gang, value: RoomValue, demand: Ints, free: Ints, bundles: Bundles) -> tuple[Ints, Ints, Ints]:
    """Demand, room and unit a dimension, with the value's resources first and in units that the value's divide."""
    wanted = _of_bundles(bundles, sizes_for(gang, value.names))
    unit = np.gcd(np.gcd.reduce(wanted, axis=0), value.unit) if len(value.names) else np.zeros(0, np.int64)
    others = [d for d in range(demand.shape[1]) if d >= len(gang.names) or gang.names[d] not in value.names]
    return (
        np.concatenate([wanted, demand[:, others]], axis=1),
        np.concatenate([free_for(gang.index, value.names), free[:, others]], axis=1),
        np.concatenate([unit, np.zeros(len(others), np.int64)]),
    )


def _groups(masks: list[Bools], hosts: int) -> tuple[Ints, Bools]:
    """(int64[H] group, bool[G, B]): hosts that may take the same bundles form a group."""
    distinct: dict[int, int] = {}
    column = []
    kept: list[Bools] = []
    for mask in masks:
        if id(mask) not in distinct:
            distinct[id(mask)] = len(kept)
            kept.append(mask)
        column.append(distinct[id(mask)])
    stacked = np.stack(kept)
    if stacked.all():
        return np.zeros(hosts, np.int64), np.ones((1, len(masks)), np.bool_)
    packed = np.packbits(stacked, axis=0)
    if packed.shape[0] <= 7:
        key = np.zeros(hosts, np.int64)
        for byte in packed:
            key = key * 256 + byte
        _, first, group = np.unique(key, return_index=True, return_inverse=True)
    else:
        _, first, group = np.unique(packed.T, axis=0, return_index=True, return_inverse=True)
    eligible: Bools = stacked[:, first].T[:, column]
    return group.reshape(-1).astype(np.int64), eligible

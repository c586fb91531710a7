"""Each strategy on a gang whose rules a packing holds exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from placement.constraints import AtMost, Scope, SpareHosts, SpreadOver, Within
from placement.model import Policy
from placement.packing.bounds import volume
from placement.packing.columns import Search
from placement.packing.fewest_hosts import fewest_hosts
from placement.packing.fill import quick_fill
from placement.packing.instance import Load, Packing, classes_of, components
from placement.packing.least_lost import least_lost
from placement.packing.min_slack import balanced
from placement.problem.gang import FIRST, Gang, fitting_hosts, seats
from placement.problem.index import Bools, Ints
from placement.problem.scoring import room_value
from placement.problem.topology import Tally
from placement.search.greedy import greedy
from placement.search.incumbent import Incumbent
from placement.search.reduce import Reduction, reduce
from placement.stop import Stop
from placement.strategy import OBJECTIVES, Strategy, Term

RACKS_TRIED = 24
LARGE = 200_000
"""Kinds times hosts from which on a proof may take longer than a caller waits, so that a quick answer comes first."""


def host_order(gang: Gang, seed: int) -> Ints | None:
    """In which order alike hosts are taken: by id, or shuffled by the seed so that rivals choose differently."""
    return np.random.default_rng(seed).permutation(len(gang.index.hosts)) if seed else None


def fewest(reduction: Reduction, policy: Policy, stop: Stop) -> Search:
    """The fewest hosts over all independent parts; ``lower`` above all hosts proves that a part does not fit."""
    packing = reduction.packing
    total = Search(0, [], 0, "empty")
    for kinds, classes in components(packing):
        part = fewest_hosts(packing.part(kinds, classes), policy, stop)
        if part.lower > int(packing.hosts[classes].sum()):
            return Search(int(packing.hosts.sum()) + 1, None, None, part.stage)
        total.lower += part.lower
        if part.loads is None or total.loads is None:
            total.loads, total.cost, total.stage = None, None, part.stage
            continue
        assert total.cost is not None
        assert part.cost is not None
        total.loads.extend(widened(load, kinds, classes, len(packing.counts)) for load in part.loads)
        total.cost += part.cost
        total.stage = max(total.stage, part.stage, key=STAGES.index)
    return total


STAGES = (
    "empty",
    "volume",
    "funnel",
    "feasible",
    "greedy",
    "exact-fill",
    "side-by-side",
    "min-slack",
    "columns",
    "dive",
    "restricted-master",
)


def widened(load: Load, kinds: Ints, classes: Ints, size: int) -> Load:
    """A part's load in the whole packing's numbers."""
    if len(kinds) == size:
        return Load(int(classes[load.cls]), load.pattern, load.times)
    pattern = [0] * size
    for position, copies in enumerate(load.pattern):
        pattern[kinds[position]] = copies
    return Load(int(classes[load.cls]), tuple(pattern), load.times)


def by_fewest(gang: Gang, policy: Policy, stop: Stop) -> Incumbent:
    """Fewest hosts."""
    reduction = reduce(gang)
    search = fewest(reduction, policy, stop)
    incumbent = Incumbent(lower=search.lower, stage=search.stage)
    if search.loads is not None:
        incumbent.landed = reduction.spread_out(search.loads, host_order(gang, policy.seed))
        incumbent.objective = search.cost
    elif search.lower > int(reduction.packing.hosts.sum()):
        incumbent.infeasible = True
    return incumbent


def by_lost_value(gang: Gang, policy: Policy, stop: Stop) -> Incumbent:
    """Least lost value, each independent part by itself."""
    value = room_value(gang)
    reduction = reduce(gang, value)
    packing = reduction.packing
    incumbent = Incumbent(landed=[], objective=0, stage="empty")
    loads: list[Load] = []
    for kinds, classes in components(packing):
        part = packing.part(kinds, classes)
        search = least_lost(part, value, None, policy, stop)
        if search.loads is None:
            feasible = fewest_hosts(part, policy, stop)
            if feasible.lower > int(part.hosts.sum()):
                return Incumbent(infeasible=True, stage=feasible.stage)
            if feasible.loads is None:
                return Incumbent(stage=feasible.stage)
            search = least_lost(part, value, feasible.loads, policy, stop)
        assert search.loads is not None
        assert search.cost is not None
        assert incumbent.objective is not None
        loads.extend(widened(load, kinds, classes, len(packing.counts)) for load in search.loads)
        incumbent.objective += search.cost
        incumbent.lower += min(search.lower, search.cost)
        incumbent.stage = max(incumbent.stage, search.stage, key=STAGES.index)
    incumbent.landed = reduction.spread_out(loads, host_order(gang, policy.seed))
    return incumbent


def by_spread(gang: Gang, policy: Policy, stop: Stop) -> Incumbent:
    """Spread: node by node to the emptiest host; the bound fills all hosts evenly like water."""
    incumbent = Incumbent(stage="greedy")
    incumbent.offer_state(gang, Strategy.SPREAD, greedy(gang, Strategy.SPREAD, stop), "greedy")
    incumbent.lower = spread_bound(gang, stop)
    if incumbent.landed is None:
        feasible = by_fewest(gang, policy, stop)
        if feasible.landed is None:
            return feasible
        incumbent.offer(gang, Strategy.SPREAD, feasible.landed, 0, feasible.stage)
    return incumbent


def spread_bound(gang: Gang, stop: Stop) -> int:
    """The least sum of squares if each host could take every kind up to its own limit, whatever else it holds."""
    most = _most_copies(gang, stop)
    few = [tally for tally in _of_all(gang) if isinstance(tally.rule, Within)]
    left, level, total = gang.size, 0, 0
    while left > 0 and (open_hosts := _open_hosts(most > level, few)):
        take = min(left, open_hosts)
        total += take * (2 * level + 1)
        left -= take
        level += 1
    return total


def _most_copies(gang: Gang, stop: Stop) -> Ints:
    """int64[H]: how many of the gang's nodes a host takes at most, each kind by itself; kinds that are left once the
    stop is heard are taken by every host."""
    most = np.zeros(len(gang.index.hosts), np.int64)
    for number in range(len(gang.kinds)):
        if stop():
            most += int(gang.counts[number:].sum())
            break
        fits = fitting_hosts(gang, number)
        copies = np.full(len(most), gang.size, np.int64)
        for d in range(len(gang.names)):
            if gang.demand[number, d]:
                copies = np.minimum(copies, gang.free[:, d] // gang.demand[number, d])
        if gang.kinds[number].sample.devices:
            copies = np.minimum(copies, seats(gang, number))
        most += np.where(fits, np.minimum(copies, gang.counts[number]), 0)
    for tally in _of_all(gang):
        if isinstance(tally.rule, AtMost) and tally.rule.scope is Scope.HOST:
            most = np.minimum(most, np.maximum(0, tally.rule.limit - tally.old_first))
    return most


def _of_all(gang: Gang) -> list[Tally]:
    """The hard rules that speak of every node of the gang."""
    return [
        Tally.start(gang, number)
        for number, rule in enumerate(gang.request.constraints)
        if not isinstance(rule, SpareHosts) and rule.weight is None
        if (gang.roles[:, number] == FIRST).all()
    ]


def _open_hosts(mask: Bools, few: Sequence[Tally]) -> int:
    """How many of these hosts may be used at once by rules that leave few domains to open: the richest in them."""
    found = int(mask.sum())
    for tally in few:
        a_domain = np.bincount(tally.domain[mask], minlength=len(tally.old_first))
        old = tally.old_first > 0
        fresh = np.sort(a_domain[~old])[::-1][: tally.fresh_left()]
        found = min(found, int(a_domain[old].sum()) + int(fresh.sum()))
    return found


def by_closeness(gang: Gang, policy: Policy, stop: Stop) -> Incumbent:
    """Close: as few racks as the volume allows, then as few hosts in them as can be."""
    whole = reduce(gang)
    by_room, needed = _racks(gang)
    order = host_order(gang, policy.seed)
    incumbent = Incumbent(stage="greedy")
    if len(gang.kinds) * len(gang.index.hosts) > LARGE:
        _close_at_once(gang, by_room, needed, stop, incumbent, order)
    overall = fewest(whole, policy, stop)
    close = OBJECTIVES[Strategy.CLOSE]
    incumbent.lower = close.total(gang.size, {Term.RACKS: needed, Term.HOSTS: overall.lower})
    if overall.loads is None:
        incumbent.infeasible = overall.lower > int(whole.packing.hosts.sum())
        incumbent.stage = overall.stage if incumbent.landed is None else incumbent.stage
        return incumbent
    incumbent.offer(gang, Strategy.CLOSE, whole.spread_out(overall.loads, order), 0, overall.stage)
    racks = len(by_room)
    for size in range(needed, racks + 1):
        found = False
        for first in range(min(RACKS_TRIED, racks - size + 1)):
            if stop() or incumbent.closed:
                return incumbent
            chosen = np.isin(gang.index.rack, by_room[first : first + size])
            found |= _within(gang, chosen, policy, stop, incumbent, order)
        least = close.total(gang.size, {Term.RACKS: size, Term.HOSTS: 0})
        if found or (incumbent.objective is not None and least >= incumbent.objective):
            break
    return incumbent


def _close_at_once(
    gang: Gang, by_room: Ints, needed: int, stop: Stop, incumbent: Incumbent, order: Ints | None
) -> None:
    """A first answer before anything is proven: by halving, how few of the roomiest racks one greedy filling needs."""
    low, enough = needed - 1, len(by_room)
    while enough - low > 1 and not stop():
        middle = (low + enough) // 2 if incumbent.landed is not None else enough
        inside = reduce(gang, only=np.isin(gang.index.rack, by_room[:middle]))
        loads = filled(inside.packing, stop)
        if loads is not None:
            incumbent.offer(gang, Strategy.CLOSE, inside.spread_out(loads, order), 0, "greedy")
            enough = middle
        elif middle == enough:
            return
        else:
            low = middle


def filled(packing: Packing, stop: Stop) -> list[Load] | None:
    """One greedy filling of each independent part, None where one leaves something out."""
    loads: list[Load] = []
    for kinds, classes in components(packing):
        part = packing.part(kinds, classes)
        found = quick_fill(part, balanced(part), stop) if len(classes) else None
        if found is None:
            return None
        loads.extend(widened(load, kinds, classes, len(packing.counts)) for load in found)
    return loads


def _racks(gang: Gang) -> tuple[Ints, int]:
    """(codes of the racks that can take anything, the roomiest first; a lower bound on how many are needed)."""
    racks, room = _rack_room(gang)
    total = np.maximum(1, (gang.counts.astype(np.float64) @ gang.demand))
    share = (np.minimum(room, total) / total).min(axis=1, initial=1.0)
    order = np.lexsort([racks, room.sum(axis=1) if room.size else racks, -share])
    return racks[order], _racks_needed(gang, room)


def _within(gang: Gang, chosen: Bools, policy: Policy, stop: Stop, incumbent: Incumbent, order: Ints | None) -> bool:
    inside = reduce(gang, only=chosen)
    search = fewest(inside, policy, stop)
    if search.loads is None:
        return False
    incumbent.offer(gang, Strategy.CLOSE, inside.spread_out(search.loads, order), 0, search.stage)
    return True


def _rack_room(gang: Gang) -> tuple[Ints, Ints]:
    """(rack codes, int64[., R'] what their hosts that can take anything have free)."""
    useful = np.zeros(len(gang.index.hosts), np.bool_)
    for number in range(len(gang.kinds)):
        useful |= fitting_hosts(gang, number)
    rows = np.flatnonzero(useful)
    racks, inverse = np.unique(gang.index.rack[rows], return_inverse=True)
    room = np.zeros((len(racks), len(gang.names)), np.int64)
    np.add.at(room, inverse, gang.free[rows])
    return racks, room


def _racks_needed(gang: Gang, room: Ints) -> int:
    """A lower bound on racks: each as one large host."""
    if not room.size or not gang.demand.size:
        return 1
    kinds = len(gang.kinds)
    groups = np.zeros(len(room), np.int64)
    racks = classes_of(room, gang.demand, gang.counts, groups, np.ones((1, kinds), np.bool_))
    return max(1, volume(racks)[0])


def racks_needed(gang: Gang, stop: Stop) -> int:
    """A lower bound on racks: by their room, by their seats, and by rules that ask for so many."""
    rack = gang.index.rack
    seats = np.bincount(rack, weights=_most_copies(gang, stop), minlength=len(gang.index.racks)).astype(np.int64)
    asked = 1
    for tally in _of_all(gang):
        if isinstance(tally.rule, AtMost) and tally.rule.scope is Scope.RACK:
            seats = np.minimum(seats, np.maximum(0, tally.rule.limit - tally.old_first))
        elif isinstance(tally.rule, SpreadOver) and tally.rule.scope is Scope.RACK:
            asked = max(asked, tally.rule.minimum - int((tally.old_first > 0).sum()))
    by_seats = int(np.searchsorted(np.cumsum(np.sort(seats)[::-1]), gang.size)) + 1
    return max(asked, min(by_seats, gang.size), _racks_needed(gang, _rack_room(gang)[1]))


BY_STRATEGY: dict[Strategy, Callable[[Gang, Policy, Stop], Incumbent]] = {
    Strategy.FEWEST_HOSTS: by_fewest,
    Strategy.LEAST_LOST_VALUE: by_lost_value,
    Strategy.SPREAD: by_spread,
    Strategy.CLOSE: by_closeness,
}

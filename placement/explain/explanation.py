"""Why a request does not fit and what would make it fit, as data.

The solver comes in as an argument. (Minimal conflicts by deletion: Chinneck and Dravnieks 1991. CP-SAT's assumptions
answer too late to be of use here.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from placement.explain import parts
from placement.explain.funnel import funnel, nearest_miss, shortages
from placement.explain.relax import FAMILY_OF, families, on_empty_fleet, with_hosts, with_room, without
from placement.model import (
    Cure,
    CureKind,
    Explanation,
    Funnel,
    Host,
    NearestMiss,
    Policy,
    Shortage,
    Strategy,
)
from placement.problem.feasibility import fits_nowhere, impossible_rules
from placement.problem.gang import Gang
from placement.reasons import Family, Reason
from placement.search.incumbent import Incumbent
from placement.search.max_placed import most_nodes
from placement.stop import Stop

Solve = Callable[[Gang, Policy, Stop], Incumbent]
MOST_HOSTS_ADDED = 1024
FUNNELS = 200
SMALL, FEW_BRANCHES = 400, 500
"""Up to SMALL kinds times hosts, each question gets an exact search of FEW_BRANCHES nodes."""


class Inquiry:
    """One request that does not fit, and what would change that: each question has a small deterministic budget."""

    def __init__(self, gang: Gang, solve: Solve, policy: Policy, stop: Stop) -> None:
        if gang.request.strategy is not Strategy.FEWEST_HOSTS:
            gang = replace(gang, request=replace(gang.request, strategy=Strategy.FEWEST_HOSTS))
        self.gang, self.solve, self.stop = gang, solve, stop
        branches = min(policy.branches, FEW_BRANCHES) if len(gang.kinds) * len(gang.index.hosts) <= SMALL else 0
        rounds, dives = min(policy.rounds, 60), min(policy.dives, 1)
        self.policy = replace(policy, rounds=rounds, dives=dives, branches=branches, max_placed=False, explain=False)

    def fits(self, changed: Callable[[], Gang]) -> bool:
        """Whether a placement was found; after the stop nothing is built or tried any more."""
        return not self.stop() and self.solve(changed(), self.policy, self.stop).landed is not None

    def conflict(self) -> tuple[Family, ...]:
        """Families of constraints proven to be impossible together; each is needed, as far as the budget tells.

        A family is left out only where the rest is proven impossible without it.
        """
        kept = list(families(self.gang))
        dropped: list[Family] = []
        for family in list(kept):
            if len(kept) > 1 and self.proven_impossible(partial(without, self.gang, [*dropped, family])):
                kept.remove(family)
                dropped.append(family)
        return tuple(kept)

    def proven_impossible(self, changed: Callable[[], Gang]) -> bool:
        """Whether it is proven that no placement exists; False also where that was not decided."""
        return not self.stop() and self.solve(changed(), self.policy, self.stop).infeasible

    def permanent(self) -> bool | None:
        """True when proven impossible on the empty fleet with all hosts in service, False when it fits there.

        None when that is open. Its own members are tried both as gone and as staying.
        """
        proven = True
        for own_stay in (False, True) if self.gang.request.staying else (False,):
            if self.stop():
                return None
            incumbent = self.solve(on_empty_fleet(self.gang, True, own_stay), self.policy, self.stop)
            if incumbent.landed is not None:
                return False
            proven &= incumbent.infeasible
        return True if proven else None

    def patience(self) -> Cure | None:
        """The cure to wait: where the request fits the hosts in service once their guests are gone, with or without its
        own members there."""
        index = self.gang.index
        if not index.inhabited.any() and bool((index.free == index.capacity).all()):
            return None
        for own_stay in (True, False) if self.gang.request.staying else (False,):
            if not self.fits(partial(on_empty_fleet, self.gang, False, own_stay)):
                return None
        return Cure(CureKind.WAIT)

    def relaxations(self) -> list[Cure]:
        """Each family of constraints without which, alone, it fits."""
        present = [family for family in families(self.gang) if family is not Family.CAPACITY]
        return [Cure(CureKind.RELAX, family) for family in present if self.fits(partial(without, self.gang, [family]))]

    def more_hosts(self, stuck: int | None) -> Cure | None:
        """The fewest copies of the most capable host in the right zone with which it fits, by doubling and halving."""
        host = template(self.gang, stuck)
        if host is None:
            return None
        enough = 1
        while not self.fits(partial(with_hosts, self.gang, host, enough)):
            enough *= 2
            if enough > min(MOST_HOSTS_ADDED, 2 * self.gang.size) or self.stop():
                return None
        low = enough // 2
        while enough - low > 1:
            middle = (low + enough) // 2
            if self.fits(partial(with_hosts, self.gang, host, middle)):
                enough = middle
            else:
                low = middle
        return Cure(CureKind.ADD_HOSTS, None, host.id, enough)

    def free_room(self, miss: NearestMiss | None) -> Cure | None:
        """The room on the nearest host with which it fits."""
        if miss is None or not miss.shortages:
            return None
        lacking = miss.shortages
        host = self.gang.index.hosts[self.gang.index.position[miss.host]]
        freed: Counter[str] = Counter()
        for short in lacking:
            freed[short.resource] += short.missing
        if any(amount > host.used.get(resource, 0) for resource, amount in freed.items()):
            return None
        if not self.fits(partial(with_room, self.gang, miss.host, lacking)):
            return None
        return Cure(CureKind.FREE, None, miss.host, 0, lacking)


def template(gang: Gang, stuck: int | None) -> Host | None:
    """The host with the largest capacity among those that the stuck kind's zone and labels allow."""
    index = gang.index
    rows = np.arange(len(index.hosts))
    if stuck is not None:
        node = gang.kinds[stuck].sample
        mask = np.ones(len(index.hosts), np.bool_)
        if node.zone is not None:
            mask &= index.zone == index.zones.get(node.zone, -1)
        for key, values in node.host_labels.items():
            mask &= index.label_mask(key, values)
        mask &= (gang.capacity >= gang.demand[stuck]).all(axis=1)
        rows = np.flatnonzero(mask)
    if not len(rows):
        return None
    size = (gang.capacity[rows] / np.maximum(1, gang.capacity.max(axis=0, initial=1))).sum(axis=1)
    return index.hosts[int(rows[np.argmax(size)])]


def explain(gang: Gang, impossible: bool, solve: Solve, policy: Policy, stop: Stop) -> Explanation:
    """Funnel, nearest miss, shortages; with ``policy.explain`` also counts, conflict, cures and permanence.

    ``impossible``: whether that is proven; without a proof no families are said to be in conflict.
    """
    rows = _funnels(gang, policy, stop)
    funnels = tuple(rows.values())
    stuck = next((number for number, row in rows.items() if not row.candidates), None)
    miss = nearest_miss(gang, stuck) if stuck is not None else None
    missing = shortages(gang)
    rules = impossible_rules(gang) if not stop() else ()
    simple = Explanation(message(gang, funnels, stuck, missing, rules), funnels, miss, missing, total=gang.size)
    if not policy.explain or stop():
        return simple
    inquiry = Inquiry(gang, solve, policy, stop)
    most = most_nodes(gang, inquiry.policy, stop)
    placeable = len(most.landed or ())
    return replace(
        simple,
        placeable=placeable,
        placeable_bound=most.upper,
        conflict=inquiry.conflict() if impossible else (),
        permanent=inquiry.permanent(),
        cures=cures(inquiry, stuck, miss, placeable),
    )


def _funnels(gang: Gang, policy: Policy, stop: Stop) -> dict[int, Funnel]:
    """The funnels of the most frequent kinds, in the kinds' order.

    After the stop, and without ``policy.explain``, that of one that fits nowhere alone, where there is one.
    """
    first = fits_nowhere(gang)
    if first is not None and not policy.explain:
        return {first: funnel(gang, first)}
    frequent = sorted(range(len(gang.kinds)), key=lambda k: -int(gang.counts[k]))[:FUNNELS]
    rows: dict[int, Funnel] = {}
    for number in [first, *frequent] if first is not None else frequent:
        if rows and stop():
            break
        rows[number] = funnel(gang, number)
    return dict(sorted(rows.items()))


def cures(inquiry: Inquiry, stuck: int | None, miss: NearestMiss | None, placeable: int) -> tuple[Cure, ...]:
    """The changes found to help, each tried: relax one family, free room on one host, add hosts, shrink, wait."""
    found = inquiry.relaxations()
    found.extend(cure for cure in (inquiry.free_room(miss), inquiry.more_hosts(stuck)) if cure is not None)
    if 0 < placeable < inquiry.gang.size:
        found.append(Cure(CureKind.SHRINK, count=placeable))
    patience = inquiry.patience()
    return (*found, patience) if patience is not None else tuple(found)


def message(
    gang: Gang,
    funnels: tuple[Funnel, ...],
    stuck: int | None,
    missing: tuple[Shortage, ...],
    rules: tuple[int, ...],
) -> str:
    """One sentence for people."""
    if stuck is not None:
        row = next(f for f in funnels if f.node == gang.kinds[stuck].nodes[0][0])
        counted = ", ".join(f"{reason.value} {hosts}" for reason, hosts in row.ruled_out)
        devices = f"; {parts.told(gang, stuck)}" if Reason.DEVICE in dict(row.ruled_out) else ""
        return f"no host can take {row.node}: of {row.hosts} hosts, ruled out by {counted or 'nothing'}{devices}"
    if missing:
        return "the fleet lacks " + ", ".join(f"{shortage.missing} {shortage.resource}" for shortage in missing)
    if rules:
        names = ", ".join(FAMILY_OF[type(gang.request.constraints[number])].value for number in rules)
        return f"no placement can keep the rule: {names}"
    return "no placement of the whole gang was found on what is free"

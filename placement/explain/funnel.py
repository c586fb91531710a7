"""The cheap half of an explanation: hosts ruled out by each reason, the nearest miss, missing volume."""

from __future__ import annotations

import numpy as np

from placement.constraints import Apart, AtMost, Near, Prefer, Together, Within
from placement.explain import parts
from placement.model import Funnel, NearestMiss, Shortage
from placement.problem.gang import FIRST, Gang, cells_fit, seats
from placement.problem.index import Bools, Ints
from placement.problem.topology import Tally
from placement.reasons import Reason

Masks = list[tuple[Reason, Bools]]


def funnel(gang: Gang, number: int) -> Funnel:
    """How many hosts each reason rules out for one kind; every host is counted under its first reason alone."""
    left = np.ones(len(gang.index.hosts), np.bool_)
    counted: dict[Reason, int] = {}
    for reason, mask in static_masks(gang, number):
        counted[reason] = counted.get(reason, 0) + int((left & ~mask).sum())
        left = left & mask
    resources: list[tuple[Reason, str, int]] = []
    for reason, room in ((Reason.RESOURCE_TOTAL, gang.capacity), (Reason.RESOURCE_FREE, gang.free)):
        for column, name in enumerate(gang.names):
            enough = room[:, column] >= gang.demand[number, column]
            gone = int((left & ~enough).sum())
            if gone:
                resources.append((reason, name, gone))
                counted[reason] = counted.get(reason, 0) + gone
            left = left & enough
    if gang.kinds[number].sample.cells and left.any():
        fits = cells_fit(gang, number)
        counted[Reason.NUMA] = int((left & ~fits).sum())
        left = left & fits
    if gang.kinds[number].sample.devices and left.any():
        seated = seats(gang, number) > 0
        counted[Reason.DEVICE] = int((left & ~seated).sum())
        left = left & seated
    kind = gang.kinds[number]
    ruled_out = tuple((reason, counted[reason]) for reason in Reason if counted.get(reason))
    return Funnel(kind.nodes[0][0], kind.count, len(left), ruled_out, tuple(resources), int(left.sum()))


def static_masks(gang: Gang, number: int) -> Masks:
    """(reason, bool[H] hosts that pass) for everything but room, in the order of ``Reason``."""
    index, kind = gang.index, gang.kinds[number]
    node = kind.sample
    masks: Masks = [(Reason.UNSCHEDULABLE, index.schedulable)]
    if gang.request.excluded_hosts:
        kept = np.ones(len(index.hosts), np.bool_)
        kept[[index.position[host] for host in gang.request.excluded_hosts if host in index.position]] = False
        masks.append((Reason.EXCLUDED, kept))
    if node.zone is not None:
        masks.append((Reason.ZONE, index.zone == index.zones.get(node.zone, -1)))
    masks.extend((Reason.LABEL, index.label_mask(key, values)) for key, values in node.host_labels.items())
    masks.append((Reason.HELD, gang.unheld))
    if node.exclusive:
        masks.append((Reason.NOT_EMPTY, gang.unshared))
    return masks + _rule_masks(gang, number)


def _rule_masks(gang: Gang, number: int) -> Masks:
    """What the members that live in the fleet leave to a kind under the hard rules."""
    masks: Masks = []
    for position, part in enumerate(gang.kinds[number].parts):
        rule = gang.request.constraints[position]
        if not part or rule.weight is not None:
            continue
        tally = Tally.start(gang, position)
        if isinstance(rule, AtMost):
            masks.append((Reason.ANTI_AFFINITY, (tally.old_first < rule.limit)[tally.domain]))
        elif isinstance(rule, Prefer):
            masks.append((Reason.LABEL, tally.empty == 0))
        elif isinstance(rule, Apart):
            others = tally.old_second if part == FIRST else tally.old_first
            masks.append((Reason.ANTI_AFFINITY, (others == 0)[tally.domain]))
        elif (isinstance(rule, Together) and (tally.old_first > 0).any()) or (
            isinstance(rule, Within) and not tally.fresh_left()
        ):
            masks.append((Reason.AFFINITY, (tally.old_first > 0)[tally.domain]))
        elif isinstance(rule, Near) and part == FIRST and (tally.old_second > 0).any():
            coming = any(kind.parts[position] not in (0, FIRST) for kind in gang.kinds)
            if not coming:
                masks.append((Reason.AFFINITY, (tally.old_second > 0)[tally.domain]))
    return sorted(masks, key=lambda pair: pair[0] is Reason.ANTI_AFFINITY)


def nearest_miss(gang: Gang, number: int) -> NearestMiss | None:
    """The allowed host that lacks the least of one node, by the sum of missing shares of the demand.

    What is used beyond capacity (a lowered ratio, an unknown guest) is missing too.
    """
    mask = np.ones(len(gang.index.hosts), np.bool_)
    for _, allowed in static_masks(gang, number):
        mask = mask & allowed
    rows = np.flatnonzero(mask)
    if not len(rows):
        return None
    if gang.kinds[number].sample.devices and (miss := parts.nearest(gang, number, rows)) is not None:
        return miss
    if (
        gang.kinds[number].sample.cells
        and (miss := parts.nearest_cells(gang, number, rows, _missing(gang, number, rows))) is not None
    ):
        return miss
    missing = _missing(gang, number, rows)
    shares = (missing / np.maximum(1, gang.demand[number])).sum(axis=1)
    best = int(np.argmin(shares))
    lacking = tuple(
        Shortage(name, int(missing[best, column])) for column, name in enumerate(gang.names) if missing[best, column]
    )
    return NearestMiss(gang.kinds[number].nodes[0][0], gang.index.hosts[int(rows[best])].id, lacking)


def _missing(gang: Gang, number: int, rows: Ints) -> Ints:
    """int64[., R']: what each of the hosts lacks of one node, what is used beyond capacity with it."""
    missing: Ints = np.maximum(0, gang.demand[number] - gang.free[rows])
    for column, name in enumerate(gang.names):
        for spot in np.flatnonzero((gang.free[rows, column] == 0) & (missing[:, column] > 0)).tolist():
            host = gang.index.hosts[int(rows[spot])]
            missing[spot, column] += max(0, host.used.get(name, 0) - host.capacity.get(name, 0))
    return missing


def shortages(gang: Gang) -> tuple[Shortage, ...]:
    """What the hosts in service have too little of for the gang's volume."""
    missing = []
    for column, name in enumerate(gang.names):
        need = sum(int(n) * int(a) for n, a in zip(gang.counts, gang.demand[:, column], strict=True))
        have = int(gang.free[gang.index.schedulable & gang.unheld, column].sum())
        if need > have:
            missing.append(Shortage(name, need - have))
    return tuple(missing)

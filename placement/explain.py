"""Why a request does not fit, as data: funnel, nearest miss, shortages.

May import ``gang``, ``index``, ``model``, ``reasons`` and numpy.
"""

from __future__ import annotations

import numpy as np

from placement.gang import Gang, cells_fit
from placement.index import Bools
from placement.model import Explanation, Funnel, NearestMiss, Shortage, Snapshot
from placement.reasons import Reason


def funnel(gang: Gang, number: int) -> Funnel:
    """How many hosts each reason rules out for one kind; every host is counted under its first reason alone."""
    left = np.ones(len(gang.index.hosts), np.bool_)
    ruled_out: list[tuple[Reason, int]] = []
    for reason, mask in _static_masks(gang, number):
        gone = int((left & ~mask).sum())
        if gone:
            ruled_out.append((reason, gone))
        left = left & mask
    resources: list[tuple[Reason, str, int]] = []
    for reason, room in ((Reason.RESOURCE_TOTAL, gang.capacity), (Reason.RESOURCE_FREE, gang.free)):
        before = int(left.sum())
        for column, name in enumerate(gang.names):
            enough = room[:, column] >= gang.demand[number, column]
            gone = int((left & ~enough).sum())
            if gone:
                resources.append((reason, name, gone))
            left = left & enough
        if before > left.sum():
            ruled_out.append((reason, before - int(left.sum())))
    if gang.kinds[number].sample.cells:
        gone = int((left & ~cells_fit(gang, number)).sum())
        if gone:
            ruled_out.append((Reason.NUMA, gone))
        left = left & cells_fit(gang, number)
    kind = gang.kinds[number]
    return Funnel(kind.nodes[0][0], kind.count, len(left), tuple(ruled_out), tuple(resources), int(left.sum()))


def _static_masks(gang: Gang, number: int) -> list[tuple[Reason, Bools]]:
    index, node = gang.index, gang.kinds[number].sample
    masks = [(Reason.UNSCHEDULABLE, index.open)]
    if gang.request.excluded_hosts:
        excluded = gang.request.excluded_hosts
        kept = np.fromiter((host.id not in excluded for host in index.hosts), np.bool_, len(index.hosts))
        masks.append((Reason.EXCLUDED, kept))
    if node.zone is not None:
        masks.append((Reason.ZONE, index.zone == index.zones.get(node.zone, -1)))
    masks.extend((Reason.LABEL, index.label_mask(key, values)) for key, values in node.host_labels.items())
    if node.exclusive:
        masks.append((Reason.NOT_EMPTY, index.empty))
    return masks


def nearest_miss(gang: Gang, number: int) -> NearestMiss | None:
    """The allowed host that lacks the least of one node, by the sum of missing shares."""
    mask = np.ones(len(gang.index.hosts), np.bool_)
    for _, allowed in _static_masks(gang, number):
        mask = mask & allowed
    rows = np.flatnonzero(mask)
    if not len(rows):
        return None
    missing = np.maximum(0, gang.demand[number] - gang.free[rows])
    shares = (missing / np.maximum(1, gang.demand[number])).sum(axis=1)
    best = int(np.argmin(shares))
    shortages = tuple(
        Shortage(name, int(missing[best, column])) for column, name in enumerate(gang.names) if missing[best, column]
    )
    return NearestMiss(gang.kinds[number].nodes[0][0], gang.index.hosts[int(rows[best])].id, shortages)


def explain(snapshot: Snapshot, gang: Gang) -> Explanation:
    """Everything that half a millisecond tells about a request that does not fit."""
    funnels = tuple(funnel(gang, number) for number in range(len(gang.kinds)))
    stuck = [number for number, row in enumerate(funnels) if row.candidates == 0]
    needed = [
        sum(int(count) * int(amount) for count, amount in zip(gang.counts, gang.demand[:, column], strict=True))
        for column in range(len(gang.names))
    ]
    shortages = tuple(
        Shortage(name, missing)
        for column, name in enumerate(gang.names)
        if (missing := int(sum(gang.counts.tolist()[k] * gang.demand[k, column].item() for k in
        range(len(gang.kinds)))) - int(gang.free[gang.index.open, column].sum())) > 0
    )
    message = "no host can take " + funnels[stuck[0]].node if stuck else "no placement of the whole gang was found"
    if shortages:
        message = "the fleet lacks " + ", ".join(f"{s.missing} {s.resource}" for s in shortages)
    return Explanation(
        message,
        funnels,
        nearest_miss(gang, stuck[0]) if stuck else None,
        shortages,
        total=gang.size,
        permanent=True if any((gang.demand[k] > gang.capacity).any(axis=1).all() for k in stuck) else None,
    )

"""Of devices that are wanted together: which host comes nearest to having them, and what is to be free there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, product

import numpy as np

from placement.devices import DEVICES, Devices, Part, Pool, Want, is_of
from placement.model import Host, NearestMiss, Shortage
from placement.problem.gang import Gang, cell_demand, want_of
from placement.problem.index import Ints

MOST_HOSTS = 2_000
"""So many hosts, those that lack the least as wholes, are looked at part by part."""


def nearest(gang: Gang, number: int, rows: Ints) -> NearestMiss | None:
    """The host of ``rows`` that lacks the least of one node of the kind, its devices counted where it wants them; None
    where no host has so many in one place."""
    missing = np.maximum(0, gang.demand[number] - gang.free[rows])
    shares = (missing / np.maximum(1, gang.demand[number])).sum(axis=1)
    there, which = gang.index.parts()
    demand = gang.kinds[number].sample.demand
    want, best = want_of(gang, number), None
    for spot in np.argsort(shares, kind="stable")[:MOST_HOSTS].tolist():
        row = int(rows[spot])
        host, part = gang.index.hosts[row], there[int(which[row])]
        found = _lacking(host, part, want)
        if found is None:
            continue
        whole = dict(zip(gang.names, missing[spot].tolist(), strict=True))
        lacking = (*found, *_rest(whole, found))
        key = sum(short.missing / (demand.get(short.resource) or demand[DEVICES]) for short in lacking)
        if best is None or key < best[0]:
            best = key, host, lacking
    if best is None:
        return None
    return NearestMiss(gang.kinds[number].nodes[0][0], best[1].id, best[2])


def nearest_cells(gang: Gang, number: int, rows: Ints, missing: Ints) -> NearestMiss | None:
    """The host of ``rows`` that lacks the least of one node of the kind, its NUMA cells counted; None where no host has
    cells that are large enough. ``missing``: int64[., R'] what each host lacks as a whole."""
    node, names = gang.kinds[number].sample, gang.index.cells()[0]
    share = dict(zip(names, cell_demand(gang, number).tolist(), strict=True))
    shares = (missing / np.maximum(1, gang.demand[number])).sum(axis=1)
    best: tuple[float, str, tuple[Shortage, ...]] | None = None
    for spot in np.argsort(shares, kind="stable")[:MOST_HOSTS].tolist():
        host = gang.index.hosts[int(rows[spot])]
        found = _short_cells(host, node.cells, share)
        if found is None:
            continue
        whole = dict(zip(gang.names, missing[spot].tolist(), strict=True))
        lacking = (*found, *_rest(whole, found))
        key = sum(short.missing / max(1, node.demand.get(short.resource, 0)) for short in lacking)
        if best is None or key < best[0]:
            best = key, host.id, lacking
    return NearestMiss(gang.kinds[number].nodes[0][0], best[1], best[2]) if best is not None else None


def _short_cells(host: Host, wanted: int, share: Mapping[str, int]) -> tuple[Shortage, ...] | None:
    """What is to become free in the cells that lack the least; None where too few could ever give their share."""
    short: list[tuple[float, int, tuple[Shortage, ...]]] = []
    for number, cell in enumerate(host.cells):
        lacking = {k: cell.used.get(k, 0) + size - cell.capacity.get(k, 0) for k, size in share.items() if size}
        if any(amount > cell.used.get(k, 0) for k, amount in lacking.items()):
            continue
        found = tuple(Shortage(k, n, None, f"cell {number}", number) for k, n in sorted(lacking.items()) if n > 0)
        short.append((sum(one.missing / share[one.resource] for one in found), number, found))
    if len(short) < wanted:
        return None
    return tuple(one for _, _, found in sorted(short)[:wanted] for one in found)


def _rest(whole: dict[str, int], found: Iterable[Shortage]) -> Iterable[Shortage]:
    """What the host lacks beside the devices that are to become free in its parts."""
    for name, amount in sorted(whole.items()):
        left = amount - sum(short.missing for short in found if is_of(short.resource, name))
        if left > 0:
            yield Shortage(name, left)


def _lacking(host: Host, part: Part, want: Want) -> tuple[Shortage, ...] | None:
    """The fewest devices that are to become free on the host so that one node has its own; None where none suffice."""
    best: tuple[Shortage, ...] | None = None
    names = sorted({pool.partition for pool in host.pools if pool.partition})
    for cells in combinations(range(len(host.cells)), want.cells):
        if any(have < size for cell in cells for have, size in zip(part.cells[cell], want.share, strict=True)):
            continue
        for partitions in product(*(names if one.joint else ("",) for one in want.devices)):
            found = _freed(host.pools, want.devices, cells, partitions)
            if found is not None and (best is None or _count(found) < _count(best)):
                best = found
    return best


def _count(shortages: Iterable[Shortage]) -> int:
    return sum(short.missing for short in shortages)


def _freed(
    pools: Sequence[Pool], wanted: Sequence[Devices], cells: tuple[int, ...], partitions: tuple[str, ...]
) -> tuple[Shortage, ...] | None:
    free, used = [pool.free for pool in pools], [min(pool.used, pool.capacity) for pool in pools]
    found: dict[int, int] = {}
    for one, partition in zip(wanted, partitions, strict=True):
        missing = one.count
        mine = [
            number
            for number, pool in enumerate(pools)
            if is_of(pool.resource, one.resource)
            and (not one.local or pool.cell in cells)
            and (not one.joint or pool.partition == partition)
        ]
        for number in mine:
            taken = min(missing, free[number])
            free[number] -= taken
            missing -= taken
        for number in sorted(mine, key=lambda n: -used[n]):
            taken = min(missing, used[number])
            if taken:
                used[number] -= taken
                missing -= taken
                # What is used beyond capacity has to go as well before one is free.
                beyond = 0 if number in found else max(0, pools[number].used - pools[number].capacity)
                found[number] = found.get(number, 0) + taken + beyond
        if missing:
            return None
    return tuple(Shortage(pools[n].resource, count, n, place_of(pools[n])) for n, count in sorted(found.items()))


def place_of(pool: Pool) -> str:
    """Where on its host a pool is, in words; empty where nothing is known of that."""
    cell = f"cell {pool.cell}" if pool.cell is not None else ""
    return ", ".join(word for word in (cell, f"partition {pool.partition}" if pool.partition else "") if word)


def _free_together(pools: Sequence[Pool], wanted: Devices) -> list[int]:
    """How many such devices are free in each place of a host from which the wish may be served, most first."""
    bins: Counter[tuple[int | None, str]] = Counter()
    for pool in pools:
        if is_of(pool.resource, wanted.resource) and (pool.partition or not wanted.joint):
            bins[pool.cell if wanted.local else None, pool.partition if wanted.joint else ""] += pool.free
    return sorted((free for free in bins.values() if free > 0), reverse=True)


def told(gang: Gang, number: int) -> str:
    """How the devices that a kind wants together stand on the host that has the most of them free; empty: none has."""
    there, _ = gang.index.parts()
    one = max(gang.kinds[number].sample.devices, key=lambda d: d.count)
    stands = max((_free_together(part.pools, one) for part in there), key=sum, default=[])
    name = one.resource.removeprefix(f"{DEVICES}.") if one.resource != DEVICES else "devices"
    where = " and ".join(w for w in ("cell" if one.local else "", "partition" if one.joint else "") if w)
    none = "no host has any free in a partition" if one.joint else "none is free"
    have = f"the most that a host has free stand {' + '.join(map(str, stands))}" if stands else none
    return f"{one.count} {name} are wanted of one {where}, and {have}"

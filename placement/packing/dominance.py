"""Dropping hosts that a good answer never needs: with most fleets a handful of classes is left of thousands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from placement.packing.instance import Load, Packing
from placement.problem.index import Bools, Ints

TABLE = 1 << 19
FEW = 64
ROOMIEST = 12
PAIRS = 1500


def needed_only(packing: Packing, most: int) -> tuple[Packing, Ints]:
    """(the packing without hosts that an answer with at most ``most`` hosts never needs, int64[C'] classes kept).

    A host dominates another when it has no less of anything and may take no fewer kinds; among hosts that are alike in
    both, those of the earlier class do. A host is not needed when ``most`` others can do all it can.
    """
    alike = _alike(packing)
    kept = _not_outclassed(packing, alike, most)
    better = _dominating(packing, alike, kept)
    room = packing.hosts[kept] if better is None else np.clip(most - better, 0, packing.hosts[kept])
    part = packing.part(np.arange(len(packing.counts)), kept[room > 0])
    return replace(part, hosts=room[room > 0]), kept[room > 0]


def renumbered(loads: Sequence[Load], classes: Ints) -> list[Load]:
    """Loads of a part of a packing with the numbers that its classes have in the whole."""
    numbers: list[int] = classes.tolist()
    return [replace(load, cls=numbers[load.cls]) for load in loads]


def inside(loads: Sequence[Load], classes: Ints) -> list[Load]:
    """Those loads of a whole packing that are on classes of a part, with the part's numbers."""
    place = {number: position for position, number in enumerate(classes.tolist())}
    return [replace(load, cls=place[load.cls]) for load in loads if load.cls in place]


def _alike(packing: Packing) -> tuple[Ints, Bools]:
    """(int64[C] group, groups that may take the same kinds being one; bool[., .] which may take all another may)."""
    if len(packing.eligible) == 1:
        return packing.group, np.ones((1, 1), np.bool_)
    kinds, alike = np.unique(packing.eligible, axis=0, return_inverse=True)
    wider: Bools = np.all(kinds[:, None, :] >= kinds[None, :, :], axis=2)
    return alike.reshape(-1)[packing.group], wider


def _room(packing: Packing) -> Ints:
    """int64[C, .]: what a class has, in all that a pattern has to fit."""
    if packing.cells is None:
        return packing.caps
    cells = packing.cells.caps.reshape(len(packing.caps), -1)
    return np.concatenate([cells, packing.caps], axis=1) if packing.cells.tight.any() else cells


def _not_outclassed(packing: Packing, alike: tuple[Ints, Bools], most: int) -> Ints:
    """int64[.]: classes that the few roomiest do not dominate by themselves.

    What a dropped class dominates, the same roomiest dominate too, so that the rest can be compared by itself.
    """
    caps, (group, wider) = _room(packing), alike
    if len(caps) <= FEW:
        return np.arange(len(caps))
    columns = np.ascontiguousarray(caps.T)
    share = sum(column / max(1, int(column.max())) for column in columns)
    better = np.zeros(len(caps), np.int64)
    for top in np.argsort(-share, kind="stable")[:ROOMIEST].tolist():
        beats = wider[group[top], group]
        equal = np.ones(len(caps), np.bool_)
        for column in columns:
            beats = beats & (column <= column[top])
            equal &= column == column[top]
        better[beats & ~equal] += packing.hosts[top]
        kept = np.flatnonzero(better < most)
        if len(kept) <= FEW:
            break
    return kept


def _dominating(packing: Packing, alike: tuple[Ints, Bools], classes: Ints) -> Ints | None:
    """int64[.]: how many hosts of the given classes dominate each of them."""
    caps, group, hosts = _room(packing)[classes], alike[0][classes], packing.hosts[classes]
    at_least = _hosts_at_least(caps, group, alike[1], hosts)
    if at_least is None:
        return None
    twins, earlier = _twins(caps, group, hosts)
    result: Ints = at_least - twins + earlier
    return result


def _twins(caps: Ints, group: Ints, hosts: Ints) -> tuple[Ints, Ints]:
    """(int64[C] hosts of all classes that are alike, int64[C] those of them in earlier classes)."""
    order = np.lexsort([*caps.T, group])
    row = np.column_stack([group, caps])[order]
    fresh = np.concatenate([[True], (row[1:] != row[:-1]).any(axis=1)])
    if fresh.all():
        return hosts, np.zeros(len(caps), np.int64)
    first = np.flatnonzero(fresh)
    before = np.cumsum(hosts[order]) - hosts[order]
    sizes = np.diff(np.append(first, len(order)))
    twins, earlier = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    twins[order] = np.repeat(np.add.reduceat(hosts[order], first), sizes)
    earlier[order] = before - np.repeat(before[first], sizes)
    return twins, earlier


def _hosts_at_least(caps: Ints, group: Ints, wider: Bools, hosts: Ints) -> Ints | None:
    """int64[C]: hosts with no less of anything that may take no fewer kinds, the class's own included."""
    shape = tuple((caps.max(axis=0) + 1).tolist())
    present = np.unique(group)
    if len(caps) > FEW and math.prod(shape) * len(present) <= TABLE:
        found = np.zeros(len(caps), np.int64)
        place = np.ravel_multi_index(tuple(caps.T), shape)
        for one in present.tolist():
            mine = group == one
            above = np.bincount(place[mine], hosts[mine], math.prod(shape)).astype(np.int64).reshape(shape)
            for axis in range(len(shape)):
                above = np.flip(np.cumsum(np.flip(above, axis), axis=axis), axis)
            below = wider[one, group]
            found[below] += above[tuple(caps[below].T)]
        return found
    if len(caps) > PAIRS:
        return None
    beats: Bools = wider[group[:, None], group[None, :]]
    for d in range(caps.shape[1]):
        beats &= caps[:, None, d] >= caps[None, :, d]
    result: Ints = hosts @ beats
    return result

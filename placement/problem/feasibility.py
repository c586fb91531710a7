"""Counting arguments: which rule no placement can keep, in a fraction of a millisecond."""

from __future__ import annotations

import numpy as np

from placement.constraints import AtMost, Scope, SpareHosts, SpreadOver, Together, Within
from placement.problem.gang import FIRST, Gang, allowed_hosts, fitting_hosts
from placement.problem.index import Bools, Ints
from placement.problem.topology import Tally

ROOMIEST = 16


def fits_nowhere(gang: Gang) -> int | None:
    """The first kind that no host can take even alone, None where each has a host; the roomiest are looked at first."""
    if not gang.nowhere:
        gang.nowhere.append(_fits_nowhere(gang))
    return gang.nowhere[0]


def _fits_nowhere(gang: Gang) -> int | None:
    if not len(gang.index.hosts):
        return 0
    largest = np.maximum(1, gang.free.max(axis=0, initial=1))
    masks: dict[object, tuple[Ints, Ints]] = {}
    for number, kind in enumerate(gang.kinds):
        node = kind.sample
        key = (node.zone, tuple(node.host_labels.items()), node.exclusive, node.cells, id(kind.within))
        if key not in masks:
            rows = np.flatnonzero(allowed_hosts(gang, kind))
            share = (gang.free[rows] / largest).sum(axis=1)
            masks[key] = rows, rows[np.argpartition(-share, ROOMIEST)[:ROOMIEST]] if len(rows) > ROOMIEST else rows
        rows, first = masks[key]
        if not any((gang.free[some] >= gang.demand[number]).all(axis=1).any() for some in (first, rows)):
            return number
        if (node.cells or node.devices) and not fitting_hosts(gang, number).any():
            return number
    return None


def impossible_rules(gang: Gang) -> tuple[int, ...]:
    """Numbers of the hard rules that no placement of the whole gang can keep."""
    if not gang.request.constraints:
        return ()
    fits = [fitting_hosts(gang, number) for number in range(len(gang.kinds))]
    return tuple(
        number
        for number, rule in enumerate(gang.request.constraints)
        if rule.weight is None and _impossible(gang, Tally.start(gang, number), number, fits)
    )


def _impossible(gang: Gang, tally: Tally, number: int, fits: list[Bools]) -> bool:
    rule = tally.rule
    mine = gang.playing(number)
    if isinstance(rule, SpareHosts):
        return int(tally.empty.sum()) < rule.count
    if not mine:
        return isinstance(rule, SpreadOver) and int((tally.old_first > 0).sum()) < rule.minimum
    reach: Bools = np.logical_or.reduce([fits[k] for k in mine])
    domains = np.unique(tally.domain[reach])
    if isinstance(rule, AtMost):
        room = np.maximum(0, rule.limit - tally.old_first[domains])
        return int(room.sum()) < tally.coming
    if isinstance(rule, SpreadOver):
        old = int((tally.old_first > 0).sum())
        fresh = int((tally.old_first[domains] == 0).sum())
        return old + min(fresh, tally.coming) < rule.minimum
    if isinstance(rule, Together) and rule.scope is not Scope.HOST:
        # Where members are in several domains already, the new ones may be shared out among those.
        apart = int((tally.old_first > 0).sum()) > 1
        return not (_roomy_enough(gang, tally, mine, 0) if apart else len(domains_with_room(gang, tally, mine)))
    return isinstance(rule, Within) and not _roomy_enough(gang, tally, mine, tally.fresh_left())


def _roomy_enough(gang: Gang, tally: Tally, kinds: list[int], fresh_left: int) -> bool:
    """Whether the domains with old members and the roomiest `fresh_left` of the others have the nodes' volume, of
    each resource by itself, and as many seats as there are nodes."""
    room, need = room_of_domains(gang, tally, kinds)
    old, seats = tally.old_first > 0, seats_of_domains(gang, tally, kinds)
    opened = np.sort(np.where(old, 0, seats))[::-1][:fresh_left]
    if int(seats[old].sum(dtype=object)) + int(opened.sum(dtype=object)) < tally.coming:
        return False
    fresh = np.sort(np.where(old[:, None], 0, room), axis=0)[::-1][:fresh_left]
    return all(
        int(room[old, d].sum(dtype=object)) + int(fresh[:, d].sum(dtype=object)) >= int(need[d])
        for d in range(len(gang.names))
    )


def surplus(gang: Gang) -> int:
    """How many nodes the hard at-most rules leave without a place, counting domains alone."""
    most = 0
    for number, rule in enumerate(gang.request.constraints):
        mine = gang.playing(number)
        if not isinstance(rule, AtMost) or rule.weight is not None or not mine:
            continue
        tally = Tally.start(gang, number)
        reach: Bools = np.logical_or.reduce([fitting_hosts(gang, k) for k in mine])
        room = np.maximum(0, rule.limit - tally.old_first[np.unique(tally.domain[reach])])
        most = max(most, tally.coming - int(room.sum()))
    return most


def room_of_domains(gang: Gang, tally: Tally, kinds: list[int]) -> tuple[Ints, Ints]:
    """(int64[domains, D] free room of hosts that can take one of the kinds, object[D] volume of all their nodes)."""
    useful: Bools = np.logical_or.reduce([fitting_hosts(gang, k) for k in kinds])
    rows = np.flatnonzero(useful)
    room = np.zeros((len(tally.old_first), len(gang.names)), np.int64)
    np.add.at(room, tally.domain[rows], gang.free[rows])
    need = np.array(
        [sum(int(gang.counts[k]) * int(gang.demand[k, d]) for k in kinds) for d in range(len(gang.names))], object
    )
    return room, need


def seats_of_domains(gang: Gang, tally: Tally, kinds: list[int]) -> Ints:
    """int64[domains]: how many nodes of the kinds a domain takes at most.

    By each resource of each of its hosts for the smallest of them, and by what the rules leave that let all of them be
    only so many on a host or in a domain.
    """
    seats = np.full(len(gang.index.hosts), tally.coming, np.int64)
    for column, least in enumerate(gang.demand[kinds].min(axis=0).tolist()):
        if least:
            seats = np.minimum(seats, gang.free[:, column] // least)
    seats[~np.logical_or.reduce([fitting_hosts(gang, k) for k in kinds])] = 0
    of_domain = np.full(len(tally.old_first), tally.coming, np.int64)
    for number, rule in enumerate(gang.request.constraints):
        if not isinstance(rule, AtMost) or rule.weight is not None:
            continue
        if any(gang.kinds[k].parts[number] != FIRST for k in kinds):
            continue
        other = Tally.start(gang, number)
        left = np.maximum(0, rule.limit - other.old_first)
        if rule.scope is Scope.HOST:
            seats = np.minimum(seats, left[other.domain])
        elif rule.scope is tally.rule.scope:  # type: ignore[union-attr]  # rules of domains have a scope
            of_domain = np.minimum(of_domain, left)
    found = np.zeros(len(tally.old_first), np.int64)
    np.add.at(found, tally.domain, seats)
    result: Ints = np.minimum(found, of_domain)
    return result


def domains_with_room(gang: Gang, tally: Tally, kinds: list[int]) -> Ints:
    """Domain codes, roomiest first, whose hosts together have the volume and the seats for all nodes of the kinds."""
    room, need = room_of_domains(gang, tally, kinds)
    useful: Bools = np.logical_or.reduce([fitting_hosts(gang, k) for k in kinds])
    size = len(tally.old_first)
    enough = np.bincount(tally.domain[useful], minlength=size) > 0
    enough &= seats_of_domains(gang, tally, kinds) >= tally.coming
    for d in range(len(gang.names)):
        enough &= room[:, d] >= min(int(need[d]), 1 << 62)
    if (tally.old_first > 0).any():
        enough &= tally.old_first > 0
    codes = np.flatnonzero(enough)
    share = (room[codes] / np.maximum(1.0, room.max(axis=0, initial=1))).sum(axis=1)
    result: Ints = codes[np.lexsort([codes, -share])]
    return result

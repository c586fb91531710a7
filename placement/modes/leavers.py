"""The gang and its fleet as ``packing/vacate.py`` asks for them: who leaves so that the gang fits, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from placement.constraints import AtMost, Scope, Together
from placement.packing.vacate import Cap, Houses, Residents, Vacated, vacate
from placement.problem.gang import FIRST, Gang, allowed_hosts
from placement.problem.index import Bools, Ints
from placement.problem.topology import domains
from placement.stop import Stop


def leavers(gang: Gang, residents: Residents, stop: Stop) -> Vacated:
    """The cheapest cover on all hosts; under a rule that keeps the gang in one rack or zone, the cheapest of each.

    ``residents``: those of the hosts of the gang's index, without the gang's own members.
    """
    best: Vacated | None = None
    for mask in _confinements(gang):
        found = _vacate(gang, residents, mask, stop)
        better = best is None or (found.leaving is not None and (best.leaving is None or found.cost < best.cost))
        lower = found.lower if best is None else _least(found.lower, best.lower)
        best = replace(found if better or best is None else best, lower=lower)
    assert best is not None
    return best


def _least(one: int | None, other: int | None) -> int | None:
    return min(one, other) if one is not None and other is not None else one if other is None else other


def _confinements(gang: Gang) -> Iterator[Bools]:
    """The hosts that the gang may use together: those of each rack or zone where a rule holds it in one, else all."""
    for number, rule in enumerate(gang.request.constraints):
        everybody = all(kind.parts[number] == FIRST for kind in gang.kinds)
        if isinstance(rule, Together) and rule.weight is None and everybody:
            domain, size = domains(gang.index, rule.scope)
            for code in range(size):
                yield domain == code
            return
    yield np.ones(len(gang.index.hosts), np.bool_)


def _vacate(gang: Gang, residents: Residents, within: Bools, stop: Stop) -> Vacated:
    """The cheapest who leave so that the gang fits into the hosts ``within``."""
    rows = np.flatnonzero(within)
    anywhere = np.ones(len(within), np.bool_)
    open_gang = replace(gang, unheld=anywhere, unshared=anywhere)
    allowed = np.stack([allowed_hosts(open_gang, kind)[rows] for kind in gang.kinds])
    useful = allowed.any(axis=0)
    rows, allowed = rows[useful], allowed[:, useful]
    numbers, those = _on(residents, rows, len(within))
    houses = Houses(
        gang.demand,
        gang.counts,
        _room(gang, rows),
        allowed,
        np.array([kind.sample.exclusive for kind in gang.kinds]),
        those,
        tuple(_caps(gang, len(rows))),
    )
    found = vacate(houses, stop)
    if found.leaving is None and found.lower == 0:
        found = _as_one_kind(houses, stop)
    return replace(found, leaving=found.leaving and tuple(numbers[list(found.leaving)].tolist()))


def _on(residents: Residents, rows: Ints, hosts: int) -> tuple[Ints, Residents]:
    """(numbers, residents) of those who live on some of the hosts, which are counted anew."""
    if len(rows) == hosts:
        return np.arange(len(residents.host)), residents
    renumbered = np.full(hosts, -1, np.int64)
    renumbered[rows] = np.arange(len(rows))
    host = renumbered[residents.host]
    numbers = np.flatnonzero(host >= 0)
    return numbers, Residents(host[numbers], residents.size[numbers], residents.cost[numbers], residents.alone[numbers])


def _as_one_kind(houses: Houses, stop: Stop) -> Vacated:
    """Where the gang has too many kinds to count: all nodes as large as the largest, bounded by each kind alone."""
    lower: int | None = 0
    for kind in range(len(houses.counts)):
        one = slice(kind, kind + 1)
        alone = replace(
            houses,
            demand=houses.demand[one],
            counts=houses.counts[one],
            allowed=houses.allowed[one],
            strict=houses.strict[one],
            caps=tuple(Cap(cap.kinds[one], cap.room) for cap in houses.caps),
        )
        least = vacate(alone, stop).lower
        if least is None:
            return Vacated(None, 0, None)
        lower = max(lower or 0, least)
    everywhere: Bools = np.logical_and.reduce(houses.allowed, keepdims=True)
    blunt = replace(
        houses,
        demand=houses.demand.max(axis=0, keepdims=True),
        counts=houses.counts.sum(keepdims=True),
        allowed=everywhere,
        strict=np.array([bool(houses.strict.any())]),
        caps=tuple(Cap(np.array([True]), cap.room) for cap in houses.caps),
    )
    found = vacate(blunt, stop)
    return replace(found, lower=lower)


def _room(gang: Gang, rows: Ints) -> Ints:
    """int64[H, R]: what is left of each host, below zero where more is used than it has."""
    hosts = gang.index.hosts
    room = gang.free[rows].copy()
    for at in np.flatnonzero((room == 0).any(axis=1)).tolist():
        host = hosts[rows[at]]
        room[at] = [host.capacity.get(name, 0) - host.used.get(name, 0) for name in gang.names]
    return room


def _caps(gang: Gang, hosts: int) -> Iterator[Cap]:
    """How many of some kinds one host may hold, whoever lives there."""
    for number, rule in enumerate(gang.request.constraints):
        mine = np.array([kind.parts[number] == FIRST for kind in gang.kinds])
        if isinstance(rule, AtMost) and rule.scope is Scope.HOST and rule.weight is None and mine.any():
            yield Cap(mine, np.full(hosts, rule.limit, np.int64))

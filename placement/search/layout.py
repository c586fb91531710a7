"""Lays a packing's loads out on hosts so that the open rules hold, then fills in what found no host.

When all loads find a host, the placement is as good as the packing's, whose bound therefore proves it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from placement.constraints import SpreadOver
from placement.model import Strategy
from placement.packing.instance import Load
from placement.problem.gang import FIRST, SECOND
from placement.problem.index import Bools, Ints
from placement.problem.state import PlacementState
from placement.search.greedy import Preference, scarcity_order
from placement.search.reduce import Reduction
from placement.stop import Stop


def lay_out(reduction: Reduction, loads: Sequence[Load], strategy: Strategy, stop: Stop) -> PlacementState | None:
    """A state with the whole gang on it and every hard rule kept, or None."""
    gang = reduction.gang
    state = PlacementState(gang)
    homeless = [0] * len(gang.kinds)
    biggest_first = sorted(loads, key=lambda load: (-sum(load.pattern), load.cls, load.pattern))
    taken = np.zeros(len(gang.index.hosts), np.bool_)
    for load in biggest_first:
        held = [0] * len(gang.kinds)
        for bundle, bundles in enumerate(load.pattern):
            for kind, copies in reduction.bundles[bundle]:
                held[kind] += bundles * copies
        rows = reduction.packing.rows[load.cls]
        for _ in range(load.times):
            if stop():
                return None
            host = _host_for(state, held, rows[~taken[rows]], taken)
            if host is None:
                homeless = [lost + more for lost, more in zip(homeless, held, strict=True)]
                continue
            taken[host] = True
            for kind, copies in enumerate(held):
                for _ in range(copies):
                    if state.pinned and not state.room_on(kind, host):
                        homeless[kind] += 1
                    else:
                        state.land(kind, host)
    return state if _fill_in(state, homeless, strategy, stop) and state.keeps_hard_rules() else None


def _host_for(state: PlacementState, held: Sequence[int], rows: Ints, taken: Bools) -> int | None:
    """A host of the class for a whole load, else any unused host with room for it; new domains first for spread."""
    gang = state.gang
    mask = ~taken
    prefer = np.zeros(len(taken), np.int64)
    firsts, seconds = (np.array(held, np.int64) @ (gang.roles == part) for part in (FIRST, SECOND))
    for tally, first, second in zip(state.tallies, firsts.tolist(), seconds.tolist(), strict=True):
        if not (first or second):
            continue
        if tally.rule.weight is None:
            mask = mask & tally.allows(first, second)
        if isinstance(tally.rule, SpreadOver) and first:
            prefer += (tally.new_first + tally.old_first > 0)[tally.domain]
        elif first:
            prefer += tally.new_first[tally.domain]
    fitting = rows[mask[rows]]
    if not len(fitting):
        need = np.array(held, np.int64) @ gang.demand
        mask = mask & (state.free >= need).all(axis=1)
        for kind, copies in enumerate(held):
            if copies:
                mask = mask & state.room(kind)
        fitting = np.flatnonzero(mask)
        if not len(fitting) or state.pinned:
            return None
    return int(fitting[np.argmin(prefer[fitting])])


def _fill_in(state: PlacementState, homeless: Sequence[int], strategy: Strategy, stop: Stop) -> bool:
    preference = Preference(state.gang, state, strategy)
    for kind in scarcity_order(state.gang):
        for _ in range(homeless[kind]):
            mask, penalty = state.places(kind)
            rows = np.flatnonzero(mask)
            if not len(rows) or stop():
                return False
            rows = rows[penalty[rows] == penalty[rows].min()]
            host = int(rows[np.argmin(preference.of(kind, rows))])
            state.land(kind, host)
            preference.landed(kind, host)
    return True

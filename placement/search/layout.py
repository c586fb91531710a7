"""Lays a packing's loads out on hosts so that the open rules hold, then fills in what found no host.

May import ``reduce``, ``board``, ``greedy``, ``gang``, ``constraints``, ``packing``, ``model``, ``index`` and
numpy. When all loads find a host, the placement is as good as the packing's, whose bound therefore proves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from placement.constraints import SpreadOver
from placement.model import Strategy
from placement.packing.instance import Load
from placement.problem.board import Board
from placement.problem.gang import FIRST, SECOND
from placement.problem.index import Bools, Ints
from placement.search.greedy import Preference, scarcity_order
from placement.search.reduce import Reduction


def lay_out(reduction: Reduction, loads: Sequence[Load], strategy: Strategy, stop: Callable[[], bool]) -> Board | None:
    """A board with the whole gang on it and every hard rule kept, or None."""
    gang = reduction.gang
    board = Board(gang)
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
            host = _host_for(board, held, rows[~taken[rows]], taken)
            if host is None:
                homeless = [lost + more for lost, more in zip(homeless, held, strict=True)]
                continue
            taken[host] = True
            for kind, copies in enumerate(held):
                for _ in range(copies):
                    if board.pinned and not board.room(kind)[host]:
                        homeless[kind] += 1
                    else:
                        board.land(kind, host)
    return board if _fill_in(board, homeless, strategy, stop) and board.keeps_hard_rules() else None


def _host_for(board: Board, held: Sequence[int], rows: Ints, taken: Bools) -> int | None:
    """A host of the class for a whole load, else any unused host with room for it; new domains first for spread."""
    gang = board.gang
    mask = ~taken
    prefer = np.zeros(len(taken), np.int64)
    for number, tally in enumerate(board.tallies):
        first = sum(n for n, kind in zip(held, gang.kinds, strict=True) if kind.parts[number] == FIRST)
        second = sum(n for n, kind in zip(held, gang.kinds, strict=True) if kind.parts[number] == SECOND)
        if tally.rule.weight is None:
            mask = mask & tally.allows(first, second)
        if isinstance(tally.rule, SpreadOver) and first:
            prefer += (tally.new_first + tally.old_first > 0)[tally.domain]
        elif first:
            prefer += tally.new_first[tally.domain]
    fitting = rows[mask[rows]]
    if not len(fitting):
        need = np.array(held, np.int64) @ gang.demand
        mask = mask & (board.free >= need).all(axis=1)
        for kind, copies in enumerate(held):
            if copies:
                mask = mask & board.room(kind)
        fitting = np.flatnonzero(mask)
        if not len(fitting) or any(kind.sample.cells for kind in gang.kinds):
            return None
    return int(fitting[np.argmin(prefer[fitting])])


def _fill_in(board: Board, homeless: Sequence[int], strategy: Strategy, stop: Callable[[], bool]) -> bool:
    preference = Preference(board.gang, board, strategy)
    for kind in scarcity_order(board.gang):
        for _ in range(homeless[kind]):
            mask, penalty = board.places(kind)
            rows = np.flatnonzero(mask)
            if not len(rows) or stop():
                return False
            rows = rows[penalty[rows] == penalty[rows].min()]
            host = int(rows[np.argmin(preference.of(kind)[rows])])
            board.land(kind, host)
            preference.landed(kind, host)
    return True

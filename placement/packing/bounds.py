"""Lower bounds that need no search: volume, over weighted mixes of the resources."""

from __future__ import annotations

import numpy as np

from placement.packing.instance import Packing
from placement.problem.index import Floats, Ints
from placement.stop import Stop, never

SCALE = 1 << 20
AT_ONCE = 100_000
"""Classes times weightings that are sorted before the stop is asked: some twenty milliseconds."""


def fewest_for(values: Ints, worth: Ints, packing: Packing) -> int:
    """A lower bound on the hosts used: the fewest hosts whose worth reaches the value of the whole gang.

    ``values``: int64[K] a bundle; ``worth``: int64[C] >= the value of any pattern of the class. One more than all
    hosts when not even these reach it, which proves that the gang does not fit. (A surrogate relaxation: Glover
    1968.)
    """
    need = sum(int(n) * int(v) for n, v in zip(packing.counts, values, strict=True))
    if need <= 0:
        return 0
    order = np.argsort(-worth, kind="stable")
    hosts, sorted_worth = packing.hosts[order], worth[order]
    reach = np.cumsum(hosts * sorted_worth)
    spot = int(np.searchsorted(reach, need))
    if spot == len(reach):
        return int(packing.hosts.sum()) + 1
    before = int(reach[spot - 1]) if spot else 0
    return int(hosts[:spot].sum()) + -(-(need - before) // int(sorted_worth[spot]))


def mixes(dims: int, steps: int = 8) -> Ints:
    """int64[W, D]: weightings of D resources, each alone and every pair in steps."""
    rows = [[SCALE if d == e else 0 for e in range(dims)] for d in range(dims)]
    for d in range(dims):
        for e in range(d):
            for step in range(1, steps):
                row = [0] * dims
                row[d], row[e] = SCALE * step // steps, SCALE * (steps - step) // steps
                rows.append(row)
    if dims > 2:
        rows.append([SCALE // dims] * dims)
    return np.array(rows, np.int64).reshape(-1, dims)


def volume(packing: Packing, stop: Stop = never) -> tuple[int, Ints]:
    """(lower bound on the hosts used, int64[D] the weighting of the dimensions that gives it).

    After the stop it is the best of the weightings that were looked at until then.
    """
    dims = packing.demand.shape[1]
    total = [sum(int(n) * int(a) for n, a in zip(packing.counts, column, strict=True)) for column in packing.demand.T]
    asked = np.array([d for d in range(dims) if total[d]], np.int64)
    weights = np.zeros(dims, np.int64)
    if not len(asked):
        return (1 if packing.counts.sum() else 0), weights
    # One unit of every dimension is scaled to the same share of the gang's total; 2**40 keeps all sums within 62 bits.
    needs = [total[d] for d in asked]
    if max(needs) * SCALE >= 1 << 60:
        return _exact_volume(packing, asked, needs), weights
    caps = packing.caps[:, asked].astype(np.float64) / np.array(needs, np.float64)
    choices = mixes(len(asked)) if len(asked) <= 6 else np.eye(len(asked), dtype=np.int64) * SCALE
    best, chosen = 0, choices[0]
    estimate: list[float] = []
    step = max(1, AT_ONCE // max(1, len(caps)))
    for first in range(0, len(choices), step):
        if first and stop():
            break
        estimate.extend(_estimates(packing, caps @ choices[first : first + step].T.astype(np.float64)))
    for number, w in enumerate(sorted(range(len(estimate)), key=lambda number: -estimate[number])[:3]):
        if number and stop():
            break
        bound = _exact_mix(packing, asked, needs, choices[w])
        if bound > best:
            best, chosen = bound, choices[w]
    weights[asked] = [max(1, int(c) * 1024 // n) if c else 0 for c, n in zip(chosen, needs, strict=True)]
    return best, weights


def _estimates(packing: Packing, worth: Floats) -> list[float]:
    """How many hosts each weighting asks for, about; ``worth``: float64[C, .] what a host counts for in each."""
    order = np.argsort(-worth, axis=0, kind="stable")
    reach = np.cumsum(np.take_along_axis(worth, order, axis=0) * packing.hosts[order], axis=0)
    return [
        _fractional(reach[:, w], packing.hosts[order[:, w]], np.take(worth[:, w], order[:, w]))
        for w in range(worth.shape[1])
    ]


def _fractional(reach: Floats, hosts: Ints, worth: Floats) -> float:
    spot = int(np.searchsorted(reach, SCALE * (1 - 1e-12)))
    if spot == len(reach):
        return float("inf")
    before = float(reach[spot - 1]) if spot else 0.0
    return float(hosts[:spot].sum()) + (SCALE - before) / max(1e-12, float(worth[spot]))


def _exact_mix(packing: Packing, asked: Ints, needs: list[int], mix: Ints) -> int:
    """The bound of one weighting in exact integers: weights are ``mix / need``, brought to whole numbers."""
    whole = [max(1, int(weight) * (1 << 20) // need) if weight else 0 for weight, need in zip(mix, needs, strict=True)]
    while sum(w * n for w, n in zip(whole, needs, strict=True)) >= 1 << 50:
        whole = [(w + 1) // 2 if w else 0 for w in whole]
    exact = np.zeros(packing.demand.shape[1], np.int64)
    exact[asked] = whole
    return fewest_for(packing.demand @ exact, packing.caps @ exact, packing)


def _exact_volume(packing: Packing, asked: Ints, needs: list[int]) -> int:
    """Each dimension alone, in Python's integers, for amounts whose weighted sums pass 64 bits."""
    best = 0
    for d, need in zip(asked.tolist(), needs, strict=True):
        left, used = need, 0
        for row in np.argsort(-packing.caps[:, d], kind="stable").tolist():
            cap, hosts = int(packing.caps[row, d]), int(packing.hosts[row])
            if left <= 0 or cap <= 0:
                break
            take = min(hosts, -(-left // cap))
            left, used = left - take * cap, used + take
        best = max(best, used if left <= 0 else int(packing.hosts.sum()) + 1)
    return best

"""Filling every host to the last unit, for a gang that asks for all the room that there is.

A filling that is good elsewhere leaves a little on many hosts, and here every little is too much. So hosts are filled
exactly or not at all: from a table of the sums that some nodes reach, the largest nodes first, since small ones go with
anything in the end. Hosts for which nothing is left that fills them are then filled anew together with a few others.
(Large neighbourhood search: Shaw 1998; subset sums as the bits of one number: Pisinger 2003.)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from placement.exact.master import choose_columns
from placement.packing.exact_patterns import exact_columns
from placement.packing.instance import Load, Packing
from placement.stop import Stop

MOST_PIECES = 1000
MOST_SUMS = 1 << 19
"""Bits of one table, that of the largest host."""
TRIES = 12_000
TRIES_A_PIECE = 60
PIECES_OF_A_PATTERN = 3.2
"""Up to so many nodes a host, all ways of three nodes at most to fill a host are worth writing down."""
BRANCHES = 2_000
KEEP = (0.5, 0.7, 0.9, 1.0)
"""The odds with which a node that can fill a host is among those that do."""


def fill_exactly(packing: Packing, stop: Stop) -> list[Load] | None:
    """Loads of which each leaves nothing of its host, on all hosts; None where there is slack or none are found."""
    pieces, hosts = int(packing.counts.sum()), int(packing.hosts.sum())
    if packing.cells is not None or pieces > MOST_PIECES or not _no_slack(packing):
        return None
    loads = None
    if pieces <= PIECES_OF_A_PATTERN * hosts:
        loads = _of_patterns(packing, stop)
    if loads is None and not stop() and math.prod(packing.caps.max(axis=0) + 1) <= MOST_SUMS:
        loads = _Repair(packing).run(stop)
    return loads


def _no_slack(packing: Packing) -> bool:
    """Whether the gang asks for all that the hosts have, of everything, in numbers that a table can hold."""
    largest = packing.caps.max(axis=0, initial=0)
    if not len(packing.caps) or (largest >= MOST_SUMS).any():
        return False
    return bool((packing.hosts @ packing.caps == packing.counts @ packing.demand).all())


def _of_patterns(packing: Packing, stop: Stop) -> list[Load] | None:
    columns = exact_columns(packing, stop)
    if columns is None:
        return None
    counts, hosts = packing.counts.tolist(), packing.hosts.tolist()
    chosen = choose_columns(columns, counts, hosts, BRANCHES, stop)
    if chosen is None:
        return None
    return [Load(c.cls, c.pattern, times) for c, times in zip(columns, chosen, strict=True) if times]


class _Sums:
    """Which sums of sizes can be reached in the room of a class: bit p of a number, p the sum in mixed radix."""

    def __init__(self, packing: Packing) -> None:
        self.extents: list[int] = (packing.caps.max(axis=0) + 1).tolist()
        strides = [math.prod(self.extents[d + 1 :]) for d in range(len(self.extents))]
        self.caps: list[list[int]] = packing.caps.tolist()
        self.demand: list[list[int]] = packing.demand.tolist()
        self.steps: list[int] = (packing.demand @ np.array(strides, np.int64)).tolist()
        self.whole: list[int] = (packing.caps @ np.array(strides, np.int64)).tolist()
        self.may: list[list[bool]] = packing.eligible[packing.group].tolist()
        self.boxes: dict[tuple[int, ...], int] = {}

    def box(self, most: Sequence[int]) -> int:
        """The bits of all sums up to ``most``."""
        key = tuple(most)
        if key not in self.boxes:
            bits, width = 1, 1
            for d in range(len(most) - 1, -1, -1):
                bits = _repeated(bits, width, most[d] + 1)
                width *= self.extents[d]
            self.boxes[key] = bits
        return self.boxes[key]

    def filling(self, cls: int, kinds: Sequence[int], r: np.random.Generator, keep: float) -> list[int] | None:
        """Positions in ``kinds`` of those that fill a host of the class, each earlier one with odds of ``keep`` if it
        can be among them; None if none do."""
        cap, extents = self.caps[cls], self.extents
        fits = [
            at
            for at, kind in enumerate(kinds)
            if self.may[cls][kind] and all(a <= have for a, have in zip(self.demand[kind], cap, strict=True))
        ]
        inside, bits = self.box(cap), 1
        reach = [bits]
        for at in reversed(fits):
            # Sums that would carry over into the next resource are left out first.
            size = self.demand[kinds[at]]
            below = self.box([extents[0] - 1, *(e - 1 - a for e, a in zip(extents[1:], size[1:], strict=True))])
            bits |= ((bits & below) << self.steps[kinds[at]]) & inside
            reach.append(bits)
        reach.reverse()
        if not reach[0] >> self.whole[cls] & 1:
            return None
        room, place, chosen = list(cap), self.whole[cls], []
        drawn: list[float] = r.random(len(fits)).tolist()
        for number, at in enumerate(fits):
            if not place:
                break
            size, after = self.demand[kinds[at]], reach[number + 1]
            if any(a > have for a, have in zip(size, room, strict=True)):
                continue
            rest = place - self.steps[kinds[at]]
            if after >> rest & 1 and (not after >> place & 1 or drawn[number] < keep):
                chosen.append(at)
                room, place = [have - a for have, a in zip(room, size, strict=True)], rest
        return chosen


def _repeated(bits: int, width: int, times: int) -> int:
    """The bits so many times, ``width`` apart."""
    done, made = 1, bits
    while done < times:
        more = min(done, times - done)
        made |= (made & ((1 << (width * more)) - 1)) << (width * done)
        done += more
    return made


class _Repair:
    """Hosts that are filled exactly, and those that are not yet; ``held``: the kinds on each filled host."""

    def __init__(self, packing: Packing) -> None:
        self.packing, self.sums = packing, _Sums(packing)
        self.random = np.random.default_rng(1)
        largest = np.maximum(1, packing.caps.max(axis=0)).astype(np.float64)
        self.size: list[float] = (packing.demand / largest).sum(axis=1).tolist()
        self.room: list[float] = (packing.caps / largest).sum(axis=1).tolist()
        classes = np.repeat(np.arange(len(packing.caps)), packing.hosts).tolist()
        self.classes: list[int] = sorted(classes, key=lambda cls: (-self.room[cls], cls))
        self.left = self._largest_first(np.repeat(np.arange(len(packing.counts)), packing.counts).tolist())
        self.held: dict[int, list[int]] = {}

    def run(self, stop: Stop) -> list[Load] | None:
        """Loads on all hosts, None where this does not come to an end."""
        hosts, tries = range(len(self.classes)), min(TRIES, TRIES_A_PIECE * len(self.left))
        self.held, self.left, _ = self._filled(hosts, self.left, 0.9, len(self.classes), stop)
        for _ in range(tries):
            if len(self.held) == len(self.classes) or stop():
                break
            self._again(stop)
        if len(self.held) < len(self.classes) or self.left:
            return None
        alike = Counter((self.classes[host], tuple(sorted(kinds))) for host, kinds in sorted(self.held.items()))
        return [Load(cls, self._pattern(kinds), times) for (cls, kinds), times in alike.items()]

    def _again(self, stop: Stop) -> None:
        """Takes some filled hosts apart to fill them and some unfilled ones anew; kept where no fewer are filled."""
        r = self.random
        unfilled = [host for host in range(len(self.classes)) if host not in self.held]
        bad = r.permutation(unfilled)[: r.integers(1, 4)].tolist()
        chosen = [*bad, *r.permutation(sorted(self.held))[: r.integers(2, 7)].tolist()]
        pieces = [*self.left, *(kind for host in chosen for kind in self.held.get(host, ()))]
        pieces = self._largest_first(pieces, 0.5 if r.random() < 0.5 else 0.0)
        roomy = {host: -self.room[self.classes[host]] * r.uniform(0.6, 1.6) for host in chosen}
        chosen.sort(key=lambda host: (roomy[host], host))
        made, left, failed = self._filled(chosen, pieces, KEEP[r.integers(len(KEEP))], len(bad), stop)
        if failed <= len(bad):
            for host in chosen:
                self.held.pop(host, None)
            self.held.update(made)
            self.left = left

    def _filled(
        self, hosts: Sequence[int], pieces: list[int], keep: float, most: int, stop: Stop
    ) -> tuple[dict[int, list[int]], list[int], int]:
        """(what fills hosts one after another, what is left, how many could not be; ends early with more than
        ``most``)."""
        made: dict[int, list[int]] = {}
        failed = 0
        for host in hosts:
            taken = None if stop() else self.sums.filling(self.classes[host], pieces, self.random, keep)
            if taken is None:
                failed += 1
                if failed > most:
                    break
                continue
            made[host] = [pieces[at] for at in taken]
            gone = set(taken)
            pieces = [kind for at, kind in enumerate(pieces) if at not in gone]
        return made, pieces, failed

    def _largest_first(self, pieces: list[int], noise: float = 0.0) -> list[int]:
        factors = self.random.uniform(1 - noise, 1 + noise, len(pieces)).tolist()
        size = [-self.size[kind] * factor for kind, factor in zip(pieces, factors, strict=True)]
        return [pieces[at] for at in sorted(range(len(pieces)), key=lambda at: (size[at], pieces[at]))]

    def _pattern(self, kinds: Sequence[int]) -> tuple[int, ...]:
        pattern = [0] * len(self.packing.counts)
        for kind in kinds:
            pattern[kind] += 1
        return tuple(pattern)

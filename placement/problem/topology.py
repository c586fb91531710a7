"""Domains (host, rack, zone) and the running count of every rule over them.

A ``Tally`` answers, for every host at once, what placing one more node of a kind there would cost a rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from placement.constraints import (
    Apart,
    AtMost,
    Constraint,
    Near,
    Prefer,
    Scope,
    SpareHosts,
    SpreadOver,
    Together,
    Within,
)
from placement.model import Member
from placement.problem.gang import FIRST, SECOND, Gang, part_of
from placement.problem.index import Bools, FleetIndex, Ints


def domains(index: FleetIndex, scope: Scope) -> tuple[Ints, int]:
    """int64[H] codes of each host's domain, and how many domains there are."""
    if scope is Scope.HOST:
        return np.arange(len(index.hosts), dtype=np.int64), len(index.hosts)
    if scope is Scope.RACK:
        return index.rack, len(index.racks)
    return index.zone, len(index.zones)


def old_counts(gang: Gang, number: int, domain: Ints, size: int) -> tuple[Ints, Ints]:
    """Members that live in the fleet already, by domain: those of the rule's first and of its second part.

    Counted once for each gang, however often a search begins anew; they never change.
    """
    if number not in gang.members:
        gang.members[number] = _count(gang, gang.request.constraints[number], domain, size)
    return gang.members[number]


def _count(gang: Gang, rule: Constraint, domain: Ints, size: int) -> tuple[Ints, Ints]:
    first, second = np.zeros(size, np.int64), np.zeros(size, np.int64)
    staying = gang.request.staying
    # Strangers with the same labels play the same part, and there are few kinds of them.
    strangers: dict[tuple[tuple[str, str], ...], int] = {}
    for row, member in _concerned(gang, rule):
        if member.id in staying:
            part = part_of(rule, member.id, member.labels, True)
        else:
            labels = tuple(member.labels.items())
            if labels not in strangers:
                strangers[labels] = part_of(rule, member.id, member.labels, False)
            part = strangers[labels]
        if part == FIRST:
            first[domain[row]] += 1
        elif part == SECOND:
            second[domain[row]] += 1
    return first, second


def _concerned(gang: Gang, rule: Constraint) -> list[tuple[int, Member]]:
    """(row, member) of all that the rule may be about: the gang's own, and who bears a label that it names.

    A full fleet has a hundred thousand members of which few are; so each is asked as little as possible.
    """
    hosts, staying = gang.index.hosts, gang.request.staying
    selectors = [getattr(rule, name, None) for name in ("select", "first", "second")]
    pairs = [next(iter(one.labels.items())) for one in selectors if one is not None and one.labels]
    if not (pairs or staying):
        return []
    rows = np.flatnonzero(gang.index.inhabited).tolist()
    if not pairs:
        return [(row, m) for row in rows for m in hosts[row].members if m.id in staying]
    if len(pairs) == 1:
        ((key, value),) = pairs
        return [(row, m) for row in rows for m in hosts[row].members if m.labels.get(key) == value or m.id in staying]
    return [
        (row, m)
        for row in rows
        for m in hosts[row].members
        if m.id in staying or any(m.labels.get(key) == value for key, value in pairs)
    ]


@dataclass(slots=True)
class Tally:
    """One rule's counts by domain: old and new members of its first and second part.

    ``empty``: of spare hosts, those that are empty; of a wish for a kind of host, those that are of another kind.
    """

    rule: Constraint
    domain: Ints
    old_first: Ints
    old_second: Ints
    new_first: Ints
    new_second: Ints
    coming: int
    empty: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def start(cls, gang: Gang, number: int) -> Tally:
        """The tally of constraint ``number`` before anything is placed."""
        rule = gang.request.constraints[number]
        scope = Scope.HOST if isinstance(rule, SpareHosts) else rule.scope
        domain, size = domains(gang.index, scope)
        first, second = old_counts(gang, number, domain, size)
        coming = int(gang.counts[gang.roles[:, number] == FIRST].sum())
        empty = domain[:0]
        if isinstance(rule, SpareHosts):
            empty = (gang.index.empty & gang.index.schedulable).astype(np.int64)
        elif isinstance(rule, Prefer):
            empty = _as_ints(~gang.index.label_mask(rule.key, rule.values))
        zeros = np.zeros(size, np.int64)
        return cls(rule, domain, first, second, zeros, zeros.copy(), coming, empty)

    def add(self, part: int, host: int, copies: int = 1) -> None:
        """Counts copies of a node with this part as placed on a host."""
        if part == FIRST:
            self.new_first[self.domain[host]] += copies
            self.coming -= copies
        elif part == SECOND:
            self.new_second[self.domain[host]] += copies

    def fresh_left(self) -> int:
        """How many domains without old members the rule lets new nodes open."""
        assert isinstance(self.rule, Within)
        return max(0, self.rule.maximum - int((self.old_first > 0).sum()))

    def missed(self) -> int:
        """By how much the rule is missed now."""
        return self._missed(self.new_first, self.new_second)

    def _missed(self, new: Ints, new_second: Ints) -> int:
        rule = self.rule
        if isinstance(rule, SpareHosts):
            return max(0, rule.count - int((self.empty * (new == 0)).sum()))
        if isinstance(rule, Prefer):
            return int((self.empty * new).sum())
        if isinstance(rule, AtMost):
            return int(np.minimum(new, np.maximum(0, new + self.old_first - rule.limit)).sum())
        if isinstance(rule, Together):
            used = (new > 0) & (self.old_first == 0)
            alone = bool((new > 0).any()) and not (self.old_first > 0).any()
            return int(used.sum()) - alone
        if isinstance(rule, Within):
            return max(0, int(((new > 0) & (self.old_first == 0)).sum()) - self.fresh_left())
        second = (new_second > 0) | (self.old_second > 0)
        if isinstance(rule, Near):
            return int(((new > 0) & ~second).sum())
        if isinstance(rule, Apart):
            both = ((new > 0) | (self.old_first > 0)) & second
            return int((both & ((new > 0) | (new_second > 0))).sum())
        return max(0, rule.minimum - int(((new > 0) | (self.old_first > 0)).sum()))

    def marginal(self, part: int) -> Ints:
        """int64[H]: by how much more the rule is missed when one node with this part is put on each host.

        For spread, and for nearness while its second part is still to come, a domain that leaves no way to keep the
        rule counts as a miss.
        """
        rule = self.rule
        if isinstance(rule, AtMost):
            extra = (self.new_first + self.old_first >= rule.limit).astype(np.int64)
        elif isinstance(rule, Together):
            extra = self._together()
        elif isinstance(rule, SpreadOver):
            extra = self._spread()
        elif isinstance(rule, Within):
            extra = _as_ints(~self._open())
        elif isinstance(rule, Prefer):
            extra = self.empty
        elif isinstance(rule, SpareHosts):
            touched = self.new_first > 0
            tight = int((self.empty * ~touched).sum()) <= rule.count
            extra = ((self.empty > 0) & ~touched).astype(np.int64) * tight
        else:
            extra = self._pair(part, isinstance(rule, Apart))
        result: Ints = extra[self.domain]
        return result

    def allows(self, first: int, second: int) -> Bools:
        """bool[H]: hosts where so many nodes of each part may land together without missing the rule."""
        rule = self.rule
        old, seconds = self.old_first, (self.old_second > 0) | (self.new_second > 0)
        held: Bools = (self.new_first > 0) | (old > 0)
        everywhere = np.ones(len(old), np.bool_)
        if isinstance(rule, SpareHosts):
            free: Bools = self.marginal(FIRST) == 0
            return free
        if isinstance(rule, Prefer) and first:
            everywhere = self.empty == 0
        elif isinstance(rule, AtMost) and first:
            everywhere = self.new_first + old + first <= rule.limit
        elif isinstance(rule, Together) and first:
            everywhere = old > 0 if (old > 0).any() else held | ~held.any()
        elif isinstance(rule, SpreadOver) and first:
            left = rule.minimum - int(held.sum())
            everywhere = np.where(held, left, left - 1) <= self.coming - first
        elif isinstance(rule, Within) and first:
            everywhere = self._open()
        elif isinstance(rule, Apart):
            everywhere = everywhere & (~seconds | (not first)) & (~held | (not second)) & (not (first and second))
        elif isinstance(rule, Near) and first and not second:
            everywhere = seconds
        result: Bools = everywhere[self.domain]
        return result

    def _open(self) -> Bools:
        """Domains that are in use, and all others while some may be opened."""
        used: Bools = (self.new_first > 0) | (self.old_first > 0)
        opened = int(((self.new_first > 0) & (self.old_first == 0)).sum())
        return used | (opened < self.fresh_left())

    def _together(self) -> Ints:
        if (self.old_first > 0).any():
            extra = (self.old_first == 0) & (self.new_first == 0)
        else:
            extra = (self.new_first == 0) & bool((self.new_first > 0).any())
        return _as_ints(extra)

    def _spread(self) -> Ints:
        assert isinstance(self.rule, SpreadOver)
        used = (self.new_first > 0) | (self.old_first > 0)
        missing = self.rule.minimum - int(used.sum())
        if missing <= 0:
            return np.zeros(len(used), np.int64)
        # Only when the nodes still to come are just enough must each open a domain of its own.
        return _as_ints(used & (self.coming <= missing))

    def _pair(self, part: int, apart: bool) -> Ints:
        first = (self.new_first > 0) | (self.old_first > 0)
        second = (self.new_second > 0) | (self.old_second > 0)
        if not apart:
            if part == FIRST:
                return _as_ints(~second & (self.new_first == 0))
            return -_as_ints(~second & (self.new_first > 0))
        counted = first & second & ((self.new_first > 0) | (self.new_second > 0))
        return _as_ints((second if part == FIRST else first) & ~counted)


def _as_ints(mask: Bools) -> Ints:
    return mask.astype(np.int64)

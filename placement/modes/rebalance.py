"""A bounded number of moves after which fewer rules are broken, and no host is much fuller than the others of its zone.
Or, by choice, after which more hosts are free (``consolidate.py``).

First what is broken: whoever leaves together so that a rule holds again, the fewest members first. Then load: from the
fullest host a member goes where the fuller of the two hosts becomes less full. Each step gains, measured on the fleet
as it is once all are over; and each fits while all others are under way, so that moves may be made in any order and
side by side, but for those of one group, which keep their own.

Nothing swings: a step of load makes the sorted list of loads smaller, the fullest first, and only where two hosts are
``threshold`` apart and ``least_gain`` is won. And whoever is held, as one that has moved a short while ago, moves for a
broken rule alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from placement.constraints import SpareHosts
from placement.engine import DEFAULT
from placement.model import Member, Policy, Proof, Snapshot
from placement.modes.consolidate import Emptied, consolidate
from placement.modes.load import Load, Loads, least_peaks
from placement.modes.moves import Move, Neighbours
from placement.modes.plans import Cause, Fault, Goal, Limits, Rebalance, Rule, Step
from placement.modes.seating import Seating
from placement.modes.standing import Standing
from placement.stop import Stop, never

ENOUGH = 3
"""After so many ways no more are looked at where one of them gains: those that come later are on fuller hosts."""
LOOKED = 16
"""Among how many ways to mend something with the fewest moves the best one is taken."""


def rebalance(
    snapshot: Snapshot,
    groups: Sequence[Neighbours],
    limits: Limits | None = None,
    policy: Policy = DEFAULT,
    stop: Stop = never,
) -> Rebalance:
    """Moves of the groups' members. A member's size is its node's demand, and its zone its node's.

    Raises ``InvalidPlacementInput`` for a member that lives nowhere or is listed twice, and for absurd limits.
    """
    limits = limits or Limits()
    standing = Standing.of(snapshot, groups)
    search = _Search(standing, limits, replace(policy, explain=False, max_placed=False), stop)
    broken, missed = search.broken(), standing.total[0]
    least = _least_moves(standing, broken)
    names = limits.resources or tuple(sorted({name for node in standing.nodes.values() for name in node.demand}))
    before = Loads.of(standing.hosts, standing.owner, names, limits.within)
    search.repair()
    mended = len(search.steps)
    emptied: Emptied | None = None
    if limits.goal is Goal.FREE_HOSTS:
        emptied = search.free()
    else:
        search.level(before.resources)
    after = Loads.of(standing.hosts, standing.owner, names, limits.within)
    zones = least_peaks(before, after, limits.most_moves)
    rest = search.broken()
    gained = all(zone.after == zone.bound for zone in zones) if emptied is None else emptied.best
    whole = not rest and mended == least and gained
    return Rebalance(
        tuple(search.steps),
        tuple(fault for _, fault in broken),
        tuple(fault for _, fault in rest),
        missed,
        standing.total[0],
        least,
        zones,
        sum(groups[standing.owner[step.move.member]].costs[step.move.member] for step in search.steps),
        Proof.OPTIMAL if whole else Proof.GAP,
        stop(),
        tuple(host for host, _ in emptied.hosts) if emptied else (),
        emptied.bound if emptied else 0,
    )


@dataclass(slots=True, eq=False)
class _Search:
    standing: Standing
    limits: Limits
    policy: Policy
    stop: Stop
    steps: list[Step] = field(default_factory=list)
    parts: int = 0
    spare: int = field(init=False)
    seating: Seating = field(init=False)

    def __post_init__(self) -> None:
        self.seating = Seating(self.standing, self.limits, self.policy, self.stop)
        rules = (rule for group in self.standing.groups for rule in group.constraints if isinstance(rule, SpareHosts))
        self.spare = max((rule.count for rule in rules), default=0)

    @property
    def room(self) -> int:
        """How many more moves may be made."""
        return self.limits.most_moves - len(self.steps)

    # --- what is broken -----------------------------------------------------------------------------------------------

    def broken(self) -> list[tuple[int, Fault]]:
        """(group, or -1 for a host; what is broken there), of groups with somebody inside and of hosts inside."""
        standing = self.standing
        found = []
        for number, group in enumerate(standing.groups):
            if standing.counted[number][0] and any(
                self.seating.inside(standing.where[node.id]) for node in group.nodes
            ):
                found += [(number, fault) for fault in standing.faults(number)]
        for host, over in standing.over.items():
            if over and self.seating.inside(host):
                found += [(-1, fault) for fault in standing.overfull(host)]
        return found

    def repair(self) -> None:
        """Mend what can be mended, that with the fewest moves first, and of those what mends most."""
        tried: set[tuple[str, ...]] = set()
        while self.room and not self.stop():
            sets = {members: fault for _, fault in self.broken() for members in fault.sets if self._may_leave(members)}
            best: tuple[int, Sequence[Move], Fault] | None = None
            looked, fewest = 0, 0
            for members in sorted(sets, key=self._price):
                if self.stop():
                    break
                if members in tried:
                    continue
                if best is not None and (len(members) > fewest or looked >= LOOKED):
                    break
                tried.add(members)
                found = self._mending(members, sets[members])
                if found is not None:
                    looked += 1
                    fewest = len(members)
                    best = found if best is None or found[0] > best[0] else best
            if best is None:
                return
            self._mend(*best)
            tried.clear()  # who found no better place before may find one now

    def _price(self, members: tuple[str, ...]) -> tuple[int, int, tuple[str, ...]]:
        groups, owner = self.standing.groups, self.standing.owner
        return len(members), sum(groups[owner[m]].costs[m] for m in members), members

    def _may_leave(self, members: tuple[str, ...]) -> bool:
        standing = self.standing
        mine = all(m in standing.owner and m not in standing.moved for m in members)
        inside = mine and all(self.seating.inside(standing.where[m]) for m in members)
        return inside and len(members) <= self.room and len({standing.owner[m] for m in members}) == 1

    def _mending(self, members: tuple[str, ...], fault: Fault) -> tuple[int, Sequence[Move], Fault] | None:
        """(how much less is missed, the moves, what they are for)."""
        targets = self.seating.targets(members)
        for relaxed in (False, True):
            gain, best = 0, list[Move]()
            for number, moves in enumerate(self.seating.seats(members, targets, relaxed), 1):
                won = self._won(moves)
                if won > gain:
                    gain, best = won, moves
                if gain and number >= ENOUGH:
                    break
            if gain > 0:
                return gain, best, fault
        return None

    def _won(self, moves: Sequence[Move]) -> int:
        """How much less is missed after the moves; 0 where more is at some moment."""
        standing, gain, done = self.standing, 0, []
        for move in moves:
            done.append((move, standing.hosts[move.source], standing.held[move.source], standing.held[move.target]))
            hard, _ = standing.move(move)
            gain -= hard
            if hard > 0:
                gain = 0
                break
        for entry in reversed(done):
            standing.undo(*entry)
        return gain

    def _mend(self, gain: int, moves: Sequence[Move], fault: Fault) -> None:
        for move in moves:
            self.standing.move(move)
        self.parts += 1
        self.steps += [Step(move, Cause.RULE, gain, self.parts, fault.rule) for move in moves]

    # --- load ---------------------------------------------------------------------------------------------------------

    def level(self, names: tuple[str, ...]) -> None:
        """Members go from the fullest hosts to others, as long as that gains."""
        standing = self.standing
        loads = Loads.of(standing.hosts, standing.owner, names, self.limits.within)
        while self.room and not self.stop():
            if not any(self._levelled(loads, host) for host in loads.fullest(self.limits.threshold)):
                return

    def _levelled(self, loads: Loads, host: str) -> bool:
        standing = self.standing
        here = (m for m in standing.hosts[host].members if standing.where.get(m.id) == host)
        members = [m for m in here if m.id not in standing.moved and m.id not in self.limits.held]
        for member, targets in self._promising(loads, host, members):
            if self.stop():
                return False
            if any(self._gained(loads, moves[0]) for moves in self.seating.seats((member.id,), targets, False)):
                return True
        return False

    def _promising(self, loads: Loads, host: str, members: Sequence[Member]) -> Iterator[tuple[Member, list[str]]]:
        """The members whose move gains and the hosts where it does; the one that leaves the least full hosts first."""
        limits, standing = self.limits, self.standing
        full = loads.of_host(host)
        spares = sum(1 for h in standing.held.values() if h.schedulable and h.empty) if self.spare else 1
        found = []
        for member in members:
            most = full - limits.least_gain
            rest = loads.of_host(host, less=member.demand)
            if rest > most:
                continue
            zone = standing.nodes[member.id].zone or standing.hosts[host].zone
            targets = loads.takers(zone, host, member.demand, most, full - limits.threshold)
            if spares <= self.spare:
                targets = [(load, name) for load, name in targets if not standing.held[name].empty]
            if targets:
                cost = standing.groups[standing.owner[member.id]].costs[member.id]
                found.append((max(rest, targets[0][0]), cost, member.id, member, [name for _, name in targets]))
        for *_, member, names in sorted(found, key=lambda entry: entry[:3]):
            yield member, names

    def _gained(self, loads: Loads, move: Move) -> bool:
        standing = self.standing
        before = move, standing.hosts[move.source], standing.held[move.source], standing.held[move.target]
        full = loads.of_host(move.source)
        hard, soft = standing.move(move)
        changed = standing.hosts[move.source], standing.hosts[move.target]
        gain = full - max(Load.of(host, loads.resources) for host in changed)
        if hard > 0 or soft > 0 or gain < self.limits.least_gain:
            standing.undo(*before)
            return False
        loads.change(changed)
        self.parts += 1
        self.steps.append(Step(move, Cause.LOAD, gain, self.parts))
        return True

    # --- whole hosts --------------------------------------------------------------------------------------------------

    def free(self) -> Emptied:
        """Empty whole hosts by the moves that are left."""
        found = consolidate(self.seating, self.room)
        for _, moves in found.hosts:
            self.parts += 1
            self.steps += [Step(move, Cause.FREE, 1, self.parts) for move in moves]
        return found


def _least_moves(standing: Standing, broken: Sequence[tuple[int, Fault]]) -> int:
    """No fewer moves mend all of it: so many members have to leave each host, and so many of each group to move."""
    leaving: dict[str, dict[object, int]] = {}
    own: dict[int, int] = {}
    misplaced: dict[str, set[str]] = {}
    for number, fault in broken:
        if number >= 0:
            own[number] = max(own.get(number, 0), fault.own)
        if not fault.out:
            continue
        if fault.rule in (Rule.LABELS, Rule.NUMA) and number >= 0:
            misplaced.setdefault(fault.where, set()).update(m for members in fault.sets for m in members)
            continue
        kind: object = number if fault.rule is Rule.AT_MOST else fault.rule
        counts = leaving.setdefault(fault.where, {})
        counts[kind] = max(counts.get(kind, 0), fault.out)
    by_host = {host: len(members) for host, members in misplaced.items()}
    for host, counts in leaving.items():
        of_groups = sum(many for kind, many in counts.items() if isinstance(kind, int))
        others = max((many for kind, many in counts.items() if not isinstance(kind, int)), default=0)
        by_host[host] = max(by_host.get(host, 0), of_groups, others)
    alone = sum(1 for fault in (f for _, f in broken) if fault.by) and 1
    return max(sum(by_host.values()), sum(own.values()), alone)

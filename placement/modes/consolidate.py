"""Whole hosts set free: as many as a bounded number of moves can, then with the fewest moves.

A host is free once nobody lives on it and nothing uses it. Nobody goes to a host that is free already, so that each
host that is emptied is a gain: plans end, and nothing swings. As in a rebalance, moves fit in any order and side by
side, and no move breaks a rule or a wish, not even for a moment.

Several orders in which hosts are emptied are tried, the best one is taken; a bound tells how many more there may be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations

from placement.model import Host, left
from placement.modes.load import Load
from placement.modes.moves import Move
from placement.modes.seating import Seating

ORDERS = 32
"""How many orders of the hosts are tried."""
PERMUTED = 4
"""Of so many hosts, those with the fewest members, every order is tried."""
FAILURES = 48
"""After so many hosts in a row that could not be emptied an order is given up."""


@dataclass(frozen=True, slots=True)
class Emptied:
    """``hosts``: each with the moves that empty it. ``bound``: no so many moves free more hosts than this.
    ``fewest``: no fewer moves free as many as are freed here."""

    hosts: tuple[tuple[str, tuple[Move, ...]], ...]
    bound: int
    fewest: int

    @property
    def best(self) -> bool:
        """Whether no plan frees more, and none as many with fewer moves."""
        return len(self.hosts) == self.bound and sum(len(moves) for _, moves in self.hosts) == self.fewest


def consolidate(seating: Seating, most_moves: int) -> Emptied:
    """Hosts that are emptied by at most so many moves. The moves are carried out in ``seating.standing``."""
    search = _Search(seating, most_moves)
    best: list[tuple[str, tuple[Move, ...]]] = []
    for order in search.orders() if search.counts else ():
        if seating.stop():
            break
        found = search.emptied(order)
        if _worth(found) > _worth(best):
            best = found
        if search.told(best).best:
            break
    for _, moves in best:
        for move in moves:
            seating.standing.move(move)
    return search.told(best)


def _worth(found: Sequence[tuple[str, tuple[Move, ...]]]) -> tuple[int, int]:
    return len(found), -sum(len(moves) for _, moves in found)


@dataclass(slots=True, eq=False)
class _Search:
    """``leaving``: the hosts that may become free, and who has to leave them. ``counts``: how many members have to
    leave the first, second, … host of the most that may become free, the fewest first."""

    seating: Seating
    most_moves: int
    leaving: dict[str, list[str]] = field(init=False)
    counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        bound = _Bound(self.seating, self.most_moves)
        self.leaving, self.counts = bound.leaving, bound.counts

    def told(self, found: Sequence[tuple[str, tuple[Move, ...]]]) -> Emptied:
        """What was found, with its bounds."""
        return Emptied(tuple(found), len(self.counts), sum(self.counts[: len(found)]))

    def orders(self) -> Iterator[Sequence[str]]:
        """Orders in which hosts may be emptied, the likely best first."""
        return islice(self._orders(), ORDERS)

    def _orders(self) -> Iterator[Sequence[str]]:
        standing = self.seating.standing
        names = tuple(sorted({name for node in standing.nodes.values() for name in node.demand}))
        full = {host: Load.of(standing.hosts[host], names) for host in self.leaving}
        few = sorted(self.leaving, key=lambda host: (len(self.leaving[host]), full[host], host))
        yield few
        yield sorted(self.leaving, key=lambda host: (full[host], len(self.leaving[host]), host))
        for left_out in few[:PERMUTED]:
            yield [host for host in few if host != left_out]
        for first in islice(permutations(few[:PERMUTED]), 1, None):
            yield [*first, *few[PERMUTED:]]

    def emptied(self, order: Sequence[str]) -> list[tuple[str, tuple[Move, ...]]]:
        """The hosts that can be emptied one after another; the standing is as it was afterwards."""
        found: list[tuple[str, tuple[Move, ...]]] = []
        taken: set[str] = set()
        done: list[tuple[Move, Host, Host, Host]] = []
        room, failed = self.most_moves, 0
        for host in order:
            if len(found) == len(self.counts) or failed == FAILURES or self.seating.stop():
                break
            if host in taken or len(self.leaving[host]) > room:
                continue
            moves = self._left(host, {name for name, _ in found}, taken, done)
            failed = failed + 1 if moves is None else 0
            if moves is not None:
                found.append((host, tuple(moves)))
                room -= len(moves)
                taken |= {move.target for move in moves}
        self._undo(done, 0)
        return found

    def _left(
        self, host: str, freed: set[str], taken: set[str], done: list[tuple[Move, Host, Host, Host]]
    ) -> list[Move] | None:
        """Have all leave the host, and note each move; None, with all as it was, where somebody cannot."""
        begun = len(done)
        for gang in self._gangs(host):
            request = self.seating.request(gang)
            ways = self.seating.ways(request, self._targets(gang, freed, taken)) if request is not None else ()
            if not any(self._carried_out(moves, done) for moves in ways):
                self._undo(done, begun)
                return None
        return [entry[0] for entry in done[begun:]]

    def _gangs(self, host: str) -> list[list[str]]:
        """Who leaves together: each group with rules by itself, the rest at once."""
        standing = self.seating.standing
        by_group: dict[int, list[str]] = defaultdict(list)
        for member in self.leaving[host]:
            by_group[standing.owner[member]].append(member)
        ruled, rest = [], list[str]()
        for number, members in by_group.items():
            if standing.groups[number].ruled or any(standing.nodes[m].exclusive for m in members):
                ruled.append(members)
            else:
                rest += members
        return [*ruled, *([rest] if rest else [])]

    def _targets(self, gang: Sequence[str], freed: set[str], taken: set[str]) -> list[str]:
        """Where they may go: first where nobody will leave, then where many would have to; the fullest first."""
        standing = self.seating.standing
        names = tuple(sorted({name for m in gang for name in standing.nodes[m].demand}))
        found = []
        for host in self.seating.taking(gang):
            if host.id not in freed and not standing.hosts[host.id].empty:
                many = len(self.leaving.get(host.id, ()))
                stays = host.id in taken or not many
                found.append((not stays, -many, -Load.of(host, names), host.id))
        return [name for *_, name in sorted(found)]

    def _carried_out(self, moves: Sequence[Move], done: list[tuple[Move, Host, Host, Host]]) -> bool:
        """Make the moves, unless one breaks a rule or a wish: then all is as it was."""
        standing, begun = self.seating.standing, len(done)
        for move in moves:
            done.append((move, standing.hosts[move.source], standing.held[move.source], standing.held[move.target]))
            hard, soft = standing.move(move)
            if hard > 0 or soft > 0:
                self._undo(done, begun)
                return False
        return True

    def _undo(self, done: list[tuple[Move, Host, Host, Host]], begun: int) -> None:
        while len(done) > begun:
            self.seating.standing.undo(*done.pop())


class _Bound:
    """How many hosts may become free at most. In each zone all who may move have to find room on the hosts that are
    left: resource by resource, no more hosts can go than those with the least room whose room is not needed. And no
    more than those with the fewest members, as long as there are moves for them."""

    def __init__(self, seating: Seating, most_moves: int) -> None:
        self._seating = seating
        standing = seating.standing
        open_hosts = {n: h for n, h in standing.hosts.items() if h.schedulable and not h.empty and seating.inside(n)}
        self._mine = {name: [m.id for m in host.members if self._may_leave(m.id)] for name, host in open_hosts.items()}
        self._rooms = {name: self._room(host) for name, host in open_hosts.items()}
        self._takers: dict[object, list[str]] = {}
        self.leaving = {name: self._mine[name] for name, host in open_hosts.items() if self._may_go(host, most_moves)}
        self.counts: list[int] = []
        zones = sorted({host.zone for host in open_hosts.values()})
        many = sorted(count for zone in zones for count in self._of_zone(zone))
        for count in many:
            if sum(self.counts) + count <= most_moves:
                self.counts.append(count)

    def _may_leave(self, member: str) -> bool:
        standing = self._seating.standing
        return member in standing.owner and member not in standing.moved and member not in self._seating.limits.held

    def _room(self, host: Host) -> Mapping[str, int]:
        """What all who may move can have of a host, those that are there included."""
        nodes, mine = self._seating.standing.nodes, self._mine[host.id]
        names = {*host.capacity, *(name for m in mine for name in nodes[m].demand)}
        return {name: host.free(name) + sum(nodes[m].demand.get(name, 0) for m in mine) for name in names}

    def _may_go(self, host: Host, most_moves: int) -> bool:
        """Whether its members may all leave it, each to some other host if that were alone, and nothing stays."""
        mine = set(self._mine[host.id])
        if not 0 < len(mine) == len(host.members) <= most_moves:
            return False
        rest = host
        for member in host.members:
            rest = left(rest, member)
        return rest.empty and all(self._has_other(m, host.id) for m in sorted(mine))

    def _has_other(self, member: str, host: str) -> bool:
        standing = self._seating.standing
        node, number = standing.nodes[member], standing.owner[member]
        excluded = standing.groups[number].excluded_hosts
        labels = tuple(sorted((key, tuple(sorted(values))) for key, values in node.host_labels.items()))
        key = (node.zone, tuple(sorted(node.demand.items())), labels, excluded)
        if key not in self._takers:
            fitting = (
                name
                for name, room in self._rooms.items()
                if name not in excluded and standing.hosts[name].zone == node.zone
                if all(room.get(r, 0) >= amount for r, amount in node.demand.items())
                if all(standing.hosts[name].labels.get(k) in allowed for k, allowed in node.host_labels.items())
            )
            self._takers[key] = list(islice(fitting, 2))
        return any(name != host for name in self._takers[key])

    def _of_zone(self, zone: str) -> list[int]:
        """How many members have to leave each of the hosts of a zone that may become free, the fewest first."""
        standing = self._seating.standing
        here = [name for name in self._rooms if standing.hosts[name].zone == zone]
        may = [name for name in self.leaving if standing.hosts[name].zone == zone]
        nodes = [standing.nodes[m] for name in here for m in self._mine[name]]
        most = len(may)
        for resource in sorted({r for node in nodes for r in node.demand}):
            needed = sum(node.demand.get(resource, 0) for node in nodes if node.zone == zone)
            spare = sum(self._rooms[name].get(resource, 0) for name in here) - needed
            most = min(most, _fitting(sorted(self._rooms[name].get(resource, 0) for name in may), spare))
        return sorted(len(self.leaving[name]) for name in may)[:most]


def _fitting(amounts: Sequence[int], total: int) -> int:
    """How many of the amounts, the least first, are no more than the total together."""
    for number, amount in enumerate(amounts):
        total -= amount
        if total < 0:
            return number
    return len(amounts)

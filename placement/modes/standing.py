"""Where members of several groups live, and which rules are broken there: counted anew where somebody moves.

``hosts`` is the fleet once all moves so far are over. ``held`` is the fleet while they are under way: who moves takes
room on both ends. A move that fits into what is held fits whenever it is made, before, beside and after the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.constraints import (
    Apart,
    AtMost,
    Near,
    Prefer,
    Scope,
    Selector,
    SpareHosts,
    SpreadOver,
    Together,
    Within,
)
from placement.model import Host, InvalidPlacementInput, Member, Node, Snapshot, joined, left
from placement.modes.moves import Move, Neighbours
from placement.modes.plans import Fault, Rule

Key = tuple[tuple[str, str], ...]

LEFT_BEHIND = "/leaving"
"""Ends the name of what a member that moves still takes of the host that it leaves."""
Places = Mapping[str, set[str]]
"""Host -> ids of members on it."""


@dataclass(slots=True, eq=False)
class Standing:
    """``where``: member -> its host, of all members of the groups. ``labelled``: labels -> whoever bears them all."""

    snapshot: Snapshot
    groups: Sequence[Neighbours]
    hosts: dict[str, Host]
    held: dict[str, Host]
    owner: dict[str, int]
    nodes: dict[str, Node]
    where: dict[str, str]
    labelled: dict[Key, dict[str, set[str]]] = field(default_factory=dict)
    asking: dict[Key, set[int]] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    counted: dict[int, tuple[int, int]] = field(default_factory=dict)
    told: dict[int, list[Fault]] = field(default_factory=dict)
    over: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot, groups: Sequence[Neighbours]) -> Standing:
        """Members stay in their zones. Raises ``InvalidPlacementInput`` for one that is nowhere or listed twice."""
        living = {member.id: host.id for host in snapshot.hosts for member in host.members}
        zone_of = {host.id: host.zone for host in snapshot.hosts}
        owner: dict[str, int] = {}
        nodes: dict[str, Node] = {}
        for number, group in enumerate(groups):
            for node in group.nodes:
                if node.id in owner or node.id not in living:
                    raise InvalidPlacementInput("neighbours", f"{node.id!r} is listed twice, or lives on no host")
                owner[node.id] = number
                nodes[node.id] = replace(node, zone=node.zone or zone_of[living[node.id]])
        hosts = {host.id: _sized(host, nodes) for host in snapshot.hosts}
        where = {name: host for name, host in living.items() if name in owner}
        one = cls(snapshot, groups, hosts, dict(hosts), owner, nodes, where)
        one._index()
        one.counted = {number: one._count(number) for number in range(len(groups))}
        one.over = {host: sum(n for n, _ in one._excess(hosts[host])) for host in hosts}
        return one

    # --- who bears which labels ---------------------------------------------------------------------------------------

    def _index(self) -> None:
        for number, group in enumerate(self.groups):
            for rule in group.constraints:
                for selector in _selectors(rule):
                    if selector.labels:
                        key = tuple(sorted(selector.labels.items()))
                        self.labelled.setdefault(key, defaultdict(set))
                        self.asking.setdefault(key, set()).add(number)
        by_pair: dict[tuple[str, str], list[Key]] = defaultdict(list)
        for key in self.labelled:
            by_pair[key[0]].append(key)
        for host in self.hosts.values():
            for member in host.members:
                for key in _borne(self._labels(member), by_pair):
                    self.labelled[key][host.id].add(member.id)

    def _labels(self, member: Member) -> Mapping[str, str]:
        node = self.nodes.get(member.id)
        return {**member.labels, **node.labels} if node is not None else member.labels

    # --- moves --------------------------------------------------------------------------------------------------------

    @property
    def total(self) -> tuple[int, int]:
        """(by how much rules are missed, what missed wishes weigh), over all groups and hosts."""
        return (
            sum(hard for hard, _ in self.counted.values()) + sum(self.over.values()),
            sum(soft for _, soft in self.counted.values()),
        )

    def move(self, move: Move) -> tuple[int, int]:
        """Carry the move out; by how much what is missed changes: (rules, wishes), below zero where it is less."""
        member = next(m for m in self.hosts[move.source].members if m.id == move.member)
        behind = replace(member, id=member.id + LEFT_BEHIND)
        there = replace(member, cells=move.cells, holds=move.devices)
        source = self.held[move.source]
        self.held[move.source] = replace(
            source, members=tuple(behind if m.id == member.id else m for m in source.members)
        )
        self.held[move.target] = joined(self.held[move.target], there, move.devices)
        self.moved.add(move.member)
        return self._to(member, there, move.source, move.target)

    def undo(self, move: Move, source: Host, held_source: Host, held_target: Host) -> None:
        """Take the last move back. The hosts: as they were before it."""
        there = next(m for m in self.hosts[move.target].members if m.id == move.member)
        member = next(m for m in source.members if m.id == move.member)
        self._to(there, member, move.target, move.source)
        self.hosts[move.source] = source
        self.held[move.source], self.held[move.target] = held_source, held_target
        self.moved.discard(move.member)

    def _to(self, before: Member, after: Member, source: str, target: str) -> tuple[int, int]:
        touched = self._neighbourhood(after.id, (source, target))
        self.hosts[source] = left(self.hosts[source], before)
        self.hosts[target] = joined(self.hosts[target], after, after.holds)
        self.where[after.id] = target
        touched |= self._neighbourhood(after.id, (source, target))
        for places in self.labelled.values():
            if after.id in places.get(source, ()):
                places[source].discard(after.id)
                places[target].add(after.id)
        return self._recount(touched, (source, target))

    def bearing(self, rule: object) -> set[str]:
        """The hosts of whoever the rule names by labels."""
        keys = [tuple(sorted(s.labels.items())) for s in _selectors(rule) if s.labels]
        return {host for key in keys for host, members in self.labelled[key].items() if members}

    def _neighbourhood(self, member: str, hosts: Iterable[str]) -> set[int]:
        """The groups whose rules may say something else once a member goes from one of two hosts to the other."""
        touched = {self.owner[member]}
        for key, places in self.labelled.items():
            if any(member in places.get(host, ()) for host in hosts):
                touched |= self.asking[key]
        alone = [h for h in hosts if any(m.exclusive or self._exclusive(m.id) for m in self.hosts[h].members)]
        touched |= {self.owner[m.id] for h in alone for m in self.hosts[h].members if m.id in self.owner}
        return touched

    def _exclusive(self, member: str) -> bool:
        return member in self.nodes and self.nodes[member].exclusive

    def _recount(self, groups: Iterable[int], hosts: Iterable[str]) -> tuple[int, int]:
        hard = soft = 0
        for number in groups:
            before, now = self.counted[number], self._count(number)
            self.counted[number] = now
            self.told.pop(number, None)
            hard, soft = hard + now[0] - before[0], soft + now[1] - before[1]
        for host in hosts:
            now_over = sum(n for n, _ in self._excess(self.hosts[host]))
            hard += now_over - self.over[host]
            self.over[host] = now_over
        return hard, soft

    # --- what is broken -----------------------------------------------------------------------------------------------

    def _count(self, number: int) -> tuple[int, int]:
        hard = soft = 0
        for fault, weight in self._faults(number):
            if weight is None:
                hard += fault.by
            else:
                soft += fault.by * weight
        return hard, soft

    def faults(self, number: int) -> list[Fault]:
        """The rules of a group that are broken, wishes aside; told again as long as nothing about it has changed."""
        if number not in self.told:
            self.told[number] = [fault for fault, weight in self._faults(number) if weight is None]
        return self.told[number]

    def overfull(self, host: str) -> list[Fault]:
        """What a host, and each of its cells, has to give up before it has as much as is used of it."""
        singles = tuple((m.id,) for m in self.hosts[host].members if self.where.get(m.id) == host)
        return [
            Fault(Rule.NUMA if cell else Rule.CAPACITY, needed, host, singles, out=needed)
            for needed, cell in self._excess(self.hosts[host])
        ]

    def _excess(self, host: Host) -> Iterator[tuple[int, bool]]:
        """(how many members have to leave, whether of a cell) by resource that is used beyond what is there, where it
        helps if members leave."""
        mine = [m for m in host.members if m.id in self.owner]
        for name, used in host.used.items():
            if used > host.capacity.get(name, 0):
                needed = _fewest([m.demand.get(name, 0) for m in mine], used - host.capacity.get(name, 0))
                if needed:
                    yield needed, False
        for number, cell in enumerate(host.cells):
            pinned = [m for m in mine if number in m.cells]
            for name, used in cell.used.items():
                if used > cell.capacity.get(name, 0):
                    shares = [-(-m.demand.get(name, 0) // len(m.cells)) for m in pinned]
                    needed = _fewest(shares, used - cell.capacity.get(name, 0))
                    if needed:
                        yield needed, True

    def _faults(self, number: int) -> Iterator[tuple[Fault, int | None]]:
        group = self.groups[number]
        for node in group.nodes:
            for rule in self._misplaced(group, node):
                where, out = self.where[node.id], 0 if rule is Rule.EXCLUSIVE else 1
                yield Fault(rule, 1, where, ((node.id,),), out=out), None
        for constraint in group.constraints if group.nodes else ():
            match constraint:
                case SpareHosts():
                    continue
                case Prefer():
                    picked = self._picked(constraint.select, group)
                    for host, members in sorted(picked.items()):
                        wrong = members & self._movers(group)
                        if wrong and self.hosts[host].labels.get(constraint.key) not in constraint.values:
                            sets = tuple((m,) for m in sorted(wrong))
                            yield Fault(Rule.LABELS, len(wrong), host, sets), constraint.weight
                case Apart() | Near():
                    for fault in self._of_two(constraint, group):
                        yield fault, constraint.weight
                case _:
                    for fault in self._of_one(constraint, group):
                        yield fault, constraint.weight

    def _misplaced(self, group: Neighbours, node: Node) -> Iterator[Rule]:
        """What is wrong with a member's host itself."""
        host = self.hosts[self.where[node.id]]
        if any(host.labels.get(key) not in allowed for key, allowed in node.host_labels.items()):
            yield Rule.LABELS
        member = next(m for m in host.members if m.id == node.id)
        if len(member.cells) != node.cells and node.cells:
            yield Rule.NUMA
        own = self._movers(group) | group.staying.keys()
        strangers = [m for m in host.members if m.id not in own]
        if strangers and (node.exclusive or any(m.exclusive for m in strangers)):
            yield Rule.EXCLUSIVE

    def _of_one(self, rule: AtMost | Together | SpreadOver | Within, group: Neighbours) -> Iterator[Fault]:
        picked, own = self._domains(self._picked(rule.select, group), rule.scope), self._movers(group)
        new = {name: mine for name, members in sorted(picked.items()) if (mine := members & own)}
        old = {name for name, members in picked.items() if members - own}
        of_group = not rule.select.labels
        if isinstance(rule, AtMost):
            for name, mine in new.items():
                if (many := min(len(mine), len(picked[name]) - rule.limit)) > 0:
                    at_host = many if rule.scope is Scope.HOST and of_group else 0
                    singles = tuple((m,) for m in sorted(mine))
                    yield Fault(Rule.AT_MOST, many, _told(name), singles, 0, at_host)
        elif isinstance(rule, SpreadOver):
            if (short := rule.minimum - len(picked)) > 0:
                yield Fault(Rule.SPREAD, short, "", tuple(_spreading(picked, own, short)), short if of_group else 0)
        else:
            strays = {name: mine for name, mine in new.items() if name not in old}
            most = rule.maximum if isinstance(rule, Within) else 1 if not old else 0
            kept = max(0, most - len(old)) if isinstance(rule, Within) else most
            if (many := len(strays) - kept) > 0 and (isinstance(rule, Within) or old or len(strays) > 1):
                kind = Rule.WITHIN if isinstance(rule, Within) else Rule.TOGETHER
                fewest = sum(sorted(len(mine) for mine in strays.values())[: len(strays) - kept])
                yield Fault(kind, many, "", _gathering(strays, kept), fewest if of_group else 0)

    def _of_two(self, rule: Apart | Near, group: Neighbours) -> Iterator[Fault]:
        first = self._domains(self._picked(rule.first, group), rule.scope)
        both = {member for members in first.values() for member in members}
        others = self._domains(self._picked(rule.second, group), rule.scope)
        second = {name: rest for name, members in others.items() if (rest := members - both)}
        own, near = self._movers(group), isinstance(rule, Near)
        for name in sorted(first.keys() - second.keys() if near else first.keys() & second.keys()):
            mine = first[name] & own
            if not mine and (near or not second[name] & own):
                continue
            sides = [first[name]] if near else [first[name], second[name]]
            sets = tuple(tuple(sorted(side)) for side in sides if side <= self.owner.keys())
            if near and mine < first[name]:
                sets = (tuple(sorted(mine)),)
            at_host = 1 if not near and rule.scope is Scope.HOST else 0
            yield Fault(Rule.NEAR if near else Rule.APART, 1, _told(name), sets, 0, at_host)

    def _movers(self, group: Neighbours) -> frozenset[str]:
        return frozenset(node.id for node in group.nodes)

    def _picked(self, selector: Selector, group: Neighbours) -> dict[str, set[str]]:
        """Host -> the members that the selector means: of the group, and by their labels of all."""
        found: dict[str, set[str]] = defaultdict(set)
        for node in group.nodes:
            if selector.everything or node.id in selector.nodes:
                found[self.where[node.id]].add(node.id)
        for member, host in group.staying.items():
            if selector.everything or member in selector.nodes:
                found[host].add(member)
        if selector.labels:
            for host, members in self.labelled[tuple(sorted(selector.labels.items()))].items():
                if members:
                    found[host] |= members
        return found

    def _domains(self, places: Places, scope: Scope) -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for name, members in places.items():
            host = self.hosts[name]
            key = host.id if scope is Scope.HOST else host.rack_key if scope is Scope.RACK else host.zone
            found[key] |= members
        return found


def _spreading(domains: Places, own: frozenset[str], short: int) -> Iterator[tuple[str, ...]]:
    """As many members as domains are missing, of those that others of their domain can do without."""
    spare = [m for name in sorted(domains) for m in sorted(domains[name] & own)[: len(domains[name]) - 1]]
    if len(spare) >= short:
        yield tuple(spare[:short])
    for member in spare if short > 1 else spare[1:]:
        yield (member,)


def _gathering(strays: Places, kept: int) -> tuple[tuple[str, ...], ...]:
    """Who goes so that no more than ``kept`` of these domains are left: the fewest, or whoever is in all but one."""
    by_size = sorted(strays, key=lambda name: (-len(strays[name]), name))
    choices = [by_size[:kept]] + ([[name] for name in by_size[1:8]] if kept == 1 else [])
    return tuple(tuple(sorted(m for name in strays if name not in stay for m in strays[name])) for stay in choices)


def _fewest(amounts: Iterable[int], excess: int) -> int:
    """How many of the amounts have to go at least until the excess is gone; 0 where all of them are not enough."""
    for number, amount in enumerate(sorted(amounts, reverse=True), 1):
        excess -= amount
        if excess <= 0:
            return number
    return 0


def _selectors(rule: object) -> Iterator[Selector]:
    for part in ("select", "first", "second"):
        selector = getattr(rule, part, None)
        if isinstance(selector, Selector):
            yield selector


def _borne(labels: Mapping[str, str], by_pair: Mapping[tuple[str, str], Sequence[Key]]) -> Iterator[Key]:
    for pair in labels.items():
        for key in by_pair.get(pair, ()):
            if all(labels.get(name) == value for name, value in key):
                yield key


def _sized(host: Host, nodes: Mapping[str, Node]) -> Host:
    """The host with each member as large as its node says."""
    members = tuple(replace(m, demand=nodes[m.id].demand) if m.id in nodes else m for m in host.members)
    return replace(host, members=members) if members != host.members else host


def _told(domain: str) -> str:
    """A domain's name as people know it."""
    return domain.removeprefix("rack:").removeprefix("host:")

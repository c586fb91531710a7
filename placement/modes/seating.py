"""Where members that leave their hosts may go, on the fleet as it is while all moves are under way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from placement.constraints import Constraint, SpareHosts, SpreadOver, Together, Within
from placement.engine import place
from placement.model import Host, Policy, Request, Snapshot, Status, left
from placement.modes.load import Load
from placement.modes.moves import Move
from placement.modes.plans import Limits
from placement.modes.standing import Standing
from placement.stop import Stop

TRIES = 2
"""How many places of one chunk are looked at where rules of others, or a wish, speak against the first."""
CHUNKS = (1, 8)
"""How many hosts, the best first, a member is tried on before it may go to any of them."""


@dataclass(slots=True, eq=False)
class Seating:
    """``limits.within``: the hosts that may be gone to. ``room``, ``loads``: what was worked out of hosts, which holds
    as long as they are the same objects: of a large fleet few have changed since the last look."""

    standing: Standing
    limits: Limits
    policy: Policy
    stop: Stop
    room: dict[str, tuple[Host, dict[str, int]]] = field(default_factory=dict)
    loads: dict[tuple[str, ...], dict[str, tuple[Host, int]]] = field(default_factory=dict)

    def inside(self, host: str) -> bool:
        """Whether members may leave the host, and go there."""
        return self.limits.within is None or host in self.limits.within

    def targets(self, members: Sequence[str]) -> list[str]:
        """The hosts that may take some of them, the least full first."""
        standing = self.standing
        names = tuple(sorted({name for m in members for name in standing.nodes[m].demand}))
        known = self.loads.setdefault(names, {})
        found = []
        for host in self.taking(members):
            load = known.get(host.id)
            if load is None or load[0] is not host:
                load = known[host.id] = host, Load.of(host, names)
            found.append((load[1], host.id))
        return [name for _, name in sorted(found)]

    def taking(self, members: Sequence[str]) -> Iterator[Host]:
        """The open hosts inside with room for one of the members at least; not those where they are."""
        standing = self.standing
        demands = {tuple(sorted(standing.nodes[m].demand.items())) for m in members}
        away = {standing.where[m] for m in members}
        for name, host in standing.held.items():
            if not host.schedulable or name in away or not self.inside(name):
                continue
            kept = self.room.get(name)
            if kept is None or kept[0] is not host:
                kept = self.room[name] = host, {resource: host.free(resource) for resource in host.capacity}
            free = kept[1]
            for demand in demands:
                if all(free.get(resource, 0) >= amount for resource, amount in demand):
                    yield host
                    break

    def seats(self, members: Sequence[str], targets: Sequence[str], relaxed: bool) -> Iterator[list[Move]]:
        """Some ways for members of one group to go together, the likely best first.
        ``relaxed``: rules of theirs that are broken anyway do not keep them from a better place."""
        request = self.request(members, relaxed=relaxed)
        if request is not None:
            yield from self.ways(request, targets)

    def ways(self, request: Request, targets: Sequence[str]) -> Iterator[list[Move]]:
        """Some ways for the request's members to go, onto the first few of the targets if they can."""
        where, tried = self.standing.where, request.excluded_hosts
        for names in _chunks(targets, CHUNKS):
            allowed = frozenset(names) - tried
            for _ in range(TRIES if allowed and not self.stop() else 0):
                fleet = self._around(request, allowed)
                asked = replace(request, excluded_hosts=frozenset(host.id for host in fleet.hosts) - allowed)
                decision = place(fleet, asked, self.policy, self.stop)
                if decision.status is not Status.PLACED:
                    break
                yield [Move(a.node, where[a.node], a.host, a.cells, a.devices) for a in decision.assignments]
                tried |= {decision.assignments[0].host}
                allowed -= tried
                if not allowed:
                    break

    def request(self, members: Sequence[str], *, relaxed: bool = False) -> Request | None:
        """The members as a gang whose fellows stay; None where nothing is left to be relaxed. Members of several groups
        only where none of these has rules."""
        standing = self.standing
        group = standing.groups[standing.owner[members[0]]]
        nodes, sources = tuple(standing.nodes[m] for m in members), {standing.where[m] for m in members}
        if len({standing.owner[m] for m in members}) > 1:
            return Request(nodes, excluded_hosts=frozenset(sources))
        rules: list[Constraint] = [rule for rule in group.constraints if not isinstance(rule, SpareHosts)]
        if relaxed:
            kept: list[Constraint] = [rule for rule in rules if not isinstance(rule, SpreadOver | Within | Together)]
            if len(kept) == len(rules):
                return None
            rules = kept
        others = {node.id: standing.where[node.id] for node in group.nodes if node.id not in members}
        return Request(
            nodes,
            constraints=tuple(rules),
            excluded_hosts=group.excluded_hosts | sources,
            staying={**group.staying, **others},
        )

    def _around(self, request: Request, allowed: Iterable[str]) -> Snapshot:
        """The part of the fleet that it is about: hosts that it may use, and those of members whom its rules name."""
        standing = self.standing
        names = {*allowed, *request.staying.values()}
        for rule in request.constraints:
            names |= standing.bearing(rule)
        gone = {node.id for node in request.nodes}
        hosts: dict[str, Host] = {}
        for name in names:
            host = standing.held[name]
            for member in [m for m in host.members if m.id in gone]:
                host = left(host, member)
            hosts[name] = host
        return Snapshot(tuple(hosts[name] for name in sorted(hosts)), standing.snapshot.flavours)


def _chunks(targets: Sequence[str], sizes: Sequence[int]) -> Iterator[Sequence[str]]:
    """The first few, then some more, then all of them."""
    for size in sizes:
        if size < len(targets):
            yield targets[:size]
    if targets:
        yield targets

"""A fleet's hosts emptied some at a time, each once: the whole order is found before the first member moves.

A batch's hosts take nobody while their members leave, and are open again before the next batch begins. Within a batch
a host is either left or gone to, so that its moves fit in any order and side by side; those of one group keep theirs.
Members go first where nobody has to leave any more, so that few move twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.constraints import Apart, Constraint, Near, Prefer, SpareHosts
from placement.engine import DEFAULT, place
from placement.model import Decision, Host, Node, Policy, Proof, Request, Snapshot, Status, left
from placement.modes.moves import Move, Neighbours
from placement.modes.plans import Batch, Roll
from placement.modes.standing import Standing
from placement.problem.index import index_of
from placement.resources import MAX_NODES, InvalidPlacementInput, checked_integer
from placement.stop import Stop, never


def roll(
    snapshot: Snapshot,
    groups: Sequence[Neighbours],
    hosts: Sequence[str],
    at_once: int = 1,
    policy: Policy = DEFAULT,
    stop: Stop = never,
) -> Roll:
    """An order in which ``hosts`` are emptied, at most ``at_once`` at a time, and where the groups' members go.

    A member's size is its node's demand; members of no group stay, and end by themselves. Raises
    ``InvalidPlacementInput`` for a host or a member that is unknown or listed twice, and for an absurd ``at_once``.
    """
    checked_integer("at_once", at_once, 1, MAX_NODES)
    known = {host.id for host in snapshot.hosts}
    if len(set(hosts)) < len(hosts) or not set(hosts) <= known:
        raise InvalidPlacementInput("hosts", "one is unknown, or listed twice")
    standing = Standing.of(snapshot, groups)
    least, start = _least_moves(standing, hosts), dict(standing.hosts)
    search = _Search(standing, replace(policy, explain=False, max_placed=False), stop, set(hosts))
    batches: list[Batch] = []
    while search.todo:
        batch = search.next_batch(at_once)
        if batch is None:
            proven = None if stop() else _never_empty(standing, start, search)
            status, proof = (Status.UNKNOWN, Proof.NONE) if proven is None else (Status.INFEASIBLE, Proof.INFEASIBLE)
            stuck, why = proven or (search.stuck, search.why)
            rest = tuple(name for name in hosts if name in search.todo)
            return Roll(status, tuple(batches), rest, least, proof, stuck, why, stop())
        batches.append(batch)
    done = Roll(Status.PLACED, tuple(batches), (), least, Proof.GAP)
    return replace(done, proof=Proof.OPTIMAL if len(done.moves) == least else Proof.GAP, stopped=stop())


@dataclass(slots=True, eq=False)
class _Search:
    """``todo``: the hosts that are still to be emptied; ``stuck``, ``why``: the last that could not, in words."""

    standing: Standing
    policy: Policy
    stop: Stop
    todo: set[str]
    stuck: str = ""
    why: str = ""
    fleet: Snapshot = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = Snapshot(tuple(self.standing.hosts.values()), self.standing.snapshot.flavours)
        index_of(self.fleet)

    def next_batch(self, at_once: int) -> Batch | None:
        """The next hosts and their moves, which are carried out here: as many as may be, those with the fewest members
        first; None where not even one can be emptied, or the time is over."""
        order = sorted(self.todo, key=lambda name: (len(self._leaving(name)), name))
        for many in range(min(at_once, len(order)), 0, -1):
            pool = list(order)
            while len(pool) >= many and not self.stop():
                chosen = tuple(pool[:many])
                moves = self._emptied(chosen)
                if moves is not None:
                    self.todo -= set(chosen)
                    return Batch(chosen, tuple(moves))
                pool.remove(self.stuck)
        return None

    def _leaving(self, host: str) -> list[str]:
        where = self.standing.where
        return [m.id for m in self.standing.hosts[host].members if where.get(m.id) == host]

    def _emptied(self, chosen: tuple[str, ...]) -> list[Move] | None:
        """The moves that empty these hosts together; None, with all as it was, where one of them is stuck."""
        standing, kept, missed = self.standing, self.fleet, self.standing.total[0]
        standing.held, standing.moved = dict(standing.hosts), set()
        self._change(replace(standing.hosts[name], schedulable=False) for name in chosen)
        done: list[tuple[Move, Host, Host, Host]] = []
        if all(self._left(host, chosen, done) for host in chosen):
            if standing.total[0] <= missed:
                self._change(standing.hosts[name] for name in chosen)
                return [entry[0] for entry in done]
            self.stuck, self.why = chosen[-1], "a rule of another group would be broken"
        for entry in reversed(done):
            standing.undo(*entry)
        self.fleet = kept
        return None

    def _left(self, host: str, chosen: tuple[str, ...], done: list[tuple[Move, Host, Host, Host]]) -> bool:
        """Have all leave the host, and note each move with its hosts as they were; False where a gang is stuck."""
        standing = self.standing
        for gang in self._gangs(host):
            found = self._housed(gang, host, chosen)
            if found is None:
                self.stuck = host
                return False
            for move in found:
                done.append((move, standing.hosts[host], standing.held[host], standing.held[move.target]))
                standing.move(move)
            targets = sorted({move.target for move in found})
            here = replace(standing.hosts[host], schedulable=False)
            self._change((here, *(standing.hosts[name] for name in targets)))
        return True

    def _change(self, hosts: Iterable[Host]) -> None:
        """The fleet with these hosts as they are now; its index follows at once, so that no plan builds one anew."""
        self.fleet = self.fleet.updated(tuple(hosts))
        index_of(self.fleet)

    def _gangs(self, host: str) -> list[list[str]]:
        """Who leaves the host together: each group with rules by itself, whoever others want near first; then the rest
        at once."""
        standing, wanted = self.standing, _wanted(self.standing.groups)
        by_group: dict[int, list[str]] = defaultdict(list)
        for member in self._leaving(host):
            by_group[standing.owner[member]].append(member)
        alone, rest = [], list[str]()
        for number, members in by_group.items():
            group = standing.groups[number]
            if group.ruled or any(standing.nodes[m].exclusive for m in members):
                size = sum(standing.nodes[m].demand.get("memory", 0) for m in members)
                near = any(isinstance(rule, Near) for rule in group.constraints)
                named = any(_bears(standing.nodes[m], pairs) for m in members for pairs in wanted)
                alone.append(((near and not named, near, -size, number), members))
            else:
                rest += members
        return [members for _, members in sorted(alone)] + ([rest] if rest else [])

    def _housed(self, gang: list[str], host: str, chosen: tuple[str, ...]) -> list[Move] | None:
        """Where the gang goes from the host: where nobody leaves any more, or anywhere."""
        request = _request(self.standing, gang)
        without = _without(self.standing.hosts[host], gang)
        fleet = self.fleet.updated((replace(without, schedulable=False),))
        settled = self.todo | set(chosen)
        decision = None
        if any(one.schedulable and one.id not in settled for one in fleet.hosts):
            narrow = replace(request, excluded_hosts=request.excluded_hosts | settled)
            decision = self._placed(fleet, narrow)
        if decision is None or decision.status is not Status.PLACED:
            decision = self._placed(fleet, request)
        if decision.status is not Status.PLACED:
            self.why = self._why(fleet, request, decision)
            return None
        return [Move(a.node, host, a.host, a.cells) for a in decision.assignments]

    def _placed(self, fleet: Snapshot, request: Request) -> Decision:
        """Homes that are found at once, or else by the whole search: which homes are the best is not asked."""
        decision = place(fleet, request, replace(self.policy, rounds=0, dives=0, branches=0), self.stop)
        return place(fleet, request, self.policy, self.stop) if decision.status is Status.UNKNOWN else decision

    def _why(self, fleet: Snapshot, request: Request, decision: Decision) -> str:
        if decision.status is Status.UNKNOWN or self.stop():
            return "whether its members find room was not settled in time"
        told = place(fleet, request, _explained(self.policy), self.stop)
        return told.explanation.message if told.explanation is not None else "its members find no room"


def _request(standing: Standing, gang: list[str]) -> Request:
    """Some members of a host as a gang whose fellows stay. Of several groups only where none of them has rules."""
    group = standing.groups[standing.owner[gang[0]]]
    alone = len({standing.owner[m] for m in gang}) == 1
    going = set(gang)
    others = {node.id: standing.where[node.id] for node in group.nodes if node.id not in going} if alone else {}
    rules = tuple(rule for rule in group.constraints if not isinstance(rule, SpareHosts)) if alone else ()
    return Request(
        tuple(standing.nodes[m] for m in gang),
        constraints=rules,
        excluded_hosts=group.excluded_hosts if alone else frozenset(),
        staying={**group.staying, **others} if alone else {},
    )


def _without(host: Host, gang: Iterable[str]) -> Host:
    gone = set(gang)
    for member in [m for m in host.members if m.id in gone]:
        host = left(host, member)
    return host


def _wanted(groups: Sequence[Neighbours]) -> list[Mapping[str, str]]:
    """The labels of those that others want near."""
    return [
        rule.second.labels
        for group in groups
        for rule in group.constraints
        if isinstance(rule, Near) and rule.second.labels
    ]


def _bears(node: Node, pairs: Mapping[str, str]) -> bool:
    return all(node.labels.get(key) == value for key, value in pairs.items())


# --- bounds ----------------------------------------------------------------------------------------------------------


def _least_moves(standing: Standing, hosts: Sequence[str]) -> int:
    """No order has fewer moves: each member of the hosts leaves once. Where a zone has no open host but those, and none
    of them is empty, whoever leaves first goes to one that is emptied later, and leaves again."""
    of_roll = set(hosts)
    counts = {name: sum(1 for m in standing.hosts[name].members if standing.where.get(m.id) == name) for name in hosts}
    zones = {standing.hosts[name].zone for name in hosts}
    twice = 0
    for zone in sorted(zones):
        mine = [counts[name] for name in hosts if standing.hosts[name].zone == zone]
        outside = any(h.zone == zone and h.schedulable and h.id not in of_roll for h in standing.hosts.values())
        if not outside and all(mine):
            twice += min(mine)
    return sum(counts.values()) + twice


def _never_empty(standing: Standing, start: Mapping[str, Host], search: _Search) -> tuple[str, str] | None:
    """(a host that no order and no moves within its zone can empty, why); None where none is proven so. ``start``: the
    fleet before the first move."""
    here = {m.id: host.id for host in start.values() for m in host.members if m.id in standing.owner}
    bare = {name: _without(host, here) for name, host in start.items()}
    clean = all(not hard for hard, _ in standing.counted.values())
    for name in sorted(search.todo):
        if (short := _too_small(standing, start, bare, name)) is not None:
            return name, f"the other hosts of its zone have less {short} than all members of the zone need"
        gone = Snapshot(tuple(bare[one] for one in sorted(bare) if one != name), standing.snapshot.flavours)
        gangs: dict[int, list[str]] = defaultdict(list)
        for member in start[name].members:
            if member.id in here:
                gangs[standing.owner[member.id]].append(member.id)
        for gang in gangs.values() if gone.hosts else ():
            if search.stop():
                return None
            decision = place(gone, _whole(standing, gang, gone, clean=clean), _explained(search.policy), search.stop)
            if decision.status is Status.INFEASIBLE:
                why = decision.explanation.message if decision.explanation is not None else "they fit nowhere else"
                return name, why
    return None


def _explained(policy: Policy) -> Policy:
    return replace(policy, explain=True)


def _whole(standing: Standing, gang: list[str], gone: Snapshot, *, clean: bool) -> Request:
    """What has to fit on the fleet without a host, wherever all others are: the gang; with all of its group and the
    rules about itself, where these hold now."""
    group = standing.groups[standing.owner[gang[0]]]
    there = {host.id for host in gone.hosts}
    if not clean or not set(group.staying.values()) <= there:
        return Request(tuple(standing.nodes[m] for m in gang), excluded_hosts=group.excluded_hosts)
    rules: tuple[Constraint, ...] = tuple(
        rule for rule in group.constraints if not isinstance(rule, SpareHosts | Near | Apart | Prefer)
    )
    nodes = tuple(standing.nodes[node.id] for node in group.nodes)
    return Request(nodes, constraints=rules, excluded_hosts=group.excluded_hosts, staying=dict(group.staying))


def _too_small(standing: Standing, start: Mapping[str, Host], bare: Mapping[str, Host], name: str) -> str | None:
    """A resource of which all members of the open hosts of a zone need more than there is beside one host."""
    zone = start[name].zone
    need: dict[str, int] = defaultdict(int)
    have: dict[str, int] = defaultdict(int)
    for host in start.values():
        if host.zone != zone or not (host.schedulable or host.id == name):
            continue
        mine = [standing.nodes[m.id].demand for m in host.members if m.id in standing.owner]
        for resource, amount in _summed(mine):
            need[resource] += amount
        if host.id == name:
            continue
        seated = dict(_summed(mine))
        for resource in {*host.capacity, *seated}:
            free = host.capacity.get(resource, 0) - bare[host.id].used.get(resource, 0)
            have[resource] += max(0, free, seated.get(resource, 0))
    return next((resource for resource in sorted(need) if need[resource] > have[resource]), None)


def _summed(vectors: Iterable[Mapping[str, int]]) -> Iterator[tuple[str, int]]:
    sums: dict[str, int] = defaultdict(int)
    for vector in vectors:
        for resource, amount in vector.items():
            sums[resource] += amount
    yield from sums.items()

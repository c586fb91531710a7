"""An independent verifier of a rebalance: carries its moves out one by one, and asks ``placement.check``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from placement.check import Violation, check, missed
from placement.constraints import Constraint, SpareHosts
from placement.model import Assignment, Decision, Host, Member, Node, Request, Snapshot, Status, joined, left
from placement.modes.moves import Move, Neighbours
from placement.modes.plans import Cause, Goal, Limits, Rebalance

_PER_HOST = 1000
_OF_THE_SEAT = frozenset(
    {"schedulable", "excluded", "exclusive", "capacity", "zone", "label", "numa", "count", "unknown"}
)


def check_rebalance(
    snapshot: Snapshot, groups: Sequence[Neighbours], limits: Limits, plan: Rebalance
) -> tuple[Violation, ...]:
    """All that is wrong with a plan; empty when it is right.

    Each move finds room while all before it are still on both ends, and breaks no rule of its host; after each no more
    is broken than before; each gains what is told of it.
    """
    return tuple(_violations(snapshot, groups, limits, plan))


def _violations(
    snapshot: Snapshot, groups: Sequence[Neighbours], limits: Limits, plan: Rebalance
) -> Iterator[Violation]:
    owner = {node.id: group for group in groups for node in group.nodes}
    where = {member.id: host.id for host in snapshot.hosts for member in host.members}
    moves, inside = plan.moves, limits.within
    if len({move.member for move in moves}) < len(moves) or len(moves) > limits.most_moves:
        yield Violation("moves", "a member moves twice, or there are too many moves")
    if any(move.member not in owner or where.get(move.member) != move.source for move in moves):
        yield Violation("moves", "a member moves that may not, or from where it is not")
        return
    if sum(owner[move.member].costs[move.member] for move in moves) != plan.cost:
        yield Violation("cost", f"is not {plan.cost}")
    if any(step.cause is not Cause.RULE and step.move.member in limits.held for step in plan.steps):
        yield Violation("held", "a member that is held moves for no broken rule")
    if inside is not None and any(not {move.source, move.target} <= inside for move in moves):
        yield Violation("within", "a move leaves what is to be rebalanced")
    yield from _carried_out(snapshot, groups, limits, plan)


def _carried_out(
    snapshot: Snapshot, groups: Sequence[Neighbours], limits: Limits, plan: Rebalance
) -> Iterator[Violation]:
    """What is wrong with the moves, one by one, and with what is told of the fleet before and after them."""
    owner = {node.id: group for group in groups for node in group.nodes}
    nodes = {node.id: node for group in groups for node in group.nodes}
    now = {host.id: sized(host, nodes) for host in snapshot.hosts}
    held = dict(now)
    names = limits.resources or tuple(sorted({name for node in nodes.values() for name in node.demand}))
    count = Count(now, groups)
    broken = count.total
    if broken != plan.missed:
        yield Violation("missed", f"{broken} before the moves, stated {plan.missed}")
    for step in plan.steps:
        move = step.move
        yield from seat_violations(held, count.where, owner[move.member], nodes[move.member], move)
        full = _load(now[move.source], names)
        now, held = after_move(now, held, move)
        count.move(move, now)
        if count.total > broken:
            yield Violation("broken", f"{count.total} after the move of {move.member}, {broken} before it")
        broken = count.total
        gain = full - max(_load(now[move.source], names), _load(now[move.target], names))
        if step.cause is Cause.LOAD and (gain != step.gain or gain < limits.least_gain):
            yield Violation("gain", f"of {move.member} is {gain}, stated {step.gain}")
    if broken != plan.missed_after:
        yield Violation("missed", f"{broken} after the moves, stated {plan.missed_after}")
    mended = sum({step.together: step.gain for step in plan.steps if step.cause is Cause.RULE}.values())
    if plan.missed - plan.missed_after < mended:
        yield Violation("gain", f"{mended} are stated to be mended, {plan.missed - plan.missed_after} are")
    for zone in plan.zones:
        there = [_load(h, names) for h in now.values() if _counts(h, zone.zone, limits.within)]
        if max(there, default=0) != zone.after or zone.bound > zone.after:
            yield Violation("zones", f"{zone.zone} is not {zone.bound} <= {zone.after}")
    yield from _freed(snapshot, limits, plan, now)


def _freed(snapshot: Snapshot, limits: Limits, plan: Rebalance, now: Mapping[str, Host]) -> Iterator[Violation]:
    """What is wrong with the hosts that are told to become free, and with the moves that are for it."""
    empty = {host.id for host in snapshot.hosts if host.empty}
    freeing = [step.move for step in plan.steps if step.cause is Cause.FREE]
    if limits.goal is not Goal.FREE_HOSTS and (freeing or plan.freed or plan.most_freed):
        yield Violation("freed", "hosts are freed without being asked for")
    if len(set(plan.freed)) < len(plan.freed) or len(plan.freed) > plan.most_freed:
        yield Violation("freed", f"{len(plan.freed)} hosts, at most {plan.most_freed}, or one twice")
    if any(not now[host].empty or not now[host].schedulable or host in empty for host in plan.freed):
        yield Violation("freed", "a host is not free after the moves, was free before, or is closed")
    if {move.source for move in freeing} != set(plan.freed):
        yield Violation("freed", "a move frees no host, or a host is freed by none")
    if any(move.target in empty for move in freeing):
        yield Violation("freed", "a host that is free is gone to")


def _counts(host: Host, zone: str, inside: frozenset[str] | None) -> bool:
    return host.zone == zone and host.schedulable and (inside is None or host.id in inside)


def seat_violations(
    held: Mapping[str, Host], where: Mapping[str, str], group: Neighbours, node: Node, move: Move
) -> Iterator[Violation]:
    """What is wrong with the seat itself, while all moves before are on both ends."""
    fellows = {n.id: where[n.id] for n in group.nodes if n.id != node.id}
    alone = Request((node,), excluded_hosts=group.excluded_hosts | {move.source}, staying={**group.staying, **fellows})
    there = Decision(Status.PLACED, (Assignment(node.id, move.target, move.cells, move.devices),))
    for violation in check(Snapshot((held[move.target],)), alone, there):
        if violation.rule in _OF_THE_SEAT:
            yield violation
    if held[move.source].zone != held[move.target].zone:
        yield Violation("zone", f"{move.member} leaves its zone")


def after_move(now: dict[str, Host], held: dict[str, Host], move: Move) -> tuple[dict[str, Host], dict[str, Host]]:
    member = next(m for m in now[move.source].members if m.id == move.member)
    there = replace(member, cells=move.cells)
    after = {**now, move.source: left(now[move.source], member)}
    after[move.target] = joined(after[move.target], there, move.devices)
    behind = replace(member, id=f"{member.id} as it leaves")
    source = replace(
        held[move.source], members=tuple(behind if m.id == member.id else m for m in held[move.source].members)
    )
    both = {**held, move.source: source}
    both[move.target] = joined(both[move.target], there, move.devices)
    return after, both


@dataclass(slots=True)
class Count:
    """By how much rules are missed, group by group and host by host; counted again where a move may have changed it."""

    hosts: dict[str, Host]
    groups: Sequence[Neighbours]
    where: dict[str, str] = field(default_factory=dict)
    by_group: dict[int, int] = field(default_factory=dict)
    by_host: dict[str, int] = field(default_factory=dict)
    movers: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.where = {member.id: host.id for host in self.hosts.values() for member in host.members}
        self.movers = {node.id for group in self.groups for node in group.nodes}
        self.by_group = {number: self._of(number) for number in range(len(self.groups))}
        self.by_host = {name: _surplus(host, self.movers) for name, host in self.hosts.items()}

    @property
    def total(self) -> int:
        return sum(self.by_group.values()) + sum(self.by_host.values())

    def move(self, move: Move, hosts: dict[str, Host]) -> None:
        self.hosts = hosts
        self.where[move.member] = move.target
        there = {m.id for name in (move.source, move.target) for m in hosts[name].members}
        for number, group in enumerate(self.groups):
            if there & ({n.id for n in group.nodes} | group.staying.keys()) or any(map(_named, group.constraints)):
                self.by_group[number] = self._of(number)
        for name in (move.source, move.target):
            self.by_host[name] = _surplus(hosts[name], self.movers)

    def _of(self, number: int) -> int:
        group = self.groups[number]
        changed: dict[str, Host] = {host: self.hosts[host] for host in group.staying.values()}
        landed = []
        for node in group.nodes:
            home = self.where[node.id]
            member = next(m for m in self.hosts[home].members if m.id == node.id)
            changed[home] = left(changed.get(home, self.hosts[home]), member)
            landed.append(Assignment(node.id, home, member.cells))
        if not landed:
            return 0
        wanted = [pairs for rule in group.constraints for pairs in _named(rule)]
        for name, host in self.hosts.items() if wanted else ():
            if name not in changed and any(_bears(m, pairs) for m in host.members for pairs in wanted):
                changed[name] = host
        rules = tuple(rule for rule in group.constraints if not isinstance(rule, SpareHosts))
        request = Request(group.nodes, constraints=rules, staying=group.staying)
        return missed(Snapshot(tuple(changed.values())), request, Decision(Status.PLACED, tuple(landed)))


def _named(rule: Constraint) -> list[Mapping[str, str]]:
    """The labels by which a rule speaks of members."""
    parts = (getattr(rule, part, None) for part in ("select", "first", "second"))
    return [part.labels for part in parts if part is not None and part.labels]


def _bears(member: Member, labels: Mapping[str, str]) -> bool:
    return all(member.labels.get(key) == value for key, value in labels.items())


def _surplus(host: Host, movers: set[str]) -> int:
    """How many members have to leave, resource by resource, before no more is used than there is."""
    mine = [member for member in host.members if member.id in movers]
    total = sum(
        _count([m.demand.get(name, 0) for m in mine], used - host.capacity.get(name, 0))
        for name, used in host.used.items()
    )
    for number, cell in enumerate(host.cells):
        pinned = [m for m in mine if number in m.cells]
        for name, used in cell.used.items():
            shares = [-(-m.demand.get(name, 0) // len(m.cells)) for m in pinned]
            total += _count(shares, used - cell.capacity.get(name, 0))
    return total


def _count(amounts: list[int], excess: int) -> int:
    if excess <= 0 or sum(amounts) < excess:
        return 0
    amounts = sorted(amounts)
    taken = 0
    while excess > 0:
        excess -= amounts.pop()
        taken += 1
    return taken


def _load(host: Host, names: tuple[str, ...]) -> int:
    shares = [
        -(-host.used.get(name, 0) * _PER_HOST // host.capacity[name]) for name in names if host.capacity.get(name, 0)
    ]
    return max(shares, default=0)


def sized(host: Host, nodes: Mapping[str, Node]) -> Host:
    return replace(host, members=tuple(_as_node(m, nodes.get(m.id)) for m in host.members))


def _as_node(member: Member, node: Node | None) -> Member:
    return member if node is None else replace(member, demand=node.demand)

"""Room for a group, as transactions: others are asked to move and all seats are booked at once, or nothing
(ARCHITECTURE mechanism 17).

What is booked for the group stands as long as its row has the plan, and what is booked for a member that moves as long
as its own row says that it makes that room (`changes.commit`). So each row is only ever written by who works on it, and
a group that dies, is deleted or gives up takes its room with it: the others see that it is gone and stay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from service.domain.cells import Cell, resource_of
from service.domain.fleet import Host
from service.domain.groups import Group, Instance, InstanceStatus, RoomPlan, Seat
from service.domain.leaving import Eviction, after_ends
from service.failpoints import failpoint
from service.lifecycle.facts import EvictionAsked, Fact, RoomAsked, RoomBegun
from service.lifecycle.transitions import advance
from service.planning.translate import seat, total
from service.store import bookings, claims, fleet, groups, quotas
from service.store.connection import Connection
from service.transactions.changes import LeaseLost, apply, commit
from service.transactions.claiming import held_back


def begin(connection: Connection, planned: Group, others: Sequence[Group], plan: RoomPlan, now: int) -> Group:
    """Book the group's seats and those of the members that move for it, and ask these to go; all of it, or nothing.

    `planned`, `others`: the group and those of the members, as the plan was made for them.
    Raises HeldBack; QuotaExceeded; ClaimLost where any of them, or a host, is not as it was planned for; LeaseLost.
    """
    expected = {group.uuid: group for group in (planned, *others)}
    now_there = {uuid: groups.load(connection, uuid, lock=True) for uuid in sorted(expected)}
    before = now_there[planned.uuid]
    if before.epoch != planned.epoch:
        raise LeaseLost(planned.uuid)
    waiting = {(m.uuid, m.attempt) for m in before.instances if m.status is InstanceStatus.PENDING}
    held_back(connection, before, {instance for instance, _ in waiting})
    seats = plan.placement.assignments
    if waiting != {(s.instance_uuid, s.attempt) for s in seats}:
        return before
    if any(places(now_there[uuid]) != places(group) for uuid, group in expected.items()):
        raise claims.ClaimLost("a member that counts for the plan has another host since")
    quotas.check(connection, before.project, total(s.resources for s in seats if s.attempt == 1))
    asked, ending = _asked(now_there, plan, now), _ending(now_there, before, plan, now)
    _book(connection, before, asked, plan)
    after = advance(before, RoomBegun(plan), now)
    for uuid in sorted({*asked, *ending}):
        failpoint("room.asking")
        facts: list[Fact] = (
            [EvictionAsked(ending[uuid])]
            if uuid in ending
            else [
                RoomAsked(m.instance_uuid, now_there[uuid].instance(m.instance_uuid).attempt, plan.uuid, n, m.live)
                for n, m in enumerate(plan.moves)
                if m.group_uuid == uuid
            ]
        )
        apply(connection, uuid, facts, now)
        groups.due(connection, uuid, 0)
    return commit(connection, before, after, (), now)


def goes_before(connection: Connection, notice: Eviction) -> bool:
    """Whether a member that makes the same room, and needs nobody's end for it, has still to leave its host."""
    plan = _plan(connection, notice.by_group, notice.room)
    if plan is None or not plan.moves:
        return False
    later = after_ends(plan.moves, plan.evictions)
    first = [move for move in plan.moves if move.instance_uuid not in later]
    seated = _hosts_of(connection, {move.group_uuid for move in first})
    return any(move.source_host_uuid in seated[move.instance_uuid] for move in first)


def waits_for_an_end(connection: Connection, member: Instance, target_uuid: str) -> bool:
    """Whether a group that is to end has not left the host yet to which the member moves for the same room."""
    for_group = bookings.for_group(connection, member.room)
    plan = _plan(connection, for_group, member.room) if for_group else None
    if plan is None:
        return False
    there = [one for one in plan.evictions if target_uuid in one.seats.values()]
    seated = _hosts_of(connection, {one.group_uuid for one in there})
    return any(target_uuid == host in seated[uuid] for one in there for uuid, host in one.seats.items())


def _plan(connection: Connection, group_uuid: str, room: str) -> RoomPlan | None:
    group = next(iter(groups.load_many(connection, [group_uuid])), None)
    plan = group.room.plan if group is not None and group.room is not None else None
    return plan if plan is not None and plan.uuid == room else None


def _hosts_of(connection: Connection, of: Iterable[str]) -> Mapping[str, set[str]]:
    """Member -> the hosts on which it has claims, of these groups' members."""
    found: dict[str, set[str]] = defaultdict(set)
    for uuid in sorted(of):
        for (instance, _), hosts in claims.seats_of(connection, uuid).items():
            found[instance] |= hosts
    return found


def places(group: Group) -> frozenset[tuple[str, int, str, str]]:
    """Where the group's members are."""
    return frozenset((m.uuid, m.attempt, m.host_uuid, m.target_host_uuid) for m in group.instances)


def _asked(now_there: Mapping[str, Group], plan: RoomPlan, now: int) -> Mapping[str, Sequence[str]]:
    """Group -> its members that are asked to go. Raises ClaimLost where one of them would not."""
    asked: dict[str, list[str]] = defaultdict(list)
    for number, move in enumerate(plan.moves):
        group = now_there[move.group_uuid]
        member = group.instance(move.instance_uuid)
        fact = RoomAsked(member.uuid, member.attempt, plan.uuid, number, move.live)
        # One that goes already, for another room or a rebalance, keeps to that.
        asks = not member.room and bool(advance(group, fact, now).instance(member.uuid).room)
        if member.host_uuid != move.source_host_uuid or not asks:
            raise claims.ClaimLost(f"member {member.uuid} cannot be asked to move now")
        asked[group.uuid].append(member.uuid)
    return asked


def _ending(now_there: Mapping[str, Group], group: Group, plan: RoomPlan, now: int) -> Mapping[str, Eviction]:
    """What each group that is to end is told. Raises ClaimLost where one of them would not."""
    told: dict[str, Eviction] = {}
    for one in plan.evictions:
        victim = now_there[one.group_uuid]
        notice = Eviction(
            plan.uuid, one.at, max(0, one.at - now), one.becomes, group.uuid, group.spec.name, group.project,
            group.priority,
        )  # fmt: skip
        takes = advance(victim, EvictionAsked(notice), now).eviction == notice
        if victim.priority >= group.priority or not takes or dict(one.seats) != _seats(victim):
            raise claims.ClaimLost(f"group {victim.uuid} cannot be asked to end now")
        told[victim.uuid] = notice
    return told


def _seats(group: Group) -> dict[str, str]:
    return {m.uuid: m.host_uuid for m in group.instances}


def _book(connection: Connection, group: Group, asked: Mapping[str, Sequence[str]], plan: RoomPlan) -> None:
    """The bookings, once it was seen that they fit when all who are asked have gone. Raises ClaimLost."""
    targets = {move.target_host_uuid for move in plan.moves}
    uuids = sorted(targets | {s.host_uuid for s in plan.placement.assignments})
    claims.lock_open(connection, uuids)
    hosts = fleet.hosts(connection, uuids)
    others = {g.uuid: g for g in groups.load_many(connection, sorted(asked))}
    seats = [(group.uuid, s) for s in plan.placement.assignments]
    leaving: dict[str, list[Seat]] = defaultdict(list)
    for move in plan.moves:
        member = others[move.group_uuid].instance(move.instance_uuid)
        seats.append((move.group_uuid, seat(member, hosts[move.target_host_uuid], move.cells)))
        if move.source_host_uuid in hosts:
            leaving[move.source_host_uuid].append(seat(member, hosts[move.source_host_uuid], member.cells))
    for victim in groups.load_many(connection, [one.group_uuid for one in plan.evictions]):
        for member in victim.instances:
            if member.host_uuid in hosts:
                leaving[member.host_uuid].append(seat(member, hosts[member.host_uuid], member.cells))
    for host in hosts.values():
        check_fits(host, [s for _, s in seats if s.host_uuid == host.uuid], leaving[host.uuid])
    bookings.book(connection, plan.uuid, group.uuid, seats)


def check_fits(host: Host, coming: Sequence[Seat], leaving: Sequence[Seat]) -> None:
    """Whether the host has room for those who come once those have gone who leave. Raises ClaimLost."""
    more, less = total(s.claimed for s in coming), total(s.claimed for s in leaving)
    held = total((host.used, host.booked, host.foreign, *(_of_cell(c, c.used, c.foreign) for c in host.cells)))
    usable = total((host.allocatable, *(_of_cell(c, c.allocatable) for c in host.cells)))
    for name, amount in more.items():
        beside = host.beside.get(name, 0) * (len(coming) - len(leaving))
        if amount and held.get(name, 0) - less.get(name, 0) + beside + amount > usable.get(name, 0):
            raise claims.ClaimLost(f"host {host.uuid} has less than {amount} {name} left, with all gone that are asked")


def _of_cell(cell: Cell, *vectors: Mapping[str, int]) -> dict[str, int]:
    return {resource_of(cell.number, name): amount for name, amount in total(vectors).items()}

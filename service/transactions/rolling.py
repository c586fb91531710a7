"""Each step of a roll as a transaction of its own: whoever takes it holds the roll's row, and finds how far it is.

A host is first closed and the moves of its batch begun as one rebalance, with a seat kept for each; then it is put
under maintenance as every host that is drained. No process has to remember anything: the row says what comes next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from service.domain.fleet import Host, HostState, HostStatus
from service.domain.groups import Group
from service.domain.rebalances import Rebalance, RebalanceMove
from service.domain.rolls import Roll, RollEnable, RollHost, RollStage
from service.errors import NotFound, WrongState
from service.failpoints import failpoint
from service.lifecycle.facts import Evicted
from service.planning.rolling import fit
from service.store import audit, claims, fleet, groups, rebalances, rolls, waiting
from service.store.connection import Connection
from service.store.loads import of_hosts
from service.transactions import rebalancing
from service.transactions.changes import refuse_older_copy
from service.transactions.fencing import PRINCIPAL, empty

S = RollStage


@dataclass(frozen=True, slots=True)
class Stepped:
    """The roll as it is now, how many hosts came to a stage, and the groups that have something to do."""

    roll: Roll
    came: Mapping[RollStage, int]
    touched: tuple[str, ...] = ()


def begin(connection: Connection, roll: Roll) -> None:
    """Keep a roll. Its first hosts are begun by who carries it out.

    Raises NotFound, and WrongState where a host is not enabled, does not answer, or is another roll's.
    """
    refuse_older_copy(connection, "the fleet", "one")
    taken = {
        host.uuid: one.uuid
        for one in rolls.unended(connection)
        for host in (*one.under_way, *(() if one.called_off_at else one.waiting))
    }
    for host in sorted(roll.hosts, key=lambda host: host.uuid):
        now = fleet.host(connection, host.uuid, lock=True)
        if not fit(now):
            state = f"{now.state.value} and {now.status.value}"
            raise WrongState(f"host {now.name}", state, "a host that is enabled and answers")
        if host.uuid in taken:
            raise WrongState(f"host {now.name}", f"part of roll {taken[host.uuid]}", "that it is called off, or over")
    rolls.add(connection, roll)
    failpoint("roll.kept")


def call_off(connection: Connection, uuid: str, now: int) -> Roll:
    """No host is begun any more, and who has not left for a seat that is kept stays. Raises NotFound."""
    roll = rolls.get(connection, uuid, lock=True)
    if roll.ended_at or roll.called_off_at:
        return roll
    called = replace(roll, called_off_at=now, reason="")
    rolls.put(connection, called)
    if roll.rebalance:
        rebalances.get(connection, roll.rebalance, lock=True)
        rebalances.call_off(connection, roll.rebalance, now)
        for group in _moving_groups(connection, roll):
            groups.due(connection, group, 0)
    return called


def next_hosts(
    connection: Connection,
    uuid: str,
    batch: Sequence[str],
    planned: Sequence[Group],
    moves: Sequence[RebalanceMove],
    rebalance: str,
    now: int,
) -> Stepped:
    """Close the hosts of the next batch, and ask those to move who can as they run.

    `rebalance`: the uuid of these moves. Raises ClaimLost where a host, a member or the roll is not as it was planned
    for.
    """
    roll = rolls.get(connection, uuid, lock=True)
    waits = {host.uuid for host in roll.waiting}
    if roll.ended_at or roll.called_off_at or roll.under_way or not set(batch) <= waits:
        raise claims.ClaimLost("the roll is not where it was planned for")
    if moves:
        until = now + rebalancing.patience(planned, moves)
        rebalancing.begin(connection, planned, Rebalance(rebalance, tuple(moves), now, until), now)
    failpoint("roll.closing")
    for host in sorted(batch):
        there = fleet.host(connection, host, lock=True)
        if not fit(there):
            raise claims.ClaimLost(f"host {there.name} is {there.state.value} and {there.status.value}")
        fleet.set_state(connection, there, HostState.DISABLED, now)
    hosts = tuple(replace(h, stage=S.MOVING, since=now) if h.uuid in batch else h for h in roll.hosts)
    after = replace(roll, hosts=hosts, rebalance=rebalance if moves else "", reason="")
    rolls.put(connection, after)
    return Stepped(after, {S.MOVING: len(batch)}, tuple(sorted({move.group_uuid for move in moves})))


def why_not(connection: Connection, uuid: str, reason: str) -> None:
    """Tell why the next hosts are not begun."""
    roll = rolls.get(connection, uuid, lock=True)
    if not roll.ended_at and roll.reason != reason:
        rolls.put(connection, replace(roll, reason=reason))


def look(connection: Connection, uuid: str, now: int) -> Stepped:
    """Take each host that is under way as far as it may go now. Raises NotFound."""
    roll = rolls.get(connection, uuid, lock=True)
    if roll.ended_at:
        return Stepped(roll, {})
    there = fleet.hosts(connection, [host.uuid for host in roll.hosts])
    moving = _moving_groups(connection, roll) if any(h.stage is S.MOVING for h in roll.hosts) else ()
    touched: list[str] = []
    hosts = tuple(_host(connection, roll, h, there.get(h.uuid), bool(moving), touched, now) for h in roll.hosts)
    after = replace(roll, hosts=hosts)
    left = after.under_way or (after.waiting and not roll.called_off_at)
    after = after if left else replace(after, ended_at=now, reason="")
    if after != roll:
        rolls.put(connection, after)
    before = {h.uuid: h.stage for h in roll.hosts}
    came = [h.stage for h in hosts if h.stage is not before[h.uuid]]
    return Stepped(after, {stage: came.count(stage) for stage in set(came)}, tuple(touched))


def _moving_groups(connection: Connection, roll: Roll) -> tuple[str, ...]:
    """The groups with members that are still on the way for the roll's moves."""
    if not roll.rebalance:
        return ()
    try:
        moves = rebalances.get(connection, roll.rebalance).moves
    except NotFound:
        return ()
    there = groups.load_many(connection, sorted({move.group_uuid for move in moves}))
    return tuple(group.uuid for group in there if any(m.room == roll.rebalance for m in group.instances))


def _host(
    connection: Connection, roll: Roll, host: RollHost, there: Host | None, moving: bool, touched: list[str], now: int
) -> RollHost:
    """A host of the roll as it is after this step. `moving`: somebody is still on the way to a seat that is kept."""
    if host.stage is S.DONE or (host.stage is S.WAITING and there is not None):
        return host
    if there is None:
        return replace(host, stage=S.DONE, since=now, reason="it has left the fleet")
    if there.state is HostState.ENABLED:
        early = "" if host.stage is S.DRAINED else "it was enabled before it was empty"
        return replace(host, stage=S.DONE, since=now, reason=early)
    match host.stage:
        case S.MOVING:
            return _moved(connection, roll, host, there, moving, touched, now)
        case S.DRAINING:
            return _drained(connection, host, there, now)
        case _:
            return _enabled(connection, roll, host, there, now)


def _moved(
    connection: Connection, roll: Roll, host: RollHost, there: Host, moving: bool, touched: list[str], now: int
) -> RollHost:
    if moving:
        return host
    if roll.called_off_at:
        _enable(connection, there, now)
        return replace(host, stage=S.DONE, since=now, reason="the roll was called off before it was empty")
    failpoint("roll.emptying")
    touched += empty(connection, there, Evicted(there.uuid, live=True))
    return replace(host, stage=S.DRAINING, since=now)


def _drained(connection: Connection, host: RollHost, there: Host, now: int) -> RollHost:
    if there.state is not HostState.MAINTENANCE:
        return replace(host, stage=S.DONE, since=now, reason="its maintenance was ended before it was empty")
    load = of_hosts(connection, [there.uuid])[there.uuid]
    if load.members or load.stale_claims:
        return host
    return replace(host, stage=S.DRAINED, since=now, boot_id=there.boot_id)


def _enabled(connection: Connection, roll: Roll, host: RollHost, there: Host, now: int) -> RollHost:
    """One that is empty: enabled by the service where it was seen to have been started anew."""
    restarted = there.boot_id and there.boot_id != host.boot_id and there.status is HostStatus.CONNECTED
    if roll.wish.enable is not RollEnable.RESTART or not restarted:
        return host
    if there.state is not HostState.MAINTENANCE:
        return host  # its operator has said otherwise
    load = of_hosts(connection, [there.uuid])[there.uuid]
    if load.stale_claims:
        return host
    failpoint("roll.enabling")
    _enable(connection, there, now)
    return replace(host, stage=S.DONE, since=now)


def _enable(connection: Connection, host: Host, now: int) -> None:
    fleet.set_state(connection, host, HostState.ENABLED, now)
    waiting.given_back(connection)
    audit.record(
        connection, principal=PRINCIPAL, project="", method="EnableHost", subject=host.uuid, request_id="", now=now
    )


def uuids(hosts: Iterable[RollHost]) -> tuple[str, ...]:
    """The hosts' uuids."""
    return tuple(host.uuid for host in hosts)

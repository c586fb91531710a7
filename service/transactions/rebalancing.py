"""A rebalance, as transactions: its members are asked to move and their seats booked at once, or nothing
(ARCHITECTURE mechanism 17).

Each mover goes by its own group's worker; its booking ends with its own row's wish. The row of the rebalance only says
how long the moves are wanted: no process has to remember it, and whoever calls it off changes that row alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from service.domain.groups import Group
from service.domain.rebalances import Rebalance, RebalanceMove
from service.failpoints import failpoint
from service.lifecycle.facts import RoomAsked
from service.lifecycle.moving import MOVE_BASE_MS, longest_move
from service.lifecycle.transitions import advance
from service.planning.translate import seat
from service.store import bookings, claims, fleet, groups, rebalances
from service.store.connection import Connection
from service.transactions.changes import apply, refuse_older_copy
from service.transactions.rooms import check_fits, places

WHY = {
    "rule": "it is moved because a rule is broken where it is",
    "load": "it is moved from a host that is fuller",
    "free": "it is moved so that its host becomes free",
    "roll": "its host is to be emptied for maintenance",
}


def patience(planned: Sequence[Group], moves: Sequence[RebalanceMove]) -> int:
    """How long moves are wanted, ms: those of one group go one after another."""
    longest: dict[str, int] = defaultdict(int)
    of = {m.uuid: m for group in planned for m in group.instances}
    for move in moves:
        longest[move.group_uuid] += longest_move(of[move.instance_uuid])
    return MOVE_BASE_MS + max(longest.values(), default=0)


def begin(connection: Connection, planned: Sequence[Group], rebalance: Rebalance, now: int) -> None:
    """Ask all of its members to move. `planned`: their groups as the plan was made for them.

    Raises ClaimLost where one of them, or a host, is not as it was planned for; WrongState while an operator has to
    decide first what becomes of an older database.
    """
    refuse_older_copy(connection, "the fleet", "one")
    expected = {group.uuid: group for group in planned}
    there = {uuid: groups.load(connection, uuid, lock=True) for uuid in sorted(expected)}
    if any(places(there[uuid]) != places(group) for uuid, group in expected.items()):
        raise claims.ClaimLost("a member that counts for the plan has another host since")
    asked: dict[str, list[RoomAsked]] = defaultdict(list)
    for number, move in enumerate(rebalance.moves):
        fact = RoomAsked(move.instance_uuid, move.attempt, rebalance.uuid, number, True, WHY[move.cause])
        group = there[move.group_uuid]
        member = group.instance(move.instance_uuid)
        # One that goes already, for another rebalance or a room, keeps to that.
        asks = not member.room and bool(advance(group, fact, now).instance(member.uuid).room)
        if member.host_uuid != move.source_host_uuid or not asks:
            raise claims.ClaimLost(f"member {member.uuid} cannot be asked to move now")
        asked[move.group_uuid].append(fact)
    _book(connection, rebalance.uuid, [(there[m.group_uuid], m) for m in rebalance.moves])
    rebalances.add(connection, rebalance)
    failpoint("rebalance.kept")
    for uuid in sorted(asked):
        failpoint("rebalance.asking")
        apply(connection, uuid, asked[uuid], now)
        groups.due(connection, uuid, 0)


def _book(connection: Connection, uuid: str, moves: Sequence[tuple[Group, RebalanceMove]]) -> None:
    """A seat for each on the host that it goes to, while all are still where they are. Raises ClaimLost."""
    targets = sorted({move.target_host_uuid for _, move in moves})
    claims.lock_open(connection, targets)
    hosts = fleet.hosts(connection, targets)
    seats = [
        (group.uuid, seat(group.instance(move.instance_uuid), hosts[move.target_host_uuid], move.cells))
        for group, move in moves
    ]
    for host in hosts.values():
        check_fits(host, [s for _, s in seats if s.host_uuid == host.uuid], ())
    bookings.book(connection, uuid, "", seats)

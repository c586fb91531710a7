"""Bugs to plant where room is made for a group, by moves and by groups that end. See `plants`."""

# ruff: noqa: E501  (pieces of source stand here as they stand in the program)

from __future__ import annotations

from tests.simulation.planting import Edit, Plant, one

CLAIMS, CLAIMING, CHANGES = "service.store.claims", "service.transactions.claiming", "service.transactions.changes"
TRANSLATE = "service.planning.translate"

ROOM_PLANTS: tuple[Plant, ...] = (
    one(
        "others claim the room that is made for a group",
        CLAIMS,
        "_RESOURCES.c.used + _RESOURCES.c.booked + _RESOURCES.c.foreign_used",
        "_RESOURCES.c.used + _RESOURCES.c.foreign_used",
        Edit(TRANSLATE, " + host.booked.get(name, 0)", ""),
        theme="room",
    ),
    one(
        "seats stay kept for a group that is not waiting for room any more",
        CHANGES,
        "        bookings.give_back(connection, room.uuid, (seat.instance_uuid for seat in room.placement.assignments))\n",
        "        pass\n",
        theme="room",
    ),
    one(
        "who moves to make room is claimed where it was alone",
        CLAIMING,
        "    beside = claims.take(connection, before.uuid, [seat(member, target, pinned)], alone=alone)\n",
        "    beside = claims.Beside(alone=True, apart=True)\n",
        theme="room",
    ),
    one(
        "who was asked to move goes on though that was called off",
        "service.store.rebalances",
        ", _ROWS.c.called_off_at == 0, ",
        ", ",
        theme="balance",
    ),
    one(
        "the seat of one who does not move after all stays kept",
        CHANGES,
        "            bookings.give_back(connection, member.room, [member.uuid])\n",
        "            pass\n",
        theme="balance",
    ),
    one(
        "members move for a rebalance that is only advised",
        "service.app.rebalancing",
        "plan.moves, now, now, advised=True)\n            rebalances.add(connection, advice)\n",
        "plan.moves, now, now + 60_000, advised=True)\n            rebalancing.begin(connection, plan.groups, advice, now)\n",
        theme="balance",
    ),
    one(
        "a rebalance that is to free hosts makes them evenly full",
        "service.app.rebalancing",
        "            Goal(wish.goal),\n",
        "            Goal.EVEN_LOAD,\n",
        theme="balance",
    ),
    one(
        "who has moved lately is moved again for load",
        "service.app.rebalancing",
        "            frozenset(held),\n",
        "            frozenset(),\n",
        theme="balance",
    ),
    # --- rolls ---
    one(
        "a host of a roll counts as empty while somebody is on it",
        "service.transactions.rolling",
        "    if load.members or load.stale_claims:\n        return host\n    return replace(host, stage=S.DRAINED",
        "    return replace(host, stage=S.DRAINED",
        theme="balance",
    ),
    one(
        "a roll's next hosts are begun before those before them are enabled again",
        "service.transactions.rolling",
        "roll.called_off_at or roll.under_way or not set(batch)",
        "roll.called_off_at or not set(batch)",
        Edit(
            "service.reconcile.rolling",
            "if roll.ended_at or roll.called_off_at or roll.under_way:",
            "if roll.ended_at or roll.called_off_at:",
        ),
        theme="balance",
    ),
    # --- groups that end for others ---
    one(
        "a group ends for one that is no more important",
        "service.domain.preemption",
        "or victim.priority >= group.priority or",
        "or",
        Edit("service.transactions.rooms", "victim.priority >= group.priority or not takes", "not takes"),
        theme="evict",
    ),
    one(
        "a group ends before the time that it was told",
        "service.lifecycle.evicting",
        "and ends and now >= group.eviction.at",
        "and ends",
        theme="evict",
    ),
    one(
        "a group ends before those have moved whose moves need nobody's end",
        "service.transactions.evicting",
        "    if rooms.goes_before(connection, asked):\n        return known\n",
        "",
        theme="evict",
    ),
    one(
        "others claim what groups leave that end for one",
        CLAIMS,
        "_RESOURCES.c.used + _RESOURCES.c.booked + _RESOURCES.c.foreign_used",
        "_RESOURCES.c.used + _RESOURCES.c.foreign_used",
        Edit(TRANSLATE, " + host.booked.get(name, 0)", ""),
        theme="evict",
    ),
    one(
        "who ended for another and may wait is stopped",
        "service.lifecycle.evicting",
        "        restarting=serves and asked.becomes is EvictedTo.WAITING,\n",
        "        restarting=False,\n",
        theme="evict",
    ),
)

"""A roll as the planner is asked for it, and its order as it is carried out.

Whether a member moves as it runs is asked of the drivers only for moves that are planned. Who cannot is stopped and
placed anew, as from every host that is drained.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from placement.model import Assignment, Snapshot
from placement.modes.moves import Move, Neighbours
from placement.modes.plans import Batch
from placement.modes.plans import Roll as Plan
from service.domain.fleet import ANSWERING, Host, HostState
from service.domain.groups import Group, Instance, MoveStage
from service.domain.rebalances import RebalanceMove
from service.domain.rolls import CAUSE, RollWish
from service.lifecycle.members import S
from service.lifecycle.transitions import LAUNCHING
from service.planning import cells, translate
from service.planning.group_rules import stays
from service.planning.neighbours import LiveTargets, movable, on_several

LEAVING = frozenset({S.EVICTING, S.FAILING})
PLAN_SECONDS = 30.0
"""How long an order is looked for, at most."""


@dataclass(frozen=True, slots=True)
class RollPlan:
    """`plan`: as the planner made it, for `hosts` and `groups`; `live`: the members that move as they run."""

    plan: Plan
    hosts: Mapping[str, Host]
    groups: tuple[Group, ...]
    live: frozenset[str]

    def members(self) -> Mapping[str, tuple[Group, Instance]]:
        """The members of the groups, by their uuids."""
        return {m.uuid: (group, m) for group in self.groups for m in group.instances}


def eligible(wish: RollWish, hosts: Mapping[str, Host]) -> tuple[str, ...]:
    """The hosts that a wish means: those that it names; else those of its zone and cluster that are enabled and answer,
    by name."""
    if wish.host_uuids:
        return wish.host_uuids
    found = [
        host
        for host in hosts.values()
        if wish.zone_uuid in ("", host.zone_uuid) and wish.cluster_uuid in ("", host.cluster_uuid) and fit(host)
    ]
    return tuple(host.uuid for host in sorted(found, key=lambda host: (host.name, host.uuid)))


def fit(host: Host) -> bool:
    """Whether a roll may empty it: it is enabled and answers."""
    return host.state is HostState.ENABLED and host.status in ANSWERING


def asked(groups: Sequence[Group], snapshot: Snapshot, hosts: Mapping[str, Host]) -> tuple[Neighbours, ...]:
    """The members that would have to find a seat elsewhere were their hosts emptied, group by group."""
    refused = on_several(snapshot)
    seated = {m.id for host in snapshot.hosts for m in host.members} - refused
    found = (translate.neighbours(group, _homed(group, seated), snapshot, hosts) for group in groups)
    return tuple(one for one in found if one is not None)


def _homed(group: Group, seated: set[str]) -> frozenset[str]:
    if group.phase not in LAUNCHING:
        return frozenset()
    return frozenset(
        m.uuid
        for m in group.instances
        if m.uuid in seated and stays(m) and m.status not in LEAVING and m.move is MoveStage.NONE and not m.room
    )


async def as_they_run(
    groups: Sequence[Group], now: int, live_targets: LiveTargets, batches: Sequence[Batch]
) -> frozenset[str]:
    """The members of these batches that their targets take as they run."""
    free = {m.uuid: (group, m) for group in groups for m in movable(group, now)}
    found = set()
    for batch in batches:
        await asyncio.sleep(0)  # a large fleet's order asks many hosts
        found |= {m.member for m in batch.moves if m.member in free and m.target in live_targets(*free[m.member])}
    return frozenset(found)


def booked(plan: RollPlan, moves: Sequence[Move]) -> tuple[RebalanceMove, ...]:
    """These moves, of members that move as they run, as they are stored."""
    members, found = plan.members(), []
    for move in moves:
        group, member = members[move.member]
        source, target = plan.hosts[move.source], plan.hosts[move.target]
        there = Assignment(member.uuid, target.uuid, move.cells)
        pinned = cells.given([member], [there], plan.hosts, group.spec.placement.numa).get(member.uuid, ())
        found.append(
            RebalanceMove(
                member.uuid, member.attempt, group.uuid, member.spec.name, source.uuid, source.name, target.uuid,
                target.name, member.spec.memory_size, CAUSE, cells=pinned,
            )
        )  # fmt: skip
    return tuple(found)
